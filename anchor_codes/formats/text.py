"""Vectors as text, one word and its numbers on each line.

With a line of counts at the top these are files of word2vec and fastText
(.vec), without it those of GloVe (.txt).
"""

import codecs
import gzip
import itertools
import os
import pathlib
from collections.abc import Iterable, Iterator
from typing import BinaryIO, cast

import numpy as np

from anchor_codes.formats.matrix import FormatError, Progress, check_finite

GZIP = b"\x1f\x8b"
_OFTEN = 4096  # Lines between two reports.


def read_text(
  path: str | os.PathLike, progress: Progress | None = None
) -> tuple[np.ndarray, list[str]]:
  """Reads lines of a word and its numbers, gzipped or not.

  A word may have spaces in it, but none may end in a number after a space: a
  line with a number too many could not be told from it.

  Args:
    path: The file; UTF-8.
    progress: Called now and then.

  Returns:
    float32 vectors, and the words.
  """
  with pathlib.Path(path).open("rb") as raw:
    file = _unpacked(raw)
    first = file.readline().removeprefix(codecs.BOM_UTF8)
    second = file.readline()
    counts = _header(first, second)
    width, start = (counts[1], 2) if counts else (_width(first), 1)
    rows = _Rows(width, start)
    head = [first, second][start - 1 :]
    lines = _reporting(itertools.chain(head, file), raw, progress)
    for number, line in _filled(lines, start):
      rows.append(line, number)
  if counts and counts[0] != len(rows.lines):
    raise FormatError(
      f"Line 1 promises {counts[0]} vectors, but {len(rows.lines)} are there."
    )
  return rows.finish()


def is_number(text: bytes) -> bool:
  """Tells whether a field is a number, as Python's `float` would."""
  try:
    float(text)
  except ValueError:
    return False
  return b"_" not in text


def ambiguous(word: bytes) -> bool:
  """Tells whether the end of a word would be taken for one more number."""
  fields = word.split()
  return len(fields) > 1 and is_number(fields[-1])


class _Rows:
  """Vectors and words that grow line by line; each line is one row."""

  def __init__(self, width: int, start: int) -> None:
    self.lines: dict[str, int] = {}
    self._start = start
    self._vectors = np.empty((64, width), np.float32)

  def append(self, line: bytes, number: int) -> None:
    row, width = number - self._start, self._vectors.shape[1]
    if row == len(self._vectors):
      # In place, if the allocator can: two copies would double the peak.
      self._vectors.resize((2 * row, width), refcheck=False)
    name, *values = line.rsplit(None, width)
    if len(values) < width or ambiguous(name):
      found = len(values) + len(name.split()) - 1
      raise FormatError(f"Line {number} has {found} numbers, not {width}.")
    # Of lines that only a carriage return ends, all but the last would be one
    # long word.
    if b"\r" in name:
      raise FormatError(
        f"Line {number} has a carriage return within it: end lines with a new "
        "line."
      )
    word = _decoded(name, number)
    known = self.lines.setdefault(word, number)
    if known != number:
      raise FormatError(
        f"Line {number} repeats the word {word!r} of line {known}."
      )
    self._fill(row, values, number)

  def finish(self) -> tuple[np.ndarray, list[str]]:
    """Returns what has been read, without the room for more."""
    size, width = len(self.lines), self._vectors.shape[1]
    self._vectors.resize((size, width), refcheck=False)
    check_finite(self._vectors, lambda row: f"Line {row + self._start}")
    return self._vectors, list(self.lines)

  def _fill(self, row: int, values: list[bytes], number: int) -> None:
    try:
      with np.errstate(over="ignore"):  # Infinite; found in the end.
        self._vectors[row] = values
      wrong = b"_" in b"".join(values)  # Python's own: "1_0" would be ten.
    except ValueError:
      wrong = True
    if wrong:
      value = next(value for value in values if not is_number(value))
      shown = value[:40].decode(errors="backslashreplace")
      raise FormatError(f"Line {number} has {shown!r} for a number.")


def _filled(lines: Iterable[bytes], start: int) -> Iterator[tuple[int, bytes]]:
  """Numbers the lines; blank ones are for the end of the file only."""
  blank = 0
  for number, line in enumerate(lines, start):
    if not line.strip():
      blank = blank or number
    elif blank:
      raise FormatError(f"Line {blank} is empty.")
    else:
      yield number, line


def _header(first: bytes, second: bytes) -> tuple[int, int] | None:
  """Returns the counts of rows and features, or None for a line of a word."""
  counts, found = first.split(), len(second.split()) - 1
  if len(counts) != 2 or not (counts[0].isdigit() and counts[1].isdigit()):
    return None
  # Not taken for a word that is a number, with a vector of one whole number:
  # a file that is damaged in line 2 would pass for that.
  size, width = int(counts[0]), int(counts[1])
  if not size or not width or found < 1:
    raise FormatError("It has no vectors after the counts of line 1.")
  if found < width:  # Before memory is asked for: the counts may be anything.
    raise FormatError(f"Line 2 has {found} numbers, not {width}.")
  return size, width


def _width(first: bytes) -> int:
  """Counts the numbers at the end of a line; its first field is a word."""
  fields = first.split()[1:]
  numbers = itertools.takewhile(is_number, reversed(fields))
  width = sum(1 for _ in numbers)
  if not width:
    raise FormatError("Line 1 has no numbers: not a text file of vectors.")
  return width


def _decoded(word: bytes, number: int) -> str:
  try:
    return word.decode()
  except UnicodeDecodeError as error:
    raise FormatError(f"Line {number} is not UTF-8: {error.reason}.") from None


def _unpacked(raw: BinaryIO) -> BinaryIO:
  compressed = raw.read(len(GZIP)) == GZIP
  raw.seek(0)
  # To type checkers a `GzipFile` is no `BinaryIO`, but it does the same.
  return cast(BinaryIO, gzip.GzipFile(fileobj=raw)) if compressed else raw


def _reporting(
  lines: Iterable[bytes], raw: BinaryIO, progress: Progress | None
) -> Iterator[bytes]:
  size = os.fstat(raw.fileno()).st_size
  for i, line in enumerate(lines):
    if progress is not None and i % _OFTEN == 0:
      progress(raw.tell(), size)
    yield line
