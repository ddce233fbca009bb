"""Linen twin of K-way D-dimensional codes."""

import math

import numpy as np
from jaxtyping import Array, Bool, Float, Int

from anchor_codes import tables, typing
from anchor_codes.linen import base, centroid_norm
from anchor_codes.ops import codes as code_ops
from anchor_codes.ops import indexing, lookups, relaxations


class KDEmbed(base.CompactEmbed, kw_only=True):
  """Linen twin of :class:`anchor_codes.nn.KDEmbed`.

  >>> import jax
  >>> embed = KDEmbed(100, 8, code_length=4, codebook_size=16)
  >>> variables = embed.init(jax.random.key(0), 3)
  >>> jax.tree.map(lambda array: array.shape, variables["params"])
  {'codebooks': (4, 16, 8), 'logits': (100, 4, 16)}
  >>> vectors, moved = embed.apply(variables, [3, 5], mutable=["batch_stats"])
  """

  code_length: int
  codebook_size: int
  composition: typing.Composition = "sum"
  code_features: int | None = None
  shared_codebook: bool = False
  relaxation: typing.Relaxation = "softmax"
  temperature: float = 1.0
  logit_norm: bool = True
  deterministic: bool = False

  def _declare(self) -> None:
    lookups.check_code_options(
      code_length=self.code_length,
      codebook_size=self.codebook_size,
      relaxation=self.relaxation,
      allowed=("softmax", "gumbel"),
      temperature=self.temperature,
    )
    width = typing.code_width(
      self.composition,
      self.features,
      self.code_length,
      code_features=self.code_features,
    )
    size = self.codebook_size
    books = 1 if self.shared_codebook else self.code_length
    terms = 1 if self.composition == "concat" else self.code_length
    std = self.scale / math.sqrt(terms)
    rows = self.num_embeddings, self.code_length
    self.logits = self._normal("logits", 0.1, *rows, size)
    self.codebooks = self._normal("codebooks", std, books, size, width)
    self.projection = None
    if self.composition == "linear":
      std = 1 / math.sqrt(width)
      self.projection = self._normal("projection", std, width, self.features)
    self.norm = centroid_norm.CentroidNorm(size) if self.logit_norm else None

  def codes(self) -> Int[Array, "num_embeddings code_length"]:
    """Returns the code of each symbol, as it is used out of training."""
    logits = self._normalized(self.logits, deterministic=True)
    return code_ops.assign_codes(logits)

  def _lookup(self, ids: base.Ids) -> base.Vectors:
    logits, inside = lookups.gather(self.logits, ids)
    logits = self._normalized(
      logits, deterministic=self.deterministic, where=inside
    )
    if self.relaxation == "gumbel" and not self.deterministic:
      logits = relaxations.perturb_logits(self.make_rng("codes"), logits)
    vectors = relaxations.straight_through_decode(
      logits,
      self.codebooks,
      self.temperature,
      self.composition,
      projection=self.projection,
    )
    size = self.num_embeddings
    return indexing.nan_outside(vectors, ids, num_embeddings=size)

  def _attend(self, query: base.Vectors) -> base.Scores:
    return code_ops.attend_codes(
      query,
      self.codes(),
      self.codebooks,
      self.composition,
      projection=self.projection,
    )

  def _to_table(self) -> tables.CodeTable:
    projection = self.projection
    return tables.CodeTable.from_codes(
      np.asarray(self.codes()),
      np.asarray(self.codebooks),
      composition=self.composition,
      projection=None if projection is None else np.asarray(projection),
    )

  def _normalized(
    self,
    logits: Float[Array, "*batch code_length codebook_size"],
    *,
    deterministic: bool,
    where: Bool[Array, "*batch"] | None = None,
  ) -> Float[Array, "*batch code_length codebook_size"]:
    if self.norm is None:
      return logits
    return self.norm(logits, deterministic=deterministic, where=where)
