"""Batch normalisation of composed vectors."""

from flax import nnx
from jax import numpy as jnp
from jaxtyping import Array, Bool, Float

from anchor_codes.nn import base, centroid_norm
from anchor_codes.ops import normalization


class OutputNorm(nnx.Module):
  """Normalises each feature over a batch, and scales and shifts it.

  The batch normalisation (Ioffe and Szegedy, ICML 2015) that ends every
  composition in the published code of KD codes (Chen et al., ICML 2018). Out
  of training it is affine, and a table has it in its codebooks.

  Parameters: `scale` and `bias` [features]; the moments are those of a
  :class:`CentroidNorm`, `norm`.

  Args:
    features: Width of a vector.
    momentum: Share of the stored moments that stays at a step.
    epsilon: Added to the variance.
    initial_scale: What the trained scale starts at.
    param_dtype: Type of the parameters and the result.
  """

  def __init__(
    self,
    features: int,
    *,
    momentum: float = 0.99,
    epsilon: float = 1e-3,
    initial_scale: float = 1.0,
    param_dtype: base.Dtype = jnp.float32,
  ):
    self.norm = centroid_norm.CentroidNorm(
      features, momentum=momentum, epsilon=epsilon
    )
    self.scale = nnx.Param(jnp.full(features, initial_scale, param_dtype))
    self.bias = nnx.Param(jnp.zeros(features, param_dtype))

  def __call__(
    self,
    vectors: Float[Array, "*batch features"],
    *,
    deterministic: bool,
    track: bool = True,
    where: Bool[Array, "*batch"] | None = None,
  ) -> Float[Array, "*batch features"]:
    """Normalises vectors.

    Args:
      vectors: Composed vectors.
      deterministic: Whether to use the stored moments.
      track: Whether the moments of the batch move the stored ones.
      where: Mask of what counts for the moments of the batch, all by default.

    Returns:
      Normalised vectors, in the type of the parameters.
    """
    vectors = self.norm(
      vectors, deterministic=deterministic, track=track, where=where
    )
    return normalization.scale_and_shift(
      vectors, self.scale[...], self.bias[...]
    )

  def affine(self) -> normalization.Affine:
    """Returns what the normalisation is out of training."""
    norm = self.norm
    return normalization.normalization_affine(
      normalization.Moments(norm.mean[...], norm.variance[...]),
      scale=self.scale[...],
      bias=self.bias[...],
      epsilon=norm.epsilon,
    )
