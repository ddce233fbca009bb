"""Baselines that every comparison needs: low rank, hashing, QR."""

import math

from flax import nnx
from jax import numpy as jnp
from jaxtyping import Array, Float, Int

from anchor_codes import tables, typing
from anchor_codes.nn import base, table_parts
from anchor_codes.ops import anchors as anchor_ops
from anchor_codes.ops import buckets, drawing


class LowRankEmbed(table_parts.FromFactors, base.CompactEmbed):
  r"""Embeds symbols by a product of two factors, :math:`E = P R`.

  Parameters: `projection` [rank, features]; the rows are `factors`
  [num_embeddings, rank].

  Args:
    num_embeddings: Number of symbols.
    features: Width of a vector.
    rank: Inner width, at least 1.
    dtype: Type of the vectors.
    param_dtype: Type of the parameters.
    scale: Standard deviation of an entry of the vectors at the start.
    rngs: Source of randomness of the start.

  Raises:
    ValueError: If a size is not positive.

  >>> embed = LowRankEmbed(100, 8, rank=2, rngs=nnx.Rngs(0))
  >>> embed(jnp.array([[1, 2, 3]])).shape
  (1, 3, 8)
  """

  def __init__(
    self,
    num_embeddings: int,
    features: int,
    *,
    rank: int,
    dtype: base.Dtype | None = None,
    param_dtype: base.Dtype = jnp.float32,
    scale: float = 0.1,
    rngs: nnx.Rngs,
  ):
    super().__init__(num_embeddings, features, dtype=dtype)
    typing.check_at_least("rank", rank, 1)
    # The same scale on both sides lets both learn at the same pace.
    std = math.sqrt(scale / math.sqrt(rank))
    normal = lambda shape: drawing.normal_rows(
      rngs.params(), shape, scale=std, dtype=param_dtype
    )
    self.factors = base.RowParam(normal((num_embeddings, rank)))
    self.projection = nnx.Param(normal((rank, features)))

  def _lookup(
    self, ids: Int[Array, "*batch"]
  ) -> Float[Array, "*batch features"]:
    return anchor_ops.anchor_lookup(
      self.factors[...], self.projection[...], ids
    )

  def _attend(
    self, query: Float[Array, "*batch features"]
  ) -> Float[Array, "*batch num_embeddings"]:
    """Scores all embeddings, through the inner width."""
    return anchor_ops.anchor_attend(
      self.factors[...], self.projection[...], query
    )

  def to_table(self) -> tables.AnchorTable:
    """Returns the artefact: a low-rank table is anchors with dense rows."""
    return tables.AnchorTable(
      base.to_numpy(self.projection), weights=base.to_numpy(self.factors)
    )


class HashEmbed(base.CompactEmbed):
  r"""Embeds symbols as the sum of the buckets that their ids hash to.

  Definition (the hashing trick, Weinberger et al., 2009):
  :math:`e_i = \sum_h B^h[\mathrm{hash}_h(i)]`. Nothing is stored per symbol.

  Parameters: `buckets` [num_hashes, num_buckets, features].

  Args:
    num_embeddings: Number of symbols.
    features: Width of a vector.
    num_buckets: Buckets of each hash function, at least 1.
    num_hashes: Number of hash functions, at least 1.
    seed: Seed of the first hash function, at least 0.
    dtype: Type of the vectors.
    param_dtype: Type of the parameters.
    scale: Standard deviation of an entry of the vectors at the start.
    rngs: Source of randomness of the start.

  Raises:
    ValueError: If an option is outside its range.

  >>> embed = HashEmbed(100, 8, num_buckets=10, rngs=nnx.Rngs(0))
  >>> embed(jnp.array([[1, 2, 3]])).shape
  (1, 3, 8)
  """

  def __init__(
    self,
    num_embeddings: int,
    features: int,
    *,
    num_buckets: int,
    num_hashes: int = 2,
    seed: int = 0,
    dtype: base.Dtype | None = None,
    param_dtype: base.Dtype = jnp.float32,
    scale: float = 0.1,
    rngs: nnx.Rngs,
  ):
    super().__init__(num_embeddings, features, dtype=dtype)
    typing.check_at_least("num_buckets", num_buckets, 1)
    typing.check_at_least("num_hashes", num_hashes, 1)
    typing.check_at_least("seed", seed, 0)
    self.seed = seed
    # Variances of independent buckets add up.
    std = scale / math.sqrt(num_hashes)
    shape = (num_hashes, num_buckets, features)
    self.buckets = nnx.Param(
      drawing.normal_rows(rngs.params(), shape, scale=std, dtype=param_dtype)
    )

  def _lookup(
    self, ids: Int[Array, "*batch"]
  ) -> Float[Array, "*batch features"]:
    return buckets.hash_lookup(
      self.buckets[...],
      ids,
      num_embeddings=self.num_embeddings,
      seed=self.seed,
    )

  def _attend(
    self, query: Float[Array, "*batch features"]
  ) -> Float[Array, "*batch num_embeddings"]:
    """Scores all embeddings: the query meets each bucket only once."""
    return buckets.hash_attend(
      self.buckets[...],
      query,
      num_embeddings=self.num_embeddings,
      seed=self.seed,
    )

  def to_table(self) -> tables.HashTable:
    """Returns the artefact: the buckets."""
    return tables.HashTable(
      base.to_numpy(self.buckets),
      num_embeddings=self.num_embeddings,
      addressing="hash",
      composition="sum",
      seed=self.seed,
    )


