"""Real NVP as TensorFlow Probability bijectors."""

from tfp_realnvp.affine_coupling import AffineCoupling
from tfp_realnvp.batch_norm import BatchNormBijector
from tfp_realnvp.checkpoints import Checkpoints
from tfp_realnvp.density_estimator import bits_per_dim
from tfp_realnvp.density_estimator import DensityEstimator
from tfp_realnvp.factor_out import FactorOut
from tfp_realnvp.flow_bijector import FlowBijector
from tfp_realnvp.logit_transform import LogitTransform
from tfp_realnvp.mask import channel_mask
from tfp_realnvp.mask import checkerboard_mask
from tfp_realnvp.network import DenseNetwork
from tfp_realnvp.network import ResidualNetwork
from tfp_realnvp.presets import Preset
from tfp_realnvp.presets import preset
from tfp_realnvp.real_nvp_chain import RealNVPChain
from tfp_realnvp.saved_model import export_saved_model
from tfp_realnvp.squeeze import Squeeze

__all__ = [
  'AffineCoupling',
  'BatchNormBijector',
  'Checkpoints',
  'DenseNetwork',
  'DensityEstimator',
  'FactorOut',
  'FlowBijector',
  'LogitTransform',
  'Preset',
  'RealNVPChain',
  'ResidualNetwork',
  'Squeeze',
  'bits_per_dim',
  'channel_mask',
  'checkerboard_mask',
  'export_saved_model',
  'preset',
]

__version__ = '0.1.0'
