"""Linen twins of the baselines: low rank, hashing, QR."""

import math

import numpy as np

from anchor_codes import tables, typing
from anchor_codes.linen import base
from anchor_codes.ops import anchors as anchor_ops
from anchor_codes.ops import buckets as bucket_ops


class LowRankEmbed(base.CompactEmbed, kw_only=True):
  """Linen twin of :class:`anchor_codes.nn.LowRankEmbed`.

  >>> import jax
  >>> variables = LowRankEmbed(100, 8, rank=2).init(jax.random.key(0), 3)
  >>> jax.tree.map(lambda array: array.shape, variables)
  {'params': {'factors': (100, 2), 'projection': (2, 8)}}
  """

  rank: int

  def _declare(self) -> None:
    typing.check_at_least("rank", self.rank, 1)
    std = math.sqrt(self.scale / math.sqrt(self.rank))
    self.factors = self._normal("factors", std, self.num_embeddings, self.rank)
    self.projection = self._normal("projection", std, self.rank, self.features)

  def _lookup(self, ids: base.Ids) -> base.Vectors:
    return anchor_ops.anchor_lookup(self.factors, self.projection, ids)

  def _attend(self, query: base.Vectors) -> base.Scores:
    return anchor_ops.anchor_attend(self.factors, self.projection, query)

  def _to_table(self) -> tables.AnchorTable:
    weights = np.asarray(self.factors)
    return tables.AnchorTable(np.asarray(self.projection), weights=weights)


class HashEmbed(base.CompactEmbed, kw_only=True):
  """Linen twin of :class:`anchor_codes.nn.HashEmbed`.

  >>> import jax
  >>> variables = HashEmbed(100, 8, num_buckets=10).init(jax.random.key(0), 3)
  >>> jax.tree.map(lambda array: array.shape, variables)
  {'params': {'buckets': (2, 10, 8)}}
  """

  num_buckets: int
  num_hashes: int = 2
  seed: int = 0

  def _declare(self) -> None:
    typing.check_at_least("num_buckets", self.num_buckets, 1)
    typing.check_at_least("num_hashes", self.num_hashes, 1)
    typing.check_at_least("seed", self.seed, 0)
    std = self.scale / math.sqrt(self.num_hashes)
    shape = self.num_hashes, self.num_buckets, self.features
    self.buckets = self._normal("buckets", std, *shape)

  def _lookup(self, ids: base.Ids) -> base.Vectors:
    return bucket_ops.hash_lookup(
      self.buckets, ids, num_embeddings=self.num_embeddings, seed=self.seed
    )

  def _attend(self, query: base.Vectors) -> base.Scores:
    return bucket_ops.hash_attend(
      self.buckets, query, num_embeddings=self.num_embeddings, seed=self.seed
    )

  def _to_table(self) -> tables.HashTable:
    return tables.HashTable(
      np.asarray(self.buckets),
      num_embeddings=self.num_embeddings,
      addressing="hash",
      composition="sum",
      seed=self.seed,
    )


class QREmbed(base.CompactEmbed, kw_only=True):
  """Linen twin of :class:`anchor_codes.nn.QREmbed`.

  >>> import jax
  >>> variables = QREmbed(100, 8, num_buckets=20).init(jax.random.key(0), 3)
  >>> jax.tree.map(lambda array: array.shape, variables)
  {'params': {'quotients': (5, 8), 'remainders': (20, 8)}}
  """

  num_buckets: int
  composition: str = "product"

  def _declare(self) -> None:
    typing.check_at_least("num_buckets", self.num_buckets, 1)
    choices = typing.BUCKET_COMPOSITIONS
    typing.check_choice("composition", self.composition, choices)
    std = bucket_ops.qr_scale(self.composition, self.scale)
    rows = -(-self.num_embeddings // self.num_buckets), self.num_buckets
    self.quotients = self._normal("quotients", std, rows[0], self.features)
    self.remainders = self._normal("remainders", std, rows[1], self.features)

  def _lookup(self, ids: base.Ids) -> base.Vectors:
    return bucket_ops.qr_lookup(
      self.quotients,
      self.remainders,
      ids,
      num_embeddings=self.num_embeddings,
      composition=self.composition,
    )

  def _attend(self, query: base.Vectors) -> base.Scores:
    return bucket_ops.qr_attend(
      self.quotients,
      self.remainders,
      query,
      num_embeddings=self.num_embeddings,
      composition=self.composition,
    )

  def _to_table(self) -> tables.HashTable:
    return tables.HashTable(
      [np.asarray(self.quotients), np.asarray(self.remainders)],
      num_embeddings=self.num_embeddings,
      addressing="quotient_remainder",
      composition=self.composition,
    )
