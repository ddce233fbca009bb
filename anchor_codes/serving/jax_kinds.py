"""The kinds of tables on a device; each composes its rows by the ops."""

import dataclasses
from typing import TypeVar, dataclass_transform

import jax
from jax import numpy as jnp
from jaxtyping import Array, Float, Int, Num, UInt

from anchor_codes import bits
from anchor_codes.ops import anchors, codes
from anchor_codes.serving.jax_base import JaxTable, static, take

T = TypeVar("T")


@dataclass_transform(
  frozen_default=True,
  kw_only_default=True,
  field_specifiers=(dataclasses.field, static),
)
def _pytree(cls: type[T]) -> type[T]:
  """Makes a frozen dataclass a pytree of its fields that are arrays."""
  record = dataclasses.dataclass(
    frozen=True, eq=False, repr=False, kw_only=True
  )(cls)
  return jax.tree_util.register_dataclass(record)


@_pytree
class JaxDenseTable(JaxTable):
  """Rows as they are, or integers with a scale for each row.

  Attributes:
    rows: [num_embeddings, features], or packed.
    scales: Of integers only.
    row_bits: Bits of a packed value, 0 if values are not packed.
  """

  rows: Num[Array, "num_embeddings width"]
  scales: Float[Array, " num_embeddings"] | None = None
  row_bits: int = static(default=0)

  def compose(self, ids: Int[Array, " size"]) -> Float[Array, "size features"]:
    """Returns the rows, times their scales."""
    rows = take(self.rows, ids)
    if self.row_bits:
      digits = bits.unpack_codes(
        rows, code_length=self.features, codebook_size=2**self.row_bits
      )
      rows = digits.astype(jnp.float32) - (2**self.row_bits - 1) / 2
    vectors = rows.astype(jnp.float32)
    if self.scales is None:
      return vectors
    return vectors * take(self.scales, ids).astype(jnp.float32)[:, None]


@_pytree
class JaxAnchorTable(JaxTable):
  """Mixtures of anchors.

  Attributes:
    anchors: float32 [num_anchors, features].
    weights: [num_embeddings, num_nonzeros], or dense rows.
    indices: Of slots only.
    weight_scales: Of int8 weights only.
  """

  anchors: Float[Array, "num_anchors features"]
  weights: Num[Array, "num_embeddings num_weights"]
  indices: UInt[Array, "num_embeddings num_weights"] | None = None
  weight_scales: Float[Array, " num_embeddings"] | None = None

  def compose(self, ids: Int[Array, " size"]) -> Float[Array, "size features"]:
    """Returns the mixtures."""
    weights = self._weights(ids)
    if self.indices is None:
      return weights @ self.anchors
    rows = anchors.SparseRows(take(self.indices, ids), weights)
    return anchors.sparse_anchor_lookup(
      rows, self.anchors, jnp.arange(ids.shape[0], dtype=jnp.int32)
    )

  def score(
    self,
    ids: Int[Array, " size"],
    queries: Float[Array, "num_queries features"],
  ) -> Float[Array, "num_queries size"]:
    """Scores the anchors once, and mixes the scores."""
    weights = self._weights(ids)
    if self.indices is None:
      return anchors.anchor_attend(weights, self.anchors, queries)
    rows = anchors.SparseRows(take(self.indices, ids), weights)
    return anchors.sparse_anchor_attend(rows, self.anchors, queries)

  def _weights(self, ids: Int[Array, " size"]) -> Float[Array, "size _"]:
    weights = take(self.weights, ids).astype(jnp.float32)
    if self.weight_scales is None:
      return weights
    return weights * take(self.weight_scales, ids).astype(jnp.float32)[:, None]


@_pytree
class JaxCodeTable(JaxTable):
  """Codes with their codebooks.

  Attributes:
    packed: The codes, packed as in the file.
    codebooks: float32 [code_length or 1, codebook_size, code_features].
    projection: Of the composition, or None.
    bias: Added to every vector, or None.
    network: Arrays of a composition with a network.
    code_length: Number of digits.
    composition: How vectors become one.
  """

  packed: UInt[Array, "num_embeddings width"]
  codebooks: Float[Array, "_ codebook_size code_features"]
  projection: Float[Array, "width features"] | None = None
  bias: Float[Array, " features"] | None = None
  network: dict[str, Float[Array, "..."]] | None = None
  code_length: int = static()
  composition: str = static()

  def compose(self, ids: Int[Array, " size"]) -> Float[Array, "size features"]:
    """Returns the composed vectors."""
    digits = bits.unpack_codes(
      take(self.packed, ids),
      code_length=self.code_length,
      codebook_size=self.codebooks.shape[1],
    )
    return codes.decode_codes(
      digits,
      self.codebooks,
      self.composition,
      projection=self.projection,
      bias=self.bias,
      network=self.network,
    )


