"""Normalisation of scores per codebook entry, with moving moments."""

from flax import nnx
from jax import numpy as jnp
from jaxtyping import Array, Bool, Float

from anchor_codes.ops import lookups, normalization


class CentroidNorm(nnx.Module):
  """Normalises scores for each codebook entry over tokens and positions.

  The distance batch norm of Chen et al. (ICML 2020): it acts on the *choice* of
  a code and keeps all entries in use. In training the moments are those of the
  batch, and move the stored ones; otherwise the stored ones are used.

  Args:
    codebook_size: Number of entries of a codebook; or of features, to
      normalise vectors over a batch.
    momentum: Share of the stored moments that stays at a step.
    epsilon: Added to the variance.
  """

  def __init__(
    self,
    codebook_size: int,
    *,
    momentum: float = 0.99,
    epsilon: float = 1e-3,
  ):
    self.mean = nnx.BatchStat(jnp.zeros(codebook_size))
    self.variance = nnx.BatchStat(jnp.ones(codebook_size))
    self.momentum = momentum
    self.epsilon = epsilon

  def __call__(
    self,
    scores: Float[Array, "*batch code_length codebook_size"],
    *,
    deterministic: bool,
    track: bool = True,
    where: Bool[Array, "*batch"] | None = None,
  ) -> Float[Array, "*batch code_length codebook_size"]:
    """Normalises scores.

    Args:
      scores: What the choice of a code is made by.
      deterministic: Whether to use the stored moments.
      track: Whether the moments of the batch move the stored ones.
      where: Mask of what counts for the moments of the batch, all by default.

    Returns:
      The normalised scores.
    """
    scores, moments = lookups.normalize_centroids(
      scores,
      normalization.Moments(self.mean[...], self.variance[...]),
      deterministic=deterministic,
      where=where,
      momentum=self.momentum,
      epsilon=self.epsilon,
    )
    if track and not deterministic:
      self.mean[...], self.variance[...] = moments
    return scores

  def affine(self) -> normalization.Affine:
    """Returns what the normalisation is out of training."""
    moments = normalization.Moments(self.mean[...], self.variance[...])
    return normalization.normalization_affine(moments, epsilon=self.epsilon)