class QREmbed(base.CompactEmbed):
  r"""Embeds symbols by the quotient and the remainder of their ids.

  Definition (Shi et al., KDD 2020): with the divisor :math:`m`,
  :math:`e_i = Q[\lfloor i/m \rfloor] \odot R[i \bmod m]`, or the sum of both.
  Symbols share parts, never a whole vector.

  Parameters: `quotients` [ceil(num_embeddings / num_buckets), features] and
  `remainders` [num_buckets, features].

  Args:
    num_embeddings: Number of symbols.
    features: Width of a vector.
    num_buckets: The divisor, at least 1.
    composition: 'product' or 'sum'.
    dtype: Type of the vectors.
    param_dtype: Type of the parameters.
    scale: Standard deviation of an entry of the vectors at the start.
    rngs: Source of randomness of the start.

  Raises:
    ValueError: If an option is outside its range.

  >>> embed = QREmbed(100, 8, num_buckets=10, rngs=nnx.Rngs(0))
  >>> embed(jnp.array([[1, 2, 3]])).shape
  (1, 3, 8)
  """

  def __init__(
    self,
    num_embeddings: int,
    features: int,
    *,
    num_buckets: int,
    composition: str = "product",
    dtype: base.Dtype | None = None,
    param_dtype: base.Dtype = jnp.float32,
    scale: float = 0.1,
    rngs: nnx.Rngs,
  ):
    super().__init__(num_embeddings, features, dtype=dtype)
    typing.check_at_least("num_buckets", num_buckets, 1)
    typing.check_choice("composition", composition, typing.BUCKET_COMPOSITIONS)
    self.composition = composition
    std = buckets.qr_scale(composition, scale)
    normal = lambda rows: drawing.normal_rows(
      rngs.params(), (rows, features), scale=std, dtype=param_dtype
    )
    self.quotients = nnx.Param(normal(-(-num_embeddings // num_buckets)))
    self.remainders = nnx.Param(normal(num_buckets))

  def _lookup(
    self, ids: Int[Array, "*batch"]
  ) -> Float[Array, "*batch features"]:
    return buckets.qr_lookup(
      self.quotients[...],
      self.remainders[...],
      ids,
      num_embeddings=self.num_embeddings,
      composition=self.composition,
    )

  def _attend(
    self, query: Float[Array, "*batch features"]
  ) -> Float[Array, "*batch num_embeddings"]:
    """Scores all embeddings, from the two small tables."""
    return buckets.qr_attend(
      self.quotients[...],
      self.remainders[...],
      query,
      num_embeddings=self.num_embeddings,
      composition=self.composition,
    )

  def to_table(self) -> tables.HashTable:
    """Returns the artefact: the two small tables."""
    return tables.HashTable(
      [base.to_numpy(self.quotients), base.to_numpy(self.remainders)],
      num_embeddings=self.num_embeddings,
      addressing="quotient_remainder",
      composition=self.composition,
    )