@_pytree
class JaxHashTable(JaxTable):
  """Buckets that are found from the id alone.

  Attributes:
    buckets: One array for each address.
    addressing: 'hash' or 'quotient_remainder'.
    composition: 'sum' or 'product'.
    seed: Seed of the first hash.
  """

  buckets: tuple[Float[Array, "_ features"], ...]
  addressing: str = static()
  composition: str = static()
  seed: int = static(default=0)

  def compose(self, ids: Int[Array, " size"]) -> Float[Array, "size features"]:
    """Returns the sums or products of the buckets."""
    if self.addressing == "quotient_remainder":
      addresses = list(jnp.divmod(ids, self.buckets[1].shape[0]))
    else:
      addresses = [
        bits.hash_ids(ids, num_buckets=len(array), seed=self.seed + i)
        for i, array in enumerate(self.buckets)
      ]
    first, *others = (
      take(array, address).astype(jnp.float32)
      for array, address in zip(self.buckets, addresses, strict=True)
    )
    for other in others:
      first = first + other if self.composition == "sum" else first * other
    return first


@_pytree
class JaxProjectedTable(JaxTable):
  """Vectors of another table, times a matrix.

  Attributes:
    inner: The other table.
    projection: float32 [inner.features, features].
    bias: Added to every vector, or None.
  """

  inner: JaxTable
  projection: Float[Array, "width features"]
  bias: Float[Array, " features"] | None = None

  def compose(self, ids: Int[Array, " size"]) -> Float[Array, "size features"]:
    """Returns the projected vectors."""
    vectors = self.inner.compose(ids) @ self.projection
    return vectors if self.bias is None else vectors + self.bias[None, :]

  def score(
    self,
    ids: Int[Array, " size"],
    queries: Float[Array, "num_queries features"],
  ) -> Float[Array, "num_queries size"]:
    """Projects the queries, not the rows."""
    scores = self.inner.score(ids, queries @ self.projection.T)
    return (
      scores if self.bias is None else scores + (queries @ self.bias)[:, None]
    )


@_pytree
class JaxScaledTable(JaxTable):
  """Vectors of another table, each times a norm.

  Attributes:
    inner: The other table.
    norms: The norms, or their levels.
    levels: float32 [256] if the norms are levels.
  """

  inner: JaxTable
  norms: Num[Array, " num_embeddings"]
  levels: Float[Array, " 256"] | None = None

  def compose(self, ids: Int[Array, " size"]) -> Float[Array, "size features"]:
    """Returns the scaled vectors."""
    return self._norms(ids)[:, None] * self.inner.compose(ids)

  def score(
    self,
    ids: Int[Array, " size"],
    queries: Float[Array, "num_queries features"],
  ) -> Float[Array, "num_queries size"]:
    """Scales the scores."""
    return self._norms(ids)[None, :] * self.inner.score(ids, queries)

  def _norms(self, ids: Int[Array, " size"]) -> Float[Array, " size"]:
    norms = take(self.norms, ids)
    if self.levels is not None:
      norms = take(self.levels, norms)
    return norms.astype(jnp.float32)


@_pytree
class JaxSumTable(JaxTable):
  """Vectors of two tables, added up.

  Attributes:
    first: One table.
    second: The other one.
  """

  first: JaxTable
  second: JaxTable

  def compose(self, ids: Int[Array, " size"]) -> Float[Array, "size features"]:
    """Returns the sums."""
    return self.first.compose(ids) + self.second.compose(ids)

  def score(
    self,
    ids: Int[Array, " size"],
    queries: Float[Array, "num_queries features"],
  ) -> Float[Array, "num_queries size"]:
    """Adds the scores."""
    return self.first.score(ids, queries) + self.second.score(ids, queries)


@_pytree
class JaxTieredTable(JaxTable):
  """Rows of two tables; both are composed, and one is chosen for each id.

  Attributes:
    hot: The table of some rows.
    cold: That of the others.
    hot_ids: The ids of the first, ascending; None for the first ids.
  """

  hot: JaxTable
  cold: JaxTable
  hot_ids: Int[Array, " num_hot"] | None = None

  def compose(self, ids: Int[Array, " size"]) -> Float[Array, "size features"]:
    """Returns the rows of their tables."""
    is_hot, hot, cold = self._places(ids)
    return jnp.where(
      is_hot[:, None], self.hot.compose(hot), self.cold.compose(cold)
    )

  def score(
    self,
    ids: Int[Array, " size"],
    queries: Float[Array, "num_queries features"],
  ) -> Float[Array, "num_queries size"]:
    """Scores by both tables, and chooses."""
    is_hot, hot, cold = self._places(ids)
    return jnp.where(
      is_hot[None, :],
      self.hot.score(hot, queries),
      self.cold.score(cold, queries),
    )

  def _places(self, ids: Int[Array, " size"]) -> tuple[Array, Array, Array]:
    """Tells which ids are hot, and a row in range of each table."""
    num_hot, num_cold = self.hot.num_embeddings, self.cold.num_embeddings
    if self.hot_ids is None:
      is_hot, below = ids < num_hot, jnp.minimum(ids, num_hot)
    else:
      below = jnp.searchsorted(self.hot_ids, ids).astype(ids.dtype)
      below = below.astype(ids.dtype)
      is_hot = take(self.hot_ids, jnp.minimum(below, num_hot - 1)) == ids
    hot = jnp.clip(below, 0, num_hot - 1)
    return is_hot, hot, jnp.clip(ids - below, 0, num_cold - 1)
