"""Rows that are mixtures of a few anchors (Liang et al., ICLR 2021)."""

import dataclasses
from typing import Any, ClassVar

import numpy as np

from anchor_codes.accounting import index_dtype
from anchor_codes.tables import base


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class AnchorTable(base.Table):
  r"""A table whose rows mix the rows of a small matrix of anchors.

  Definition (Liang et al., "Anchor & Transform", ICLR 2021): :math:`e_i =
  \sum_k T_{ik} A_k`. With dense rows this is also the form of a low-rank
  table, whose weights may be negative.

  Attributes:
    anchors: Vectors [num_anchors, features], float32 or float16.
    weights: Weights of the rows, float32 or float16: sparse [num_embeddings,
      num_nonzeros], or dense [num_embeddings, num_anchors] without `indices`.
    indices: The anchor of each weight, integers [num_embeddings,
      num_nonzeros], kept in the smallest unsigned type; None for dense rows.
      An anchor that is there twice counts twice.
    vocabulary: One different string for each row, or None.

  Raises:
    ValueError: If an array has the wrong type or shape, or an index is out of
      range.

  >>> table = AnchorTable(
  ...     np.array([[1, 1], [0, 3]], np.float32),
  ...     weights=np.array([[1, 0], [0.5, 2]], np.float32),
  ...     indices=np.array([[0, 0], [0, 1]]),
  ...     vocabulary=["cat", "dog"],
  ... )
  >>> print(table.lookup([1, 0]))
  [[0.5 6.5]
   [1.  1. ]]
  >>> table.ids_of(["dog"]), table.bits_per_row, table.num_params
  (array([1], dtype=int32), 80, 7)
  """

  kind: ClassVar[str] = "anchors"
  _ROWS: ClassVar = ("weights", "indices")
  _SHARED: ClassVar = ("anchors",)

  anchors: np.ndarray
  _: dataclasses.KW_ONLY
  weights: np.ndarray
  indices: np.ndarray | None = None

  @property
  def num_anchors(self) -> int:
    """Number of anchors."""
    return len(self.anchors)

  @property
  def num_params(self) -> int:
    """Weights that are not zero, and all of the anchors."""
    return int(np.count_nonzero(self.weights)) + self.anchors.size

  def _validate(self, verify: bool) -> None:
    anchors = base.as_array("anchors", self.anchors, ndim=2)
    weights = base.as_array("weights", self.weights, ndim=2)
    indices, num_embeddings = self.indices, len(weights)
    if indices is None:
      shape = (num_embeddings, len(anchors))
      base.check_shape("weights", weights, shape, f"`anchors` {anchors.shape}")
    else:
      indices = _as_indices(indices, len(anchors), verify)
      other = f"`indices` {indices.shape}"
      base.check_shape("weights", weights, indices.shape, other)
    self._set(anchors=anchors, weights=weights, indices=indices)
    self._set(num_embeddings=num_embeddings, features=anchors.shape[1])

  def _compose(self, ids: np.ndarray) -> np.ndarray:
    return self._mix(ids, self.anchors)

  def _score_shared(self, queries: np.ndarray) -> np.ndarray:
    return self.anchors.astype(np.float32) @ queries

  def _score_rows(self, ids: np.ndarray, shared: np.ndarray) -> np.ndarray:
    return self._mix(ids, shared)

  def _mix(self, ids: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Mixes one vector for each anchor: the anchor, or its scores."""
    weights = self.weights[ids].astype(np.float32)
    if self.indices is None:
      return weights @ vectors.astype(np.float32)
    indices = self.indices[ids]
    mixed = np.zeros((len(ids), vectors.shape[1]), np.float32)
    for i in range(indices.shape[1]):
      mixed += weights[:, i, None] * vectors.take(indices[:, i], axis=0)
    return mixed


def _as_indices(indices: Any, num_anchors: int, verify: bool) -> np.ndarray:
  array, dtype = np.asarray(indices), index_dtype(num_anchors)
  if not np.issubdtype(array.dtype, np.integer):
    raise ValueError(f"`indices` must be integers, got {array.dtype}.")
  if array.dtype != dtype or verify:
    bad = (array < 0) | (array >= num_anchors)
    if bad.any():
      raise ValueError(
        f"`indices` must lie in [0, {num_anchors}), the number of anchors, "
        f"got {array[bad][0]}."
      )
  array = array.astype(dtype, copy=False)
  return base.as_array("indices", array, ndim=2, dtypes=(dtype.name,))
