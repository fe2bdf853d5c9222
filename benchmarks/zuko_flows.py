"""Trains flows of zuko as this library trains its own."""

import copy
import time


def fit(flow, train, validation, batch_size=256, epochs=None):
  """Fits a flow with Adam and keeps the best moving averages of its weights.

  Training takes Adam at 1e-3, clips gradients at norm 5, and stops after 20
  epochs without a better validation loss.

  Args:
    flow: `zuko.flows.Flow`.
    train: Tuple of the rows and, for a conditional flow, their conditions.
    validation: The same.
    batch_size: Number of rows per step.
    epochs: Train for so many epochs instead of stopping early.

  Returns:
    The validation loss in nats, the number of epochs and the seconds.
  """
  import torch
  from torch.optim import swa_utils

  def loss_of(flow, rows, *conditions):
    return -flow(*conditions).log_prob(rows).mean()

  average = swa_utils.AveragedModel(
    flow, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.99)
  )
  optimizer = torch.optim.Adam(flow.parameters(), 1e-3)
  losses, best = [], None
  start = time.perf_counter()
  for _ in range(epochs or 1000):
    for indices in torch.randperm(len(train[0])).split(batch_size):
      optimizer.zero_grad()
      loss_of(flow, *(values[indices] for values in train)).backward()
      torch.nn.utils.clip_grad_norm_(flow.parameters(), 5.0)
      optimizer.step()
      average.update_parameters(flow)
    with torch.no_grad():
      losses.append(loss_of(average.module, *validation).item())
    if losses[-1] == min(losses):
      best = copy.deepcopy(average.module.state_dict())
    if not epochs and len(losses) > 20 + losses.index(min(losses)):
      break
  seconds = time.perf_counter() - start
  flow.load_state_dict(best)
  return {
    'validation_nats': min(losses),
    'epochs': len(losses),
    'seconds': seconds,
  }
