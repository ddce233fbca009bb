"""Linen twins of the embeddings by learned codes: KD codes and DPQ."""

import dataclasses
import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen
from jaxtyping import Array, Bool, Float, Int

from anchor_codes import tables, typing
from anchor_codes.linen import base
from anchor_codes.ops import codes as code_ops
from anchor_codes.ops import indexing, lookups, relaxations
from anchor_codes.ops.normalization import Moments

Inside = Bool[Array, "*batch"] | None
CodeScores = Float[Array, "*batch code_length codebook_size"]


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
    scores: CodeScores,
    *,
    deterministic: bool,
    track: bool = True,
    where: Inside = None,
  ) -> CodeScores:
    """Normalises scores."""
    scores, moments = lookups.normalize_centroids(
      scores,
      Moments(self.mean.value, self.variance.value),
      deterministic=deterministic,
      where=where,
      momentum=self.momentum,
      epsilon=self.epsilon,
    )
    mutable = self.is_mutable_collection("batch_stats")
    if track and mutable and not self.is_initializing():
      self.mean.value, self.variance.value = moments
    return scores


class CodeEmbed(base.CompactEmbed, kw_only=True):
  """What KD codes and DPQ share: scores of the rows, normalised."""

  code_length: int
  codebook_size: int
  shared_codebook: bool = False
  relaxation: typing.Relaxation = "softmax"
  temperature: float = 1.0
  deterministic: bool = False

  def codes(self) -> Int[Array, "num_embeddings code_length"]:
    """Returns the code of each symbol, as it is used out of training."""
    scores = self._scores(self.rows, deterministic=True)
    return code_ops.assign_codes(scores)

  def _declare_codes(
    self, relaxations: tuple[str, ...], width: int, norm: bool
  ) -> None:
    lookups.check_code_options(
      code_length=self.code_length,
      codebook_size=self.codebook_size,
      relaxation=self.relaxation,
      allowed=relaxations,
      temperature=self.temperature,
    )
