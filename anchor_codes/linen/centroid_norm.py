"""Linen twin of the normalisation of scores per codebook entry."""

import dataclasses

import jax.numpy as jnp
from flax import linen
from jaxtyping import Array, Bool, Float

from anchor_codes.ops import lookups, normalization


class CentroidNorm(linen.Module):
  """Linen twin of :class:`anchor_codes.nn.CentroidNorm`.

  >>> norm = CentroidNorm(2)
  >>> norm.init({}, jnp.ones((5, 3, 2)), deterministic=True)
  {'batch_stats': {'mean': Array([0., 0.], dtype=float32),
                   'variance': Array([1., 1.], dtype=float32)}}
  """

  codebook_size: int
  _: dataclasses.KW_ONLY
  momentum: float = 0.99
  epsilon: float = 1e-3

  def setup(self) -> None:
    """Declares the moments."""
    size, stats = self.codebook_size, "batch_stats"
    self.mean = self.variable(stats, "mean", jnp.zeros, size)
    self.variance = self.variable(stats, "variance", jnp.ones, size)

  def __call__(
    self,
    scores: Float[Array, "*batch code_length codebook_size"],
    *,
    deterministic: bool,
    track: bool = True,
    where: Bool[Array, "*batch"] | None = None,
  ) -> Float[Array, "*batch code_length codebook_size"]:
    """Normalises scores."""
    scores, moments = lookups.normalize_centroids(
      scores,
      normalization.Moments(self.mean.value, self.variance.value),
      deterministic=deterministic,
      where=where,
      momentum=self.momentum,
      epsilon=self.epsilon,
    )
    # `init` runs the layer too, but on an example, not on data; a collection
    # that is not mutable would refuse to be written.
    mutable = self.is_mutable_collection("batch_stats")
    if track and mutable and not self.is_initializing():
      self.mean.value, self.variance.value = moments
    return scores

  def affine(self) -> normalization.Affine:
    """Returns what the normalisation is out of training."""
    moments = normalization.Moments(self.mean.value, self.variance.value)
    return normalization.normalization_affine(moments, epsilon=self.epsilon)
