"""Which symbols use which anchors."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from anchor_codes import tables
from anchor_codes.report.components import Component
from anchor_codes.report.scope import Scope, pack
from anchor_codes.tables import parts

_ANCHORS = 12  # The heaviest anchors of a symbol that are shown.
_MEMBERS = 30  # The heaviest symbols of an anchor.
_ALL_MEMBERS = 60_000  # Of all anchors together: a page stays small.


class AnchorUse(NamedTuple):
  """How symbols mix anchors.

  Attributes:
    name: Where the anchors are in the table.
    num_nonzeros: Weights of each row that are not zero, the whole table's.
    uses: Symbols that use each anchor, of the whole table.
    symbols: The ids of the symbols shown that have anchors [shown].
    indices: The heaviest anchors of these [shown, count].
    weights: Their weights, float32; 0 where there are fewer.
    members: The symbols that use each anchor most [num_anchors, count].
    member_weights: Their weights, float32; 0 where there are fewer.
  """

  name: str
  num_nonzeros: np.ndarray
  uses: np.ndarray
  symbols: np.ndarray
  indices: np.ndarray
  weights: np.ndarray
  members: np.ndarray
  member_weights: np.ndarray

  def to_json(self) -> dict[str, Any]:
    """Returns what the page needs to show anchors and symbols."""
    arrays = self._asdict()
    for name in ("name", "num_nonzeros"):
      del arrays[name]
    packed = {name: pack(array) for name, array in arrays.items()}
    return {"kind": "anchors", "name": self.name, **packed}


def measure_anchors(component: Component, scope: Scope) -> AnchorUse:
  """Measures how a table uses its anchors.

  Args:
    component: A table of anchors.
    scope: Which symbols are shown and searched.

  >>> anchors = np.eye(2, dtype=np.float32)
  >>> table = tables.AnchorTable(anchors, weights=np.float32([[0, 2], [1, 3]]))
  >>> use = measure_anchors(Component("", table, np.arange(2)), Scope(2, 2, 2))
  >>> print(use.num_nonzeros, use.uses, use.indices[1], use.members[1, :2])
  [1 2] [1 2] [1 0] [1 0]
  """
  table, rows = component.table, component.rows
  assert isinstance(table, tables.AnchorTable)
  indices, weights = _slots(table)
  searched = np.searchsorted(rows, scope.searched)
  shown = np.searchsorted(rows, scope.shown)
  some = _scaled(weights[:searched], table.weight_scales)
  its_anchors = indices[:searched] if indices is not None else None
  heaviest = _heaviest_anchors(its_anchors, some[:shown])
  members = _heaviest_members(its_anchors, some, table.num_anchors)
  found, member_weights = members
  return AnchorUse(
    name=component.name,
    num_nonzeros=np.count_nonzero(weights, axis=1),
    uses=_count_uses(indices, weights, table.num_anchors),
    symbols=rows[:shown].astype(np.int32),
    indices=heaviest[0].astype(np.int32),
    weights=heaviest[1],
    # Places among the rows of the component become ids of the whole table.
    members=rows[found].astype(np.int32),
    member_weights=member_weights,
  )


def _slots(table: tables.AnchorTable) -> tuple[np.ndarray | None, np.ndarray]:
  """Returns indices, None for all anchors in order, and stored weights."""
  if table.indices is None and table.masks is None:
    return None, table.weights
  slots = parts.anchor_slots(table)
  return slots.indices, slots.weights


def _scaled(weights: np.ndarray, scales: np.ndarray | None) -> np.ndarray:
  return parts.to_float(
    weights, None if scales is None else scales[: len(weights)]
  )


def _count_uses(
  indices: np.ndarray | None, weights: np.ndarray, num_anchors: int
) -> np.ndarray:
  if indices is None:
    counts = np.count_nonzero(weights, axis=0)
  else:
    counts = np.bincount(indices[weights != 0], minlength=num_anchors)
  return counts.astype(np.int32)


def _heaviest_anchors(
  indices: np.ndarray | None, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  order = np.argsort(-np.abs(weights), axis=1, kind="stable")[:, :_ANCHORS]
  heaviest = np.take_along_axis(weights, order, axis=1)
  if indices is not None:
    order = np.take_along_axis(indices[: len(weights)], order, axis=1)
  return order, heaviest


def _heaviest_members(
  indices: np.ndarray | None, weights: np.ndarray, num_anchors: int
) -> tuple[np.ndarray, np.ndarray]:
  """Returns rows and weights [num_anchors, count], padded with zeros."""
  count = max(3, min(_MEMBERS, _ALL_MEMBERS // num_anchors))
  rows = np.zeros((num_anchors, count), np.int64)
  heaviest = np.zeros((num_anchors, count), np.float32)
  users = _users(indices, weights, num_anchors)
  for anchor, (its_rows, its_weights) in enumerate(users):
    best = np.argsort(-np.abs(its_weights), kind="stable")[:count]
    rows[anchor, : len(best)] = its_rows[best]
    heaviest[anchor, : len(best)] = its_weights[best]
  return rows, heaviest


def _users(
  indices: np.ndarray | None, weights: np.ndarray, num_anchors: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Yields the rows that use each anchor, and their weights."""
  if indices is None:
    for column in weights.T:
      used = np.flatnonzero(column)
      yield used, column[used]
    return
  rows, slots = np.nonzero(weights)
  anchors = indices[rows, slots]
  order = np.argsort(anchors, kind="stable")
  ends = np.cumsum(np.bincount(anchors, minlength=num_anchors))[:-1]
  values = weights[rows, slots][order]
  yield from zip(
    np.split(rows[order], ends), np.split(values, ends), strict=True
  )
