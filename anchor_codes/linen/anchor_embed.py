"""Linen twin of the embeddings that are mixtures of a few anchors."""

from typing import Any

import numpy as np
from jaxtyping import PRNGKeyArray

from anchor_codes import tables
from anchor_codes.linen import base
from anchor_codes.ops import anchor_starts
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
  start: str = "random"

  def _declare(self) -> None:
    # Linen has another key for each variable, so that each makes a start and
    # keeps its own part. The parts are drawn independently: those of different
    # starts go together as well as those of one.
    def start(key: PRNGKeyArray) -> tuple[Any, Any]:
      return anchor_starts.start_anchors(
        key,
        num_embeddings=self.num_embeddings,
        features=self.features,
        num_anchors=self.num_anchors,
        num_nonzeros=self.num_nonzeros,
        scale=self.scale,
        weight_scale=self.weight_scale,
        start=self.start,
      )

    def weights(key: PRNGKeyArray) -> Any:
      rows, _ = start(key)
      weights = rows if self.num_nonzeros is None else rows.weights
      return weights.astype(self.param_dtype)

    def anchors(key: PRNGKeyArray) -> Any:
      return start(key)[1].astype(self.param_dtype)

    def indices() -> Any:
      return start(self.make_rng("params"))[0].indices

    self.anchors = self.param("anchors", anchors)
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
      transform = np.asarray(self.transform)
      # NumPy has no bfloat16.
      dtype = "float16" if transform.dtype == np.float16 else "float32"
      return tables.AnchorTable.from_transform(anchors, transform, dtype=dtype)
    indices, weights = map(np.asarray, self._rows())
    return tables.AnchorTable(anchors, weights=weights, indices=indices)
