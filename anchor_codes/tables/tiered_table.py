"""Some rows kept in one table, all others in another one."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Self

import numpy as np

from anchor_codes.accounting import index_dtype
from anchor_codes.tables import base, checks
from anchor_codes.tables.composite import Composite


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class TieredTable(Composite):
  """A table that keeps its frequent symbols better than the others.

  The memory of frequent symbols is small, their share of the lookups is not
  (Kang et al., "Learning Multi-granular Quantized Embeddings", WWW 2020).

  Attributes:
    hot: A table with a row for each hot symbol, in the order of their ids; of
      any kind, without a vocabulary.
    cold: A table of the other rows, in the order of their ids.
    hot_ids: The ids of the hot symbols, ascending, kept in the smallest
      unsigned type; None if they are the first ones.
    vocabulary: One different string for each row, or None.

  Raises:
    ValueError: If the tables differ in width, or the ids do not fit.

  >>> from anchor_codes.tables.dense_table import DenseTable
  >>> hot = DenseTable(np.float32([[7]]))
  >>> cold = DenseTable(np.float16([[1], [2]]))
  >>> table = TieredTable(hot, cold, hot_ids=[1])
  >>> print(table.to_dense()[:, 0])
  [1. 7. 2.]
  """

  kind: ClassVar[str] = "tiered"
  _CHILDREN: ClassVar = ("hot", "cold")
  _ROWS: ClassVar = ("hot_ids",)

  hot: base.Table
  cold: base.Table
  _: dataclasses.KW_ONLY
  hot_ids: np.ndarray | Sequence[int] | None = None

  @property
  def num_params(self) -> int:
    """Trained numbers of both tables; ids are bytes only."""
    return self.hot.num_params + self.cold.num_params

  def _validate_composite(self, verify: bool) -> None:
    hot, cold = self.hot, self.cold
    if hot.features != cold.features:
      raise ValueError(
        f"`cold` must have {hot.features} features to fit `hot`, got "
        f"{cold.features}."
      )
    num_embeddings = hot.num_embeddings + cold.num_embeddings
    self._set(num_embeddings=num_embeddings, features=hot.features)
    if self.hot_ids is not None:
      # Always, since they are few: ids without order find the wrong rows.
      ids = _as_hot_ids(self.hot_ids, hot.num_embeddings, num_embeddings)
      self._set(hot_ids=ids)

  def _places(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Finds ids: whether they are hot, and their rows in their table."""
    num_hot = self.hot.num_embeddings
    if self.hot_ids is None:
      is_hot = ids < num_hot
      return is_hot, np.where(is_hot, ids, ids - num_hot)
    hot_ids = np.asarray(self.hot_ids)
    below = np.searchsorted(hot_ids, ids.astype(hot_ids.dtype))
    is_hot = hot_ids.take(below, mode="clip") == ids
    return is_hot, np.where(is_hot, below, ids - below)

  def _scatter(
    self,
    ids: np.ndarray,
    width: int,
    compose: Callable[[base.Table, np.ndarray, int], np.ndarray],
  ) -> np.ndarray:
    """Writes what each table gives for its rows, float32 [size, width]."""
    is_hot, rows = self._places(ids)
    composed = np.empty((len(ids), width), np.float32)
    for tier, mask in enumerate((is_hot, ~is_hot)):
      if mask.any():
        table = (self.hot, self.cold)[tier]
        composed[mask] = compose(table, rows[mask], tier)
    return composed

  def _compose(self, ids: np.ndarray) -> np.ndarray:
    compose = lambda table, rows, _: table._compose(rows)
    return self._scatter(ids, self.features, compose)

  def _score_shared(self, queries: np.ndarray) -> Any:
    shared = [t._score_shared(queries) for t in self.children.values()]
    return shared, queries.shape[1]

  def _score_rows(self, ids: np.ndarray, shared: Any) -> np.ndarray:
    tiers, size = shared
    score = lambda table, rows, tier: table._score_rows(rows, tiers[tier])
    return self._scatter(ids, size, score)

  def _encode(self, vectors: np.ndarray) -> Self:
    raise ValueError(
      "Rows of a table with tiers cannot be chosen on their own: a table with "
      "tiers must be the outermost one."
    )

  def _append(self, vectors: np.ndarray) -> Self:
    # New symbols are rare ones.
    cold = self.cold._append(vectors)
    return self._replace(cold=cold)

  def _joined_rows(self, others: Sequence[Any]) -> dict[str, Any]:
    hot_ids, start = [], 0
    for table in (self, *others):
      ids = table.hot_ids
      if ids is None:
        ids = np.arange(table.hot.num_embeddings)
      hot_ids.append(start + np.asarray(ids, np.int64))
      start += table.num_embeddings
    return super()._joined_rows(others) | {"hot_ids": np.concatenate(hot_ids)}


def _as_hot_ids(ids: Any, num_hot: int, num_embeddings: int) -> np.ndarray:
  array = np.asarray(ids)
  if not np.issubdtype(array.dtype, np.integer):
    raise ValueError(f"`hot_ids` must be integers, got {array.dtype}.")
  checks.check_shape("hot_ids", array, (num_hot,), f"`hot` of {num_hot} rows")
  wide = array.astype(np.int64)
  if wide[0] < 0 or wide[-1] >= num_embeddings or (np.diff(wide) <= 0).any():
    raise ValueError(
      f"`hot_ids` must be ascending ids below {num_embeddings}, the number of "
      "rows."
    )
  dtype = index_dtype(num_embeddings)
  array = array.astype(dtype, copy=False)
  return checks.as_array("hot_ids", array, ndim=1, dtypes=[dtype.name])
