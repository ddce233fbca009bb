"""Linen twin of differentiable product quantisation."""

from typing import Any

import numpy as np
from jax import numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from anchor_codes import tables, typing
from anchor_codes.linen import base, centroid_norm
from anchor_codes.linen import temperature as tempering
from anchor_codes.ops import codes as code_ops
from anchor_codes.ops import indexing, lookups, normalization, quantization


class DPQEmbed(base.CompactEmbed, kw_only=True):
  """Linen twin of :class:`anchor_codes.nn.DPQEmbed`.

  Starts and revivals of codebooks are functions of its variables:
  :func:`anchor_codes.ops.start_entries` and
  :func:`anchor_codes.ops.revive_entries`.

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
  tied: bool | None = None
  temperature: float | typing.Schedule = 1.0
  codebook_weight: float = 1.0
  commitment_weight: float = 0.0
  score_norm: bool = True
  deterministic: bool = False

  def _declare(self) -> None:
    lookups.check_code_options(
      code_length=self.code_length,
      codebook_size=self.codebook_size,
      relaxation=self.relaxation,
      allowed=quantization.RELAXATIONS,
      temperature=self.temperature,
    )
    quantization.check_quantization_options(
      relaxation=self.relaxation,
      codebook_weight=self.codebook_weight,
      commitment_weight=self.commitment_weight,
    )
    width = typing.code_width("concat", self.features, self.code_length)
    size = self.codebook_size
    books = 1 if self.shared_codebook else self.code_length
    std, rows = self.scale, self.num_embeddings
    self.queries = self._normal("queries", std, rows, self.features)
    self.codebooks = self._normal("codebooks", std, books, size, width)
    self.keys = None
    if not self._is_tied:
      self.keys = self._normal("keys", std, books, size, width)
    self.norm = centroid_norm.CentroidNorm(size) if self.score_norm else None
    self.tempering = tempering.Temperature(self.temperature)

  def auxiliary_loss(self, inputs: Any) -> Float[Array, ""]:
    """Returns what draws keys and queries to each other; 0 for 'softmax'."""
    if self.relaxation != "nearest":
      return super().auxiliary_loss(inputs)
    queries, inside = lookups.gather(self.queries, self._as_ids(inputs))
    # The lookup has moved the moments already: a batch counts once.
    scores = self._scores(queries, inside, track=False)
    return quantization.quantization_loss(
      queries,
      scores,
      self._keys,
      codebook_weight=self.codebook_weight,
      commitment_weight=self.commitment_weight,
      where=inside,
    )

  def codes(self) -> Int[Array, "num_embeddings code_length"]:
    """Returns the code of each symbol, as it is used out of training."""
    lookups.check_finite_rows("queries", self.queries)
    options = {}
    if self.norm is not None:
      mean, variance = self.norm.mean.value, self.norm.variance.value
      options["moments"] = normalization.Moments(mean, variance)
      options["epsilon"] = self.norm.epsilon
    return quantization.query_codes(
      self.queries, self._keys, relaxation=self.relaxation, **options
    )

  def _lookup(self, ids: base.Ids) -> base.Vectors:
    queries, inside = lookups.gather(self.queries, ids)
    vectors = quantization.quantize(
      queries,
      self._scores(queries, inside),
      self.codebooks,
      relaxation=self.relaxation,
      temperature=self.tempering(deterministic=self.deterministic),
      tied=self._is_tied,
    )
    size = self.num_embeddings
    return indexing.nan_outside(vectors, ids, num_embeddings=size)

  def _attend(self, query: base.Vectors) -> base.Scores:
    return code_ops.attend_codes(query, self.codes(), self.codebooks, "concat")

  def _to_table(self) -> tables.CodeTable:
    codes, codebooks = np.asarray(self.codes()), np.asarray(self.codebooks)
    return tables.CodeTable.from_codes(codes, codebooks, composition="concat")

  @property
  def _is_tied(self) -> bool:
    return self.relaxation == "nearest" if self.tied is None else self.tied

  @property
  def _keys(self) -> Float[Array, "#code_length codebook_size code_features"]:
    return self.codebooks if self.keys is None else self.keys

  def _scores(
    self, queries: base.Vectors, where: Bool[Array, "*batch"], **options: Any
  ) -> Float[Array, "code_length *batch codebook_size"]:
    scores = quantization.query_scores(
      queries, self._keys, relaxation=self.relaxation
    )
    if self.norm is None:
      return scores
    options["where"] = jnp.broadcast_to(where, scores.shape[:-1])
    return self.norm(scores, deterministic=self.deterministic, **options)
