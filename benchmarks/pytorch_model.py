"""Real NVP for images in PyTorch, to compare speed with.

The architecture of `RealNVPChain`, written as PyTorch is commonly written:
modules that give value and log-det together, activations in channels-last
memory, weight normalization in `forward`, plain batch normalization.
"""

import math

import torch
from torch import nn
from torch.nn import functional

_EPSILON = 1e-4
_ALPHA = 0.05


class _Convolution(nn.Module):
  """Weight-normalized convolution."""

  def __init__(self, channels, features, size, magnitude=None, bias=False):
    super().__init__()
    self.kernel = nn.Parameter(
      0.05 * torch.randn(features, channels, size, size)
    )
    self.magnitude = self.bias = None
    if magnitude is not None:
      self.magnitude = nn.Parameter(torch.full([features, 1, 1, 1], magnitude))
    if bias:
      self.bias = nn.Parameter(torch.zeros(features))

  def forward(self, x):
    norm = torch.linalg.vector_norm(self.kernel, dim=(1, 2, 3), keepdim=True)
    kernel = self.kernel / norm
    if self.magnitude is not None:
      kernel = kernel * self.magnitude
    return functional.conv2d(x, kernel, self.bias, padding='same')


class _BatchNorm(nn.BatchNorm2d):
  """Batch normalization without a scale."""

  def __init__(self, channels):
    super().__init__(channels, eps=_EPSILON, momentum=0.1)
    self.weight.requires_grad_(False)


class _ResidualBlock(nn.Module):
  def __init__(self, features):
    super().__init__()
    self.layers = nn.Sequential(
      _BatchNorm(features),
      nn.ReLU(),
      _Convolution(features, features, 3),
      _BatchNorm(features),
      nn.ReLU(),
      _Convolution(features, features, 3, magnitude=0.5),
    )

  def forward(self, x):
    return x + self.layers(x)


class _Network(nn.Module):
  """Residual network with a skip sum, to shift and log-scale."""

  def __init__(self, channels, changed, features, blocks, masked, magnitude):
    super().__init__()
    self.input_norm = _BatchNorm(channels)
    self.input = _Convolution(2 * channels + masked, features, 3)
    self.blocks = nn.ModuleList(_ResidualBlock(features) for _ in range(blocks))
    self.skips = nn.ModuleList(
      _Convolution(features, features, 1, magnitude=0.5)
      for _ in range(blocks + 1)
    )
    self.output = nn.Sequential(
      _BatchNorm(features),
      nn.ReLU(),
      _Convolution(features, 2 * changed, 1, magnitude=0.3, bias=True),
    )
    self.magnitude = nn.Parameter(torch.tensor(magnitude))

  def forward(self, x, mask=None):
    x = self.input_norm(x)
    parts = [x, -x]
    if mask is not None:
      parts.append(mask.expand(len(x), 1, -1, -1))
    x = self.input(torch.relu(torch.cat(parts, dim=1)))
    skip_sum = self.skips[0](x)
    for block, skip in zip(self.blocks, self.skips[1:]):
      x = block(x)
      skip_sum = skip_sum + skip(x)
    shift, raw = self.output(skip_sum).float().chunk(2, dim=1)
    return shift, self.magnitude * torch.tanh(raw)


class _FlowBatchNorm(nn.Module):
  def __init__(self, channels):
    super().__init__()
    self.register_buffer('mean', torch.zeros(channels))
    self.register_buffer('variance', torch.ones(channels))

  def forward(self, x, inverse):
    if self.training:
      variance, mean = torch.var_mean(x, dim=(0, 2, 3), correction=0)
      with torch.no_grad():
        self.mean.lerp_(mean, 0.1)
        self.variance.lerp_(variance, 0.1)
    else:
      mean, variance = self.mean, self.variance
    mean, log_stddev = mean[:, None, None], torch.log(variance + _EPSILON) / 2
    stddev = torch.exp(log_stddev)[:, None, None]
    log_det = -log_stddev.sum() * x.shape[2] * x.shape[3]
    if inverse:
      return x * stddev + mean, -log_det
    return (x - mean) / stddev, log_det


class _CheckerboardCoupling(nn.Module):
  def __init__(self, channels, features, blocks, parity, size):
    super().__init__()
    rows, columns = torch.arange(size)[:, None], torch.arange(size)
    mask = ((rows + columns) % 2 == parity).float()[None, None]
    self.register_buffer('mask', mask)
    self.network = _Network(channels, channels, features, blocks, True, 0.0)

  def forward(self, x, inverse):
    shift, log_scale = self.network(x * self.mask, self.mask)
    shift, log_scale = shift * (1 - self.mask), log_scale * (1 - self.mask)
    if inverse:
      y = (x - shift) * torch.exp(-log_scale)
    else:
      y = x * torch.exp(log_scale) + shift
    log_det = log_scale.sum(dim=(1, 2, 3))
    return y, -log_det if inverse else log_det


class _ChannelCoupling(nn.Module):
  def __init__(self, channels, features, blocks, parity):
    super().__init__()
    self.parity = parity
    half = channels // 2
    self.network = _Network(half, half, features, blocks, False, 1.0)

  def forward(self, x, inverse):
    halves = list(x.chunk(2, dim=1))
    kept, changed = halves if self.parity else halves[::-1]
    shift, log_scale = self.network(kept)
    if inverse:
      changed = (changed - shift) * torch.exp(-log_scale)
    else:
      changed = changed * torch.exp(log_scale) + shift
    parts = [kept, changed] if self.parity else [changed, kept]
    log_det = log_scale.sum(dim=(1, 2, 3))
    return torch.cat(parts, dim=1), -log_det if inverse else log_det


