"""Interactions of users and items that do not fit in memory.

Three steps lead to batches of ids: :mod:`interactions_sources` reads blocks of
files, this module keeps the rows of one part and turns symbols into ids, and
:mod:`interactions_stream` puts them in an order and shuffles them.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from experiments.datasets import interactions_columns as columns_lib
from experiments.datasets import interactions_ids as ids_lib
from experiments.datasets.interactions_columns import Block, Symbols
from experiments.datasets.interactions_sources import Piece, Source
from experiments.datasets.interactions_splits import Split
from experiments.reporting.progress import progress

Batch = dict[str, np.ndarray]
"""Rows by what their columns are in a model: int32 ids, float64 numbers."""

Encoders = Mapping[str, ids_lib.Encoder]
"""What gives ids to the symbols of each column."""


@dataclasses.dataclass(frozen=True)
class Part:
  """The rows of a source that are for one purpose.

  Attributes:
    source: The files.
    split: What tells the part of each row; all are in part 0 without it.
    number: The part.
  """

  source: Source
  split: Split | None = None
  number: int = 0

  def read(self, piece: Piece) -> Iterator[tuple[np.ndarray, Block]]:
    """Reads the rows of this part in a piece.

    Yields:
      The numbers of some rows in the piece, and the rows.

    Raises:
      ValueError: If the file is damaged, or a value must not be there.
    """
    for first, block, labels in read_labelled(self.source, self.split, piece):
      kept = np.flatnonzero(labels == self.number)
      yield first + kept, columns_lib.select_rows(block, kept)


def read_labelled(
  source: Source, split: Split | None, piece: Piece
) -> Iterator[tuple[int, Block, np.ndarray]]:
  """Reads a piece with the part of each row.

  Args:
    source: The files.
    split: What tells the part of each row; all are in part 0 without it.
    piece: The piece.

  Yields:
    The number of rows before, the next block, and the number of each row's
    part.

  Raises:
    ValueError: If the file is damaged, or a value must not be there.
  """
  for first, block in source.read(piece):
    try:
      number = columns_lib.num_rows(block)
      labels = np.zeros(number, np.int64) if split is None else split(block)
    except columns_lib.BadValueError as error:
      raise source.error(piece, first + error.row, str(error)) from None
    yield first, block, labels


def encode(
  source: Source,
  piece: Piece,
  rows: np.ndarray,
  block: Block,
  encoders: Encoders,
) -> Batch:
  """Turns symbols into ids, or into text where no ids are asked for.

  Args:
    source: The source of the block.
    piece: The piece of the block.
    rows: The number of each row in its piece.
    block: The rows.
    encoders: What gives ids, for each column of symbols that is to have some.

  Returns:
    The rows as arrays.

  Raises:
    ValueError: If a symbol is unknown that must not be; it says where.
  """
  batch = {}
  for role, column in block.items():
    if not isinstance(column, Symbols):
      batch[role] = column
    elif role not in encoders:
      batch[role] = np.array(column.texts(), object)[column.codes]
    else:
      batch[role] = ids = encoders[role].encode(column)[column.codes]
      if ids.min(initial=0) < 0:
        row = int(np.argmin(ids))
        symbol = column.texts()[column.codes[row]]
        raise source.error(
          piece,
          int(rows[row]),
          f"`{source.columns[role].name}` is {symbol!r}, which is not in the "
          "vocabulary. Add it there, or allow unknown symbols.",
        )
  return batch


class Survey(NamedTuple):
  """What one pass over a source has found.

  Attributes:
    num_rows: The number of rows of each part.
    counts: How often each id occurs in part 0, int64 [num_embeddings], for each
      column with ids. The last count of a vocabulary that allows unknown
      symbols is theirs.
    means: The mean of each column of numbers in part 0, nan without rows.
  """

  num_rows: tuple[int, ...]
  counts: dict[str, np.ndarray]
  means: dict[str, float]


def survey(
  source: Source,
  *,
  encoders: Encoders,
  split: Split | None = None,
  num_parts: int = 1,
) -> Survey:
  """Counts rows and ids in one pass.

  Args:
    source: The files.
    encoders: What gives ids.
    split: What tells the part of each row; all are in part 0 without it.
    num_parts: The number of parts.

  Returns:
    The survey.

  Raises:
    ValueError: If a file is damaged, or a value must not be there.
  """
  num_rows = np.zeros(num_parts, np.int64)
  counts = {
    role: np.zeros(encoder.num_embeddings, np.int64)
    for role, encoder in encoders.items()
  }
  numbers = [r for r, c in source.columns.items() if c.kind == "number"]
  sums = dict.fromkeys(numbers, 0.0)
  for piece in progress(source.pieces, description="counting", unit="piece"):
    for first, block, labels in read_labelled(source, split, piece):
      num_rows += np.bincount(labels, minlength=num_parts)
      kept = np.flatnonzero(labels == 0)
      block = columns_lib.select_rows(block, kept)
      batch = encode(source, piece, first + kept, block, encoders)
      for role, total in counts.items():
        ids, times = np.unique(batch[role], return_counts=True)
        total[ids] += times
      for role in numbers:
        sums[role] += float(batch[role].sum())
  size = int(num_rows[0])
  means = {r: s / size if size else math.nan for r, s in sums.items()}
  return Survey(tuple(num_rows.tolist()), counts, means)


def build_vocabularies(
  part: Part, *columns: str, min_count: int = 1, max_size: int = 0
) -> dict[str, list[str]]:
  """Finds the symbols of some columns, in one pass.

  Rows are not kept, but every distinct symbol is, with its count: some 150
  bytes for each, `min_count` and `max_size` notwithstanding. Hash what has too
  many (:class:`interactions_ids.Buckets`).

  Args:
    part: The rows to read.
    *columns: Which columns of symbols, by what they are in a model.
    min_count: Rarer symbols are left out.
    max_size: The most symbols of a column; 0 for all.

  Returns:
    The symbols of each column by falling counts, equal ones by their text.

  Raises:
    ValueError: If a file is damaged, a value must not be there, or no symbol is
      frequent enough.
  """
  counts: dict[str, Counter[str]] = {role: Counter() for role in columns}
  pieces = progress(part.source.pieces, description="vocabulary", unit="piece")
  for piece in pieces:
    for _, block in part.read(piece):
      for role in columns:
        counts[role].update(_count(block[role]))
  ranked = {
    role: ids_lib.rank_symbols(c, min_count=min_count, max_size=max_size)
    for role, c in counts.items()
  }
  for role, symbols in ranked.items():
    if not symbols:
      raise ValueError(
        f"`min_count` must leave a symbol of {part.source.columns[role].name!r}"
        f", got {min_count} and {len(counts[role])} rarer symbols."
      )
  return ranked


def _count(column: Symbols) -> dict[str, int]:
  times = np.bincount(column.codes, minlength=len(column.names)).tolist()
  pairs = zip(column.texts(), times, strict=True)
  # Rows of other parts have left names behind that none has.
  return {text: count for text, count in pairs if count}
