"""Linen twin of the batch normalisation of composed vectors."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import linen
from jaxtyping import Array, Bool, Float

from anchor_codes.linen import base, centroid_norm
from anchor_codes.ops import normalization


class OutputNorm(linen.Module):
  """Linen twin of :class:`anchor_codes.nn.OutputNorm`.

  >>> norm, key = OutputNorm(2), jax.random.key(0)
  >>> variables = norm.init(key, jnp.ones((5, 2)), deterministic=True)
  >>> {name: array.tolist() for name, array in variables["params"].items()}
  {'scale': [1.0, 1.0], 'bias': [0.0, 0.0]}
  """

  features: int
  _: dataclasses.KW_ONLY
  momentum: float = 0.99
  epsilon: float = 1e-3
  initial_scale: float = 1.0
  param_dtype: base.Dtype = jnp.float32

  def setup(self) -> None:
    """Declares the parameters and the moments."""
    self.norm = centroid_norm.CentroidNorm(
      self.features, momentum=self.momentum, epsilon=self.epsilon
    )
    shape, dtype = (self.features,), self.param_dtype
    start = jax.nn.initializers.constant(self.initial_scale)
    self.scale = self.param("scale", start, shape, dtype)
    self.bias = self.param("bias", jax.nn.initializers.zeros, shape, dtype)

  def __call__(
    self,
    vectors: Float[Array, "*batch features"],
    *,
    deterministic: bool,
    track: bool = True,
    where: Bool[Array, "*batch"] | None = None,
  ) -> Float[Array, "*batch features"]:
    """Normalises vectors."""
    vectors = self.norm(
      vectors, deterministic=deterministic, track=track, where=where
    )
    return normalization.scale_and_shift(vectors, self.scale, self.bias)

  def affine(self) -> normalization.Affine:
    """Returns what the normalisation is out of training."""
    norm = self.norm
    return normalization.normalization_affine(
      normalization.Moments(norm.mean.value, norm.variance.value),
      scale=self.scale,
      bias=self.bias,
      epsilon=norm.epsilon,
    )