class _Squeeze(nn.Module):
  """Into channels, in checkerboard order."""

  def forward(self, x, inverse):
    if inverse:
      count, channels, height, width = x.shape
      pixels = x.reshape(count, 4, channels // 4, height, width)
      y = x.new_empty(count, channels // 4, 2 * height, 2 * width)
      for i, (row, column) in enumerate(((0, 0), (1, 1), (0, 1), (1, 0))):
        y[:, :, row::2, column::2] = pixels[:, i]
      y = y.contiguous(memory_format=torch.channels_last)
    else:
      parts = (
        x[..., row::2, column::2]
        for row, column in ((0, 0), (1, 1), (0, 1), (1, 0))
      )
      y = torch.cat(list(parts), dim=1)
    return y, 0.0


class _Shuffle(nn.Module):
  """Into channels, in ordinary order; with `undo`, out of them."""

  def __init__(self, undo=False):
    super().__init__()
    self.undo = undo

  def forward(self, x, inverse):
    shuffle = functional.pixel_unshuffle
    if inverse != self.undo:
      shuffle = functional.pixel_shuffle
    return shuffle(x, 2).contiguous(memory_format=torch.channels_last), 0.0


class _Sequence(nn.Module):
  def __init__(self, *layers):
    super().__init__()
    self.layers = nn.ModuleList(layers)

  def forward(self, x, inverse=False):
    total = 0.0
    for layer in reversed(self.layers) if inverse else self.layers:
      x, log_det = layer(x, inverse)
      total = total + log_det
    return x, total


class _FactorOut(nn.Module):
  def __init__(self, onward):
    super().__init__()
    self.squeeze = _Squeeze()
    self.onward = onward

  def forward(self, x, inverse):
    x, latent = self.squeeze(x, False)[0].chunk(2, dim=1)
    x, log_det = self.onward(x, inverse)
    return self.squeeze(torch.cat([x, latent], dim=1), True)[0], log_det


class RealNVP(nn.Module):
  """`log_prob` of pixels `[N, 3, H, W]` on [0, 256), and `sample`.

  With `bfloat16`, convolutions compute in it by automatic mixed precision.
  """

  def __init__(
    self, size, num_scales, num_blocks, hidden_channels, bfloat16=False
  ):
    super().__init__()
    self.size = size
    self.bfloat16 = bfloat16
    self.flow = _scales(3, size, num_scales, num_blocks, hidden_channels)

  def log_prob(self, x):
    slope = (1 - 2 * _ALPHA) / 256
    p = _ALPHA + slope * x
    log_p, log_1mp = torch.log(p), torch.log(1 - p)
    log_det = (math.log(slope) - log_p - log_1mp).sum(dim=(1, 2, 3))
    with self._precision():
      z, flow_log_det = self.flow(log_p - log_1mp)
    normal = -0.5 * (z**2 + math.log(2 * math.pi)).sum(dim=(1, 2, 3))
    return normal + flow_log_det + log_det

  def sample(self, count):
    z = torch.randn(count, 3, self.size, self.size)
    z = z.contiguous(memory_format=torch.channels_last)
    with self._precision():
      x, _ = self.flow(z, inverse=True)
    return (torch.sigmoid(x) - _ALPHA) * 256 / (1 - 2 * _ALPHA)

  def _precision(self):
    return torch.autocast('cpu', torch.bfloat16, enabled=self.bfloat16)

  def compile_networks(self):
    """Compiles each network; those of the same shapes share their code.

    The whole flow would take several minutes to compile, for the sake of a few
    operations between networks.
    """
    torch._dynamo.config.recompile_limit = 100  # One for each shape and mode.
    for module in self.modules():
      if isinstance(module, _Network):
        module.compile(dynamic=False, fullgraph=True)

  def scale_parameters(self):
    return [p for name, p in self.named_parameters() if 'magnitude' in name]


def _scales(channels, size, num_scales, blocks, features):
  def checkerboard(count):
    for i in range(count):
      yield _CheckerboardCoupling(channels, features, blocks, (i + 1) % 2, size)
      yield _FlowBatchNorm(channels)

  def channelwise(count):
    for i in range(count):
      yield _ChannelCoupling(4 * channels, 2 * features, blocks, (i + 1) % 2)
      yield _FlowBatchNorm(4 * channels)

  if num_scales == 1:
    return _Sequence(*checkerboard(4))
  onward = _scales(
    2 * channels, size // 2, num_scales - 1, blocks, 2 * features
  )
  return _Sequence(
    *checkerboard(3),
    _Shuffle(),
    *channelwise(3),
    _Shuffle(undo=True),
    _FactorOut(onward),
  )


class Trainer:
  """Training steps by Adam, as `examples/train.py` makes them."""

  def __init__(self, model, l2_coefficient=5e-5, clip_norm=100.0):
    self.model = model
    self.clip_norm = clip_norm
    self.l2_coefficient = l2_coefficient
    self.scale_parameters = model.scale_parameters()
    self.parameters = [p for p in model.parameters() if p.requires_grad]
    self.optimizer = torch.optim.Adam(self.parameters, lr=1e-3, fused=True)

  def step(self, images):
    """Takes a step on uint8 images `[N, 3, H, W]`; returns the loss."""
    self.model.train()
    x = images.float()
    x = x + torch.rand_like(x)
    loss = -self.model.log_prob(x).mean()
    squares = sum((p**2).sum() for p in self.scale_parameters)
    loss = loss + self.l2_coefficient * squares
    self.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(self.parameters, self.clip_norm)
    self.optimizer.step()
    return loss.item()
