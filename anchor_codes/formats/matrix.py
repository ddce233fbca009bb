"""What a file of vectors comes to, and the errors of those that are none."""

import contextlib
import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

FLOATS = ("float32", "float16", "bfloat16", "float64")
Progress = Callable[[int, int], None]
"""Called with the bytes that are read and those that there are."""

# What libraries raise for content that they cannot read: for damaged headers of
# NumPy those of Python's own parser, for archives that are encrypted or packed
# in an unknown way a RuntimeError.
_DAMAGED = (
  ValueError,
  EOFError,
  OSError,
  RuntimeError,
  SyntaxError,
  tokenize.TokenError,
  struct.error,
  zipfile.BadZipFile,
  zlib.error,
)
_BLOCK = 8192  # Rows looked at at a time: a mapped file may exceed the memory.


class FormatError(ValueError):
  """The file is damaged, ambiguous, or of no format that can be read."""


class Matrix(NamedTuple):
  """Vectors, and the words that they belong to.

  Attributes:
    vectors: Floats [num_embeddings, features] of the type of the file; mapped
      into memory, read-only, where the format allows it.
    vocabulary: One different word for each row, or None.
  """

  vectors: np.ndarray
  vocabulary: tuple[str, ...] | None


@contextlib.contextmanager
def naming(path: str | os.PathLike) -> Iterator[None]:
  """Turns what is wrong with the content of a file into a `FormatError`.

  Args:
    path: The file that the error names.

  Raises:
    FormatError: For each `ValueError` in the block, and for what the libraries
      raise when an archive is damaged.
  """
  try:
    yield
  except _DAMAGED as error:
    if isinstance(error, OSError) and error.filename is not None:
      raise  # The system's: there is no such file, or it may not be read.
    # One that is named already comes from a reader of our own files.
    message = str(error).removeprefix(f"{os.fspath(path)}: ")
    if not isinstance(error, ValueError):
      message = f"It is damaged or cut off: {message}"
    raise FormatError(f"{os.fspath(path)}: {message}") from error


def check_vectors(vectors: np.ndarray) -> None:
  """Raises `FormatError` unless an array holds the vectors of a table.

  >>> check_vectors(np.zeros((2, 3), np.int8))
  Traceback (most recent call last):
  ...
  anchor_codes.formats.matrix.FormatError: It holds int8 [2, 3], not floats of
  two axes.
  """
  if vectors.dtype.name not in FLOATS or vectors.ndim != 2:
    kind = f"{vectors.dtype} {list(vectors.shape)}"
    raise FormatError(f"It holds {kind}, not floats of two axes.")
  if not vectors.size:
    raise FormatError(f"It has no vectors: its shape is {vectors.shape}.")


def check_finite(vectors: np.ndarray, place: Callable[[int], str]) -> None:
  """Raises `FormatError` if a vector has nan or infinite values.

  Args:
    vectors: Floats [num_embeddings, features].
    place: What an error calls the row of a number.
  """
  for start in range(0, len(vectors), _BLOCK):
    finite = np.isfinite(vectors[start : start + _BLOCK]).all(axis=1)
    if not finite.all():
      row = place(start + int(finite.argmin()))
      raise FormatError(f"{row} has nan or infinite values.")


def check_words(words: Sequence[str], num_embeddings: int) -> tuple[str, ...]:
  """Returns one different word for each row.

  Raises:
    FormatError: If there are more or fewer, one is no string, or one is there
      twice.
  """
  if len(words) != num_embeddings:
    raise FormatError(f"It has {len(words)} words for {num_embeddings} rows.")
  first: dict[str, int] = {}
  for row, word in enumerate(words):
    if not isinstance(word, str):
      raise FormatError(f"Row {row} has {word!r} for a word, not a string.")
    if first.setdefault(word, row) != row:
      raise FormatError(
        f"Row {row} repeats the word {word!r} of row {first[word]}."
      )
  return tuple(first)
