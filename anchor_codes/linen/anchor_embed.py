"""Linen twin of the embeddings that are mixtures of a few anchors."""

import numpy as np

from anchor_codes import tables, typing
from anchor_codes.linen import base
from anchor_codes.ops import anchors as anchor_ops


class AnchorEmbed(base.CompactEmbed, kw_only=True):
  """Linen twin of :class:`anchor_codes.nn.AnchorEmbed`.

  >>> import jax
  >>> embed = AnchorEmbed(100, 8, num_anchors=10, num_nonzeros=2)
  >>> variables = embed.init(jax.random.key(0), 3)
  >>> jax.tree.map(lambda array: array.shape, variables)
  {'codes': {'indices': (100, 2)},
   'params': {'anchors': (10, 8), 'weights': (100, 2)}}
  >>> embed.apply(variables, method="to_table")
  AnchorTable(num_embeddings=100, features=8, nbytes=1320)
  """

  num_anchors: int
  num_nonzeros: int | None = 8
  weight_scale: float = 1.0

  def _declare(self) -> None:
    typing.check_at_least("num_anchors", self.num_anchors, 1)
    used = self.num_anchors if self.num_nonzeros is None else self.num_nonzeros
    anchor_ops.check_num_nonzeros(used, self.num_anchors)
    std = anchor_ops.anchor_scale(self.scale / self.weight_scale, used)
    self.anchors = self._normal("anchors", std, self.num_anchors, self.features)

    def rows(key):
      return anchor_ops.random_rows(
        key,
        num_embeddings=self.num_embeddings,
        num_anchors=self.num_anchors,
        num_nonzeros=used,
        scale=self.weight_scale,
      )

    def weights(key):
      return rows(key).weights.astype(self.param_dtype)

    def indices():
      return rows(self.make_rng("params")).indices

    if self.num_nonzeros is None:
      self.transform = self.param("transform", weights)
    else:
      self.indices = self.variable("codes", "indices", indices)
      self.weights = self.param("weights", weights)

  def _rows(self) -> anchor_ops.SparseRows:
    return anchor_ops.SparseRows(self.indices.value, self.weights)

  def _lookup(self, ids: base.Ids) -> base.Vectors:
    if self.num_nonzeros is None:
      return anchor_ops.anchor_lookup(self.transform, self.anchors, ids)
    return anchor_ops.sparse_anchor_lookup(self._rows(), self.anchors, ids)

  def _attend(self, query: base.Vectors) -> base.Scores:
    if self.num_nonzeros is None:
      return anchor_ops.anchor_attend(self.transform, self.anchors, query)
    return anchor_ops.sparse_anchor_attend(self._rows(), self.anchors, query)

  def _to_table(self) -> tables.AnchorTable:
    anchors = np.asarray(self.anchors)
    if self.num_nonzeros is None:
      return tables.AnchorTable(anchors, weights=np.asarray(self.transform))
    indices, weights = map(np.asarray, self._rows())
    return tables.AnchorTable(anchors, weights=weights, indices=indices)
