"""How many symbols a page shows, and how their arrays are put into it."""

import base64
import dataclasses
from typing import Any

import numpy as np

from anchor_codes import tables
from anchor_codes.typing import check_at_least

MAX_SYMBOLS = 5000
"""Symbols that a page shows by default."""

_SEARCHED = 10  # Symbols that are searched, for each one that is shown.


@dataclasses.dataclass(frozen=True)
class Scope:
  """Which rows of a table a page knows; the first ones if there are many.

  Attributes:
    size: Rows of the table.
    shown: The first of them can be looked up.
    searched: Among these their neighbours are found, and the symbols that use
      an anchor most.
  """

  size: int
  shown: int
  searched: int

  @classmethod
  def of(cls, table: tables.Table, *, max_symbols: int) -> "Scope":
    """Returns the scope of a table.

    Args:
      table: The table.
      max_symbols: How many symbols to show at most, at least 1.

    >>> vectors = np.eye(30, dtype=np.float32)
    >>> Scope.of(tables.DenseTable(vectors), max_symbols=2)
    Scope(size=30, shown=2, searched=20)
    """
    check_at_least("max_symbols", max_symbols, 1)
    size = table.num_embeddings
    return cls(size, min(size, max_symbols), min(size, _SEARCHED * max_symbols))

  def note(self) -> str:
    """Says in a sentence what is left out."""
    if self.shown == self.size:
      return f"All {self.size:,} symbols are here."
    return (
      f"The first {self.shown:,} of {self.size:,} symbols are here; neighbours "
      f"are sought among the first {self.searched:,}. Sizes, counts and "
      "histograms are those of the whole table."
    )


def pack(array: np.ndarray) -> dict[str, Any]:
  """Writes an array as JSON in less space than its digits take.

  Args:
    array: Integers of at most 32 bits or float32, of one or two axes.

  Returns:
    The name of its type in JavaScript, the length of a row, and the bytes.

  >>> pack(np.uint8([[1, 2], [3, 4]]))
  {'type': 'Uint8Array', 'columns': 2, 'data': 'AQIDBA=='}
  """
  kind = {"u": "Uint", "i": "Int", "f": "Float"}[array.dtype.kind]
  little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
  return {
    "type": f"{kind}{8 * array.itemsize}Array",
    "columns": array.shape[-1],
    "data": base64.b64encode(little.tobytes()).decode(),
  }


def word_of(table: tables.Table, i: int) -> str:
  """Returns the symbol of a row, its id if there are no words."""
  return str(i) if table.vocabulary is None else table.vocabulary[i]
