"""Rows that are mixtures of a few anchors (Liang et al., ICLR 2021)."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np

from anchor_codes.accounting import index_dtype
from anchor_codes.tables import anchor_rows, base
from anchor_codes.typing import check_choice


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class AnchorTable(base.Table):
  r"""A table whose rows mix the rows of a small matrix of anchors.

  Definition (Liang et al., "Anchor & Transform", ICLR 2021): :math:`e_i =
  \sum_k T_{ik} A_k`. With dense rows this is also the form of a low-rank
  table, whose weights may be negative.

  Rows come in three forms, of which :meth:`from_transform` finds the smallest:

  * dense: `weights` [num_embeddings, num_anchors] alone;
  * slots, as many for each row: `weights` and `indices` [num_embeddings,
    num_nonzeros];
  * masked, of any number of non-zeros: `weights` [num_nonzeros of the whole
    table], row by row, and `masks`. A lookup counts the bits of all rows first,
    but once only, and keeps 8 bytes for each row.

  Attributes:
    anchors: Vectors [num_anchors, features], float32 or float16.
    weights: Weights of the rows, float32 or float16.
    indices: The anchor of each weight in slots, integers, kept in the smallest
      unsigned type. An anchor that is there twice counts twice.
    masks: uint8 [num_embeddings, ceil(num_anchors / 8)]: bit k of a row, the
      lowest of a byte first, tells whether `weights` has its weight of anchor
      k.
    vocabulary: One different string for each row, or None.

  Raises:
    ValueError: If an array has the wrong type or shape, an index is out of
      range, or the masks have more or fewer bits than there are weights. With
      ``verify=False`` the last is raised by the first lookup.

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
  _ROWS: ClassVar = ("weights", "indices", "masks")
  _SHARED: ClassVar = ("anchors",)

  anchors: np.ndarray
  _: dataclasses.KW_ONLY
  weights: np.ndarray
  indices: np.ndarray | None = None
  masks: np.ndarray | None = None

  @classmethod
  def from_transform(
    cls,
    anchors: Any,
    transform: Any,
    *,
    dtype: str = "float32",
    vocabulary: Sequence[str] | None = None,
  ) -> Self:
    """Keeps dense rows in the form that takes the fewest bytes.

    Args:
      anchors: Vectors [num_anchors, features].
      transform: Weights [num_embeddings, num_anchors]. What is not zero stays
        so, unless `dtype` has nothing that small.
      dtype: Type of anchors and weights, 'float32' or 'float16'.
      vocabulary: One different string for each row, or None.

    Returns:
      A table with dense rows, slots or masks; the first of these that is not
      larger than another.

    Raises:
      ValueError: If an array has the wrong type or shape, or a value is too
        large for `dtype`.

    >>> transform = np.eye(20, dtype=np.float32)
    >>> transform[0, :5] = 1
    >>> table = AnchorTable.from_transform(transform, transform)
    >>> list(table.tensors), table.bits_per_row
    (['weights', 'masks', 'anchors'], 63)
    """
    check_choice("dtype", dtype, base.FLOATS)
    anchors = base.as_array("anchors", anchors, ndim=2)
    transform = base.as_array("transform", transform, ndim=2)
    shape = (len(transform), len(anchors))
    other = f"`anchors` {anchors.shape}"
    base.check_shape("transform", transform, shape, other)
    rows = anchor_rows.smallest_rows(base.cast("transform", transform, dtype))
    anchors = base.cast("anchors", anchors, dtype)
    return cls(anchors, **rows, vocabulary=vocabulary)

  @property
  def num_anchors(self) -> int:
    """Number of anchors."""
    return len(self.anchors)

  @property
  def num_params(self) -> int:
    """Weights that are not zero, and all of the anchors."""
    return int(np.count_nonzero(self.weights)) + self.anchors.size

  def to_transform(self) -> np.ndarray:
    """Returns the dense rows, float32 [num_embeddings, num_anchors]."""
    return self._dense_rows(np.arange(self.num_embeddings))

  def _validate(self, verify: bool) -> None:
    anchors = base.as_array("anchors", self.anchors, ndim=2)
    self._set(anchors=anchors, features=anchors.shape[1])
    if self.masks is not None:
      self._validate_masked(verify)
      return
    weights = base.as_array("weights", self.weights, ndim=2)
    self._set(weights=weights, num_embeddings=len(weights))
    if self.indices is None:
      shape, other = (len(weights), len(anchors)), f"`anchors` {anchors.shape}"
    else:
      indices = _as_indices(self.indices, len(anchors), verify)
      self._set(indices=indices)
      shape, other = indices.shape, f"`indices` {indices.shape}"
    base.check_shape("weights", weights, shape, other)

  def _validate_masked(self, verify: bool) -> None:
    if self.indices is not None:
      raise ValueError("`masks` must be given without `indices`, got both.")
    weights = base.as_array("weights", self.weights, ndim=1, may_be_empty=True)
    masks = base.as_array("masks", self.masks, ndim=2, dtypes=("uint8",))
    shape = (len(masks), -(-self.num_anchors // 8))
    other = f"`anchors` {self.anchors.shape}"
    base.check_shape("masks", masks, shape, other)
    self._set(weights=weights, masks=masks, num_embeddings=len(masks))
    if verify:
      _ = self._offsets  # Raises what is wrong with the masks.

  @functools.cached_property
  def _offsets(self) -> np.ndarray:
    return anchor_rows.mask_offsets(
      self.tensors["masks"],
      num_anchors=self.num_anchors,
      num_weights=len(self.weights),
    )

  def _compose(self, ids: np.ndarray) -> np.ndarray:
    return self._mix(ids, self.anchors)

  def _score_shared(self, queries: np.ndarray) -> np.ndarray:
    return self.anchors.astype(np.float32) @ queries

  def _score_rows(self, ids: np.ndarray, shared: np.ndarray) -> np.ndarray:
    return self._mix(ids, shared)

  def _mix(self, ids: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Mixes one vector for each anchor: the anchor, or its scores."""
    if self.indices is None:
      return self._dense_rows(ids) @ vectors.astype(np.float32)
    weights, indices = self.weights[ids].astype(np.float32), self.indices[ids]
    mixed = np.zeros((len(ids), vectors.shape[1]), np.float32)
    # Slot by slot: the vectors of all slots at once would not fit the cache.
    for i in range(indices.shape[1]):
      mixed += weights[:, i, None] * vectors.take(indices[:, i], axis=0)
    return mixed

  def _dense_rows(self, ids: np.ndarray) -> np.ndarray:
    """Returns float32 [size, num_anchors] for rows of any form."""
    if self.masks is not None:
      return anchor_rows.expand_masked(
        self.masks[ids],
        self.weights,
        self._offsets[ids],
        num_anchors=self.num_anchors,
      )
    weights = self.weights[ids].astype(np.float32)
    if self.indices is None:
      return weights
    dense = np.zeros((len(ids), self.num_anchors), np.float32)
    # Not by assignment: an anchor that is there twice counts twice.
    np.add.at(dense, (np.arange(len(ids))[:, None], self.indices[ids]), weights)
    return dense


def _as_indices(indices: Any, num_anchors: int, verify: bool) -> np.ndarray:
  array, dtype = np.asarray(indices), index_dtype(num_anchors)
  if not np.issubdtype(array.dtype, np.integer):
    raise ValueError(f"`indices` must be integers, got {array.dtype}.")
  # A cast would wrap a bad index around, so that it is looked for first. What
  # is of the right type may be mapped, and stays unread if so asked.
  if array.dtype != dtype or verify:
    bad = (array < 0) | (array >= num_anchors)
    if bad.any():
      raise ValueError(
        f"`indices` must lie in [0, {num_anchors}), the number of anchors, "
        f"got {array[bad][0]}."
      )
  array = array.astype(dtype, copy=False)
  return base.as_array("indices", array, ndim=2, dtypes=(dtype.name,))
