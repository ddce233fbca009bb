"""Linen twin of differentiable product quantisation."""

from typing import Any

import numpy as np
from jaxtyping import Array, Float, Int

from anchor_codes import tables, typing
from anchor_codes.linen import base, centroid_norm
from anchor_codes.ops import codes as code_ops
from anchor_codes.ops import indexing, lookups


class DPQEmbed(base.CompactEmbed, kw_only=True):
  """Linen twin of :class:`anchor_codes.nn.DPQEmbed`.

  >>> import jax
  >>> embed = DPQEmbed(100, 8, code_length=4, codebook_size=16)
  >>> variables = embed.init(jax.random.key(0), 3)
  >>> jax.tree.map(lambda array: array.shape, variables["params"])
  {'codebooks': (4, 16, 2), 'keys': (4, 16, 2), 'queries': (100, 8)}
  >>> vectors, moved = embed.apply(variables, [3, 5], mutable=["batch_stats"])
  """

  code_length: int
  codebook_size: int
  shared_codebook: bool = False
  relaxation: typing.Relaxation = "softmax"
  temperature: float = 1.0
  score_norm: bool = True
  deterministic: bool = False

  def _declare(self) -> None:
    lookups.check_code_options(
      code_length=self.code_length,
      codebook_size=self.codebook_size,
      relaxation=self.relaxation,
      allowed=("softmax", "nearest"),
      temperature=self.temperature,
    )
    width = typing.code_width("concat", self.features, self.code_length)
    size = self.codebook_size
    books = 1 if self.shared_codebook else self.code_length
    std, rows = self.scale, self.num_embeddings
    self.queries = self._normal("queries", std, rows, self.features)
    self.codebooks = self._normal("codebooks", std, books, size, width)
    self.keys = None
    if self.relaxation == "softmax":
      self.keys = self._normal("keys", std, books, size, width)
    self.norm = centroid_norm.CentroidNorm(size) if self.score_norm else None

  def auxiliary_loss(self, inputs: Any) -> Float[Array, ""]:
    """Returns what draws codebooks to queries, for 'nearest'; zero else."""
    if self.relaxation != "nearest":
      return super().auxiliary_loss(inputs)
    queries, inside = lookups.gather(self.queries, self._as_ids(inputs))
    scores = self._scores(
      queries, deterministic=self.deterministic, where=inside, track=False
    )
    return lookups.quantization_loss(
      queries, scores, self.codebooks, where=inside
    )

  def codes(self) -> Int[Array, "num_embeddings code_length"]:
    """Returns the code of each symbol, as it is used out of training."""
    return code_ops.assign_codes(self._scores(self.queries, deterministic=True))

  def _lookup(self, ids: base.Ids) -> base.Vectors:
    queries, inside = lookups.gather(self.queries, ids)
    scores = self._scores(
      queries, deterministic=self.deterministic, where=inside
    )
    vectors = lookups.quantize(
      queries,
      scores,
      self.codebooks,
      relaxation=self.relaxation,
      temperature=self.temperature,
    )
    size = self.num_embeddings
    return indexing.nan_outside(vectors, ids, num_embeddings=size)

  def _attend(self, query: base.Vectors) -> base.Scores:
    return code_ops.attend_codes(query, self.codes(), self.codebooks, "concat")

  def _to_table(self) -> tables.CodeTable:
    codes, codebooks = np.asarray(self.codes()), np.asarray(self.codebooks)
    return tables.CodeTable.from_codes(codes, codebooks, composition="concat")

  def _scores(
    self, queries: base.Vectors, *, deterministic: bool, **options: Any
  ) -> Float[Array, "*batch code_length codebook_size"]:
    scores = lookups.query_scores(queries, self.codebooks, self.keys)
    if self.norm is None:
      return scores
    return self.norm(scores, deterministic=deterministic, **options)
