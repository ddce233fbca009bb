"""Rows that are mixtures of a few anchors (Liang et al., ICLR 2021)."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np

from anchor_codes.accounting import index_dtype
from anchor_codes.tables import anchor_rows, base, checks, pursuit, rounding
from anchor_codes.typing import check_choice

_DTYPES = (*checks.FLOATS, "int8")


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
    anchors: Vectors [num_anchors, features], float32, float16 or int8.
    weights: Weights of the rows, float32, float16 or int8.
    indices: The anchor of each weight in slots, integers, kept in the smallest
      unsigned type. An anchor that is there twice counts twice.
    masks: uint8 [num_embeddings, ceil(num_anchors / 8)]: bit k of a row, the
      lowest of a byte first, tells whether `weights` has its weight of anchor
      k.
    weight_scales: For int8 weights, s float32 or float16 [num_embeddings]: the
      weights of row i are :math:`s_i` times its integers.
    anchor_scales: For int8 anchors, float32 [num_anchors], likewise.
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
  _ROWS: ClassVar = ("weights", "indices", "masks", "weight_scales")
  _SHARED: ClassVar = ("anchors", "anchor_scales")

  anchors: np.ndarray
  _: dataclasses.KW_ONLY
  weights: np.ndarray
  indices: np.ndarray | None = None
  masks: np.ndarray | None = None
  weight_scales: np.ndarray | None = None
  anchor_scales: np.ndarray | None = None

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
    check_choice("dtype", dtype, checks.FLOATS)
    anchors = checks.as_array("anchors", anchors, ndim=2)
    transform = checks.as_array("transform", transform, ndim=2)
    shape = (len(transform), len(anchors))
    other = f"`anchors` {anchors.shape}"
    checks.check_shape("transform", transform, shape, other)
    rows = anchor_rows.smallest_rows(checks.cast("transform", transform, dtype))
    anchors = checks.cast("anchors", anchors, dtype)
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
    anchors = checks.as_array("anchors", self.anchors, ndim=2, dtypes=_DTYPES)
    scales = checks.as_scales(
      "anchor_scales", self.anchor_scales, anchors, of="anchors"
    )
    self._set(anchors=anchors, anchor_scales=scales, features=anchors.shape[1])
    if self.masks is not None:
      self._validate_masked(verify)
    else:
      self._validate_unmasked(verify)
    scales = checks.as_scales(
      "weight_scales",
      self.weight_scales,
      self.weights,
      of="weights",
      dtypes=checks.FLOATS,
      size=self.num_embeddings,
    )
    self._set(weight_scales=scales)

  def _validate_unmasked(self, verify: bool) -> None:
    weights = checks.as_array("weights", self.weights, ndim=2, dtypes=_DTYPES)
    self._set(weights=weights, num_embeddings=len(weights))
    if self.indices is None:
      shape = (len(weights), self.num_anchors)
      other = f"`anchors` {self.anchors.shape}"
    else:
      indices = _as_indices(self.indices, self.num_anchors, verify)
      self._set(indices=indices)
      shape, other = indices.shape, f"`indices` {indices.shape}"
    checks.check_shape("weights", weights, shape, other)

  def _validate_masked(self, verify: bool) -> None:
    if self.indices is not None:
      raise ValueError("`masks` must be given without `indices`, got both.")
    weights = checks.as_array(
      "weights", self.weights, ndim=1, dtypes=_DTYPES, may_be_empty=True
    )
    masks = checks.as_array("masks", self.masks, ndim=2, dtypes=("uint8",))
    shape = (len(masks), -(-self.num_anchors // 8))
    other = f"`anchors` {self.anchors.shape}"
    checks.check_shape("masks", masks, shape, other)
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

  @functools.cached_property
  def _vectors(self) -> np.ndarray:
    """The anchors in float32, which are few beside the rows."""
    anchors = self.anchors.astype(np.float32, copy=False)
    scales = self.anchor_scales
    return anchors if scales is None else anchors * scales[:, None]

  def _compose(self, ids: np.ndarray) -> np.ndarray:
    return self._mix(ids, self._vectors)

  def _compose_into(self, ids: np.ndarray, vectors: np.ndarray) -> None:
    self._mix(ids, self._vectors, vectors)

  def _score_shared(self, queries: np.ndarray) -> np.ndarray:
    return self._vectors @ queries

  def _score_rows(self, ids: np.ndarray, shared: np.ndarray) -> np.ndarray:
    return self._mix(ids, shared)

  def _mix(
    self, ids: np.ndarray, vectors: np.ndarray, mixed: np.ndarray | None = None
  ) -> np.ndarray:
    """Mixes one vector for each anchor: the anchor, or its scores."""
    if mixed is None:
      mixed = np.empty((len(ids), vectors.shape[1]), np.float32)
    if self.indices is None:
      return np.matmul(self._dense_rows(ids), vectors, out=mixed)
    indices, weights = self.indices.take(ids, axis=0), self._weights_of(ids)
    if indices.size and indices.max() >= self.num_anchors:
      raise IndexError(
        f"index {indices.max()} is out of range for {self.num_anchors} "
        "anchors: the table is damaged."
      )
    anchor_rows.mix_slots(vectors, indices, weights, mixed)
    return mixed

  def _weights_of(self, ids: np.ndarray) -> np.ndarray:
    """Returns the weights of some rows that are not masked, in float32."""
    weights = self.weights.take(ids, axis=0).astype(np.float32, copy=False)
    return weights if self.weight_scales is None else weights * self._scale(ids)

  def _scale(self, ids: np.ndarray) -> np.ndarray:
    """Returns the scales of some rows of integers, float32 [size, 1]."""
    scales = self.tensors["weight_scales"].take(ids)[:, None]
    return scales.astype(np.float32, copy=False)

  def _dense_rows(self, ids: np.ndarray) -> np.ndarray:
    """Returns float32 [size, num_anchors] for rows of any form."""
    if self.masks is not None:
      dense = anchor_rows.expand_masked(
        self.masks[ids],
        self.weights,
        self._offsets[ids],
        num_anchors=self.num_anchors,
      )
      return dense if self.weight_scales is None else dense * self._scale(ids)
    weights = self._weights_of(ids)
    if self.indices is None:
      return weights
    dense = np.zeros((len(ids), self.num_anchors), np.float32)
    # Not by assignment: an anchor that is there twice counts twice.
    np.add.at(dense, (np.arange(len(ids))[:, None], self.indices[ids]), weights)
    return dense

  def _encode(self, vectors: np.ndarray) -> Self:
    indices, weights = self._weights_for(vectors)
    scales = self.weight_scales
    if scales is None:
      weights = checks.cast("weights", weights, self.weights.dtype.name)
    else:
      weights, scales = rounding.round_rows(
        weights, "int8", scale_dtype=scales.dtype.name
      )
    rows = {"weights": weights, "indices": indices}
    if self.masks is not None and indices is not None:
      rows = anchor_rows.masked_slots(weights, indices, self.num_anchors)
    return self._replace(**rows, weight_scales=scales)

  def _weights_for(
    self, vectors: np.ndarray
  ) -> tuple[np.ndarray | None, np.ndarray]:
    """Finds rows near some vectors: slots, or weights of all anchors."""
    if self.masks is not None:  # As many as a row has in the mean.
      num_nonzeros = max(1, -(-self.weights.size // self.num_embeddings))
    elif self.indices is not None:
      num_nonzeros = self.indices.shape[1]
    else:
      return None, vectors @ np.linalg.pinv(self._vectors)
    return pursuit.sparse_weights(
      vectors,
      self._vectors,
      num_nonzeros=num_nonzeros,
      non_negative=bool(self.weights.min(initial=0) >= 0),
    )


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
  return checks.as_array("indices", array, ndim=2, dtypes=(dtype.name,))
