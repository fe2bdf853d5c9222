"""Real NVP as TensorFlow Probability bijectors."""

from tfp_realnvp import visualization as visualization
from tfp_realnvp.bijectors.affine_coupling import AffineCoupling
from tfp_realnvp.bijectors.batch_norm import BatchNormBijector
from tfp_realnvp.bijectors.couplings import AffineCouplings
from tfp_realnvp.bijectors.couplings import SplineCouplings
from tfp_realnvp.bijectors.factor_out import FactorOut
from tfp_realnvp.bijectors.flow_bijector import FlowBijector
from tfp_realnvp.bijectors.logit_transform import LogitTransform
from tfp_realnvp.bijectors.mask import channel_mask
from tfp_realnvp.bijectors.mask import checkerboard_mask
from tfp_realnvp.bijectors.real_nvp_chain import RealNVPChain
from tfp_realnvp.bijectors.spline_coupling import SplineCoupling
from tfp_realnvp.bijectors.squeeze import Squeeze
from tfp_realnvp.networks.coupling_network import NetworkSpec
from tfp_realnvp.networks.dense import DenseNetworks
from tfp_realnvp.networks.moving_statistics import BatchNormOptions
from tfp_realnvp.networks.residual import ResidualNetworks
from tfp_realnvp.paper.presets import DataOptions
from tfp_realnvp.paper.presets import Preset
from tfp_realnvp.paper.presets import preset
from tfp_realnvp.paper.presets import TrainingOptions
from tfp_realnvp.pixels import bits_per_dim
from tfp_realnvp.saved_model import export_saved_model
from tfp_realnvp.training.callbacks import EvaluationStatistics
from tfp_realnvp.training.checkpoints import Checkpoints
from tfp_realnvp.training.density_estimator import DensityEstimator

__all__ = [
  'AffineCoupling',
  'AffineCouplings',
  'BatchNormBijector',
  'BatchNormOptions',
  'Checkpoints',
  'DataOptions',
  'DenseNetworks',
  'DensityEstimator',
  'EvaluationStatistics',
  'FactorOut',
  'FlowBijector',
  'LogitTransform',
  'NetworkSpec',
  'Preset',
  'RealNVPChain',
  'ResidualNetworks',
  'SplineCoupling',
  'SplineCouplings',
  'Squeeze',
  'TrainingOptions',
  'bits_per_dim',
  'channel_mask',
  'checkerboard_mask',
  'export_saved_model',
  'preset',
]

__version__ = '0.1.0'
