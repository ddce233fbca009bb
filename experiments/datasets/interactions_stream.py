"""Interactions that do not fit in memory, as a stream of batches.

A stream reads the pieces of a source (see
:mod:`experiments.datasets.interactions_sources`) in an order that each epoch
has for itself, keeps the rows of one part, turns symbols into ids, and shuffles
rows in a buffer. Its state is a few numbers: the place where the buffer begins,
and how much of it is used. Whoever restores it reads the rows of the buffer
again, and gets the same rows in the same order, bit for bit.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from anchor_codes import typing as options
from experiments.datasets import interactions
from experiments.datasets import interactions_columns as columns_lib
from experiments.datasets.interactions import Batch

_UNSHUFFLED_ROWS = 1 << 16


class _Position(NamedTuple):
  """Where a buffer begins.

  Attributes:
    epoch: The epoch.
    buffer: Its number in the epoch.
    piece: The place of the piece in the order of the epoch.
    row: How many rows of the part are before, in the piece.
  """

  epoch: int
  buffer: int = 0
  piece: int = 0
  row: int = 0


class Stream:
  r"""Batches of one part of a source, epoch after epoch.

  In each epoch, pieces come in a random order and rows are shuffled in a
  buffer: it is filled with the next rows, emptied in a random order, and filled
  again. Two rows that are more than `shuffle_rows` apart after the pieces were
  put in order do not change places, so a source of one text file that is sorted
  by user needs a large buffer, or several shards.

  Args:
    part: The rows to read.
    encoders: What gives ids, for each column of symbols that is to have some.
    shuffle_rows: Rows of the buffer, which takes some 50 bytes for each while
      it is filled; with 0 everything is in the order of the files.
    seed: Seed of the orders.

  >>> import pathlib, tempfile
  >>> from experiments.datasets import interactions_ids as ids_lib
  >>> from experiments.datasets import interactions_sources as sources
  >>> columns = {"user": columns_lib.Column("name", "symbol")}
  >>> ids = {"user": ids_lib.Vocabulary(["ann", "bob", "cal"])}
  >>> with tempfile.TemporaryDirectory() as folder:
  ...   path = pathlib.Path(folder, "mine.csv")
  ...   _ = path.write_text("name\nann\nbob\ncal\n")
  ...   part = interactions.Part(sources.open_source(path, columns=columns))
  ...   stream = Stream(part, encoders=ids, shuffle_rows=8, seed=3)
  ...   first, state, rest = stream.take(1), stream.state(), stream.take(8)
  ...   stream.restore(state)
  ...   again = stream.take(8)
  >>> for batch in (first, rest, again):
  ...   print(batch["user"])
  [2]
  [0 1]
  [0 1]
  """

  def __init__(
    self,
    part: interactions.Part,
    *,
    encoders: interactions.Encoders,
    shuffle_rows: int = 0,
    seed: int = 0,
  ):
    options.check_at_least("shuffle_rows", shuffle_rows, 0)
    self.part = part
    self.encoders = encoders
    self.shuffle_rows = shuffle_rows
    self.seed = seed
    self._fingerprint = part.source.fingerprint()
    self.begin(0)

  def begin(self, epoch: int) -> None:
    """Goes to the start of an epoch."""
    self._open(_Position(epoch))

  def take(self, num_rows: int) -> Batch:
    """Returns the next rows of the epoch, fewer if it has no more.

    Raises:
      ValueError: If a file is damaged, or a value must not be there.
    """
    taken = [self._empty_batch()]
    while num_rows and (
      self._used < columns_lib.num_rows(self._buffer) or self._fill_buffer()
    ):
      rows = _cut(self._buffer, self._used, self._used + num_rows)
      self._used += columns_lib.num_rows(rows)
      num_rows -= columns_lib.num_rows(rows)
      taken.append(rows)
    return _concatenate(taken)

  def batches(self, num_rows: int) -> Iterator[Batch]:
    """Yields what is left of the epoch in batches, the last one smaller.

    Args:
      num_rows: Rows of a batch, at least 1.
    """
    options.check_at_least("num_rows", num_rows, 1)
    while columns_lib.num_rows(batch := self.take(num_rows)):
      yield batch

  def state(self) -> dict[str, Any]:
    """Returns where the stream is, as JSON has it."""
    return {
      "position": list(self._position),
      "used": self._used,
      "options": self._options(),
    }

  def restore(self, state: Mapping[str, Any]) -> None:
    """Goes where another stream, or this one, has been.

    Args:
      state: What :meth:`state` returned.

    Raises:
      ValueError: If that stream had other files or options, or the files have
        fewer rows now.
    """
    for name, value in self._options().items():
      if state["options"][name] != value:
        raise ValueError(
          f"the `{name}` of a stream must be {state['options'][name]!r}, as "
          f"when its state was taken, got {value!r}."
        )
    self._open(_Position(*state["position"]))
    used = state["used"]
    if used and not (
      self._fill_buffer() and used <= columns_lib.num_rows(self._buffer)
    ):
      raise ValueError(
        "the files must have as many rows as they had, got fewer."
      )
    self._used = used

  def _options(self) -> dict[str, Any]:
    return {
      "files": self._fingerprint,
      "part": self.part.number,
      "shuffle_rows": self.shuffle_rows,
      "seed": self.seed,
    }

  def _open(self, position: _Position) -> None:
    self._position = self._next = position
    self._blocks = self._read_from(position)
    self._rest: tuple[_Position, Batch] | None = None
    self._buffer, self._used = self._empty_batch(), 0

  def _empty_batch(self) -> Batch:
    kinds = self.part.source.columns
    return {
      role: np.zeros(0, self._dtype(role, column.kind))
      for role, column in kinds.items()
    }

  def _dtype(self, role: str, kind: columns_lib.Kind) -> Any:
    if kind == "number":
      return np.float64
    return np.int32 if role in self.encoders else object

  def _fill_buffer(self) -> bool:
    """Fills the buffer with the next rows; returns whether there are any."""
    size = self.shuffle_rows or _UNSHUFFLED_ROWS
    gathered, missing, start = [], size, self._next
    # Before the next ones are read: two buffers would not fit.
    self._buffer = self._empty_batch()
    while missing and (found := self._rest or next(self._blocks, None)):
      place, rows = found
      use = min(missing, columns_lib.num_rows(rows))
      gathered.append(_cut(rows, 0, use))
      missing -= use
      self._next = place._replace(row=place.row + use)
      self._rest = None
      if use < columns_lib.num_rows(rows):
        self._rest = self._next, _cut(rows, use, columns_lib.num_rows(rows))
    self._position = start
    self._next = self._next._replace(buffer=start.buffer + 1)
    self._used = 0
    self._buffer = self._shuffle(_concatenate(gathered))
    return bool(gathered)

  def _shuffle(self, rows: Batch) -> Batch:
    if not self.shuffle_rows or not rows:
      return rows or self._empty_batch()
    epoch, buffer = self._position[:2]
    # Not 0: numbers of a seed that are zero at the end would not count.
    rng = np.random.default_rng([self.seed, epoch, buffer + 1])
    order = rng.permutation(columns_lib.num_rows(rows))
    return {role: column[order] for role, column in rows.items()}

  def _read_from(self, start: _Position) -> Iterator[tuple[_Position, Batch]]:
    """Yields blocks of rows with ids, and where each begins."""
    part, pieces = self.part, self.part.source.pieces
    order = np.arange(len(pieces))
    if self.shuffle_rows:
      rng = np.random.default_rng([self.seed, start.epoch])
      order = rng.permutation(len(pieces))
    skip = start.row
    for place in range(start.piece, len(pieces)):
      piece, row = pieces[order[place]], 0
      for numbers, block in part.read(piece):
        end = row + len(numbers)
        if end > skip:
          kept = slice(max(skip - row, 0), None)
          block = columns_lib.select_rows(block, kept)
          batch = interactions.encode(
            part.source, piece, numbers[kept], block, self.encoders
          )
          position = start._replace(piece=place, row=max(skip, row))
          yield position, batch
        row = end
      skip = 0


def _cut(rows: Batch, begin: int, end: int) -> Batch:
  return {role: column[begin:end] for role, column in rows.items()}


def _concatenate(parts: list[Batch]) -> Batch:
  if not parts:
    return {}
  return {
    role: np.concatenate([part[role] for part in parts]) for role in parts[0]
  }
