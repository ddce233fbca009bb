"""Which digits the codes of symbols use."""

from typing import Any, NamedTuple

import numpy as np

from anchor_codes import tables
from anchor_codes.report.components import Component
from anchor_codes.report.scope import Scope, pack

_VALUES = 64  # The most used values of a digit that are shown.
_DIGITS = 64  # The first digits that are shown.


class CodeUse(NamedTuple):
  """How symbols use the entries of codebooks.

  Attributes:
    name: Where the codes are in the table.
    code_length: Number of digits.
    codebook_size: Number of values that a digit can take.
    unused: Entries of all digits that no symbol uses.
    num_codes: Different codes in the whole table.
    symbols: The ids of the symbols shown that have codes [shown].
    codes: Their first digits, in the smallest type [shown, digits].
    values: The most used values of each digit [digits, count]; in order if
      there are few.
    uses: Symbols of the whole table that use these [digits, count].
    entry_uses: Symbols that use each entry, of all digits.
  """

  name: str
  code_length: int
  codebook_size: int
  unused: int
  num_codes: int
  symbols: np.ndarray
  codes: np.ndarray
  values: np.ndarray
  uses: np.ndarray
  entry_uses: np.ndarray

  def to_json(self) -> dict[str, Any]:
    """Returns what the page needs to show digits and symbols."""
    names = ("symbols", "codes", "values", "uses")
    packed = {name: pack(getattr(self, name)) for name in names}
    return {
      "kind": "codes",
      "name": self.name,
      "codeLength": self.code_length,
      "codebookSize": self.codebook_size,
      **packed,
    }


def measure_codes(component: Component, scope: Scope) -> CodeUse:
  """Measures how a table uses its codebooks.

  Args:
    component: A table of codes.
    scope: Which symbols are shown.

  >>> table = tables.CodeTable.from_codes(
  ...     [[0, 1], [1, 1]], np.ones((2, 2, 1), np.float32), composition="sum"
  ... )
  >>> use = measure_codes(Component("", table, np.arange(2)), Scope(2, 2, 2))
  >>> print(use.uses, use.unused, use.num_codes)
  [[1 1]
   [0 2]] 1 2
  """
  table = component.table
  assert isinstance(table, tables.CodeTable)
  codes, size = table.codes, table.codebook_size
  uses = np.array([np.bincount(digit, minlength=size) for digit in codes.T])
  shown_uses = uses[:_DIGITS]
  values = _most_used(shown_uses)
  shown = np.searchsorted(component.rows, scope.shown)
  return CodeUse(
    name=component.name,
    code_length=table.code_length,
    codebook_size=size,
    unused=int(np.count_nonzero(uses == 0)),
    num_codes=_count_distinct(table.packed),
    symbols=component.rows[:shown].astype(np.int32),
    codes=codes[:shown, :_DIGITS],
    values=values.astype(np.int32),
    uses=np.take_along_axis(shown_uses, values, axis=1).astype(np.int32),
    entry_uses=uses.reshape(-1),
  )


def _most_used(uses: np.ndarray) -> np.ndarray:
  if uses.shape[1] <= _VALUES:
    return np.broadcast_to(np.arange(uses.shape[1]), uses.shape)
  return np.argsort(-uses, axis=1, kind="stable")[:, :_VALUES]


def _count_distinct(packed: np.ndarray) -> int:
  # As one item for each row: far faster than to compare along an axis.
  rows = np.ascontiguousarray(packed)
  return len(np.unique(rows.view(f"V{rows.shape[1]}")))
