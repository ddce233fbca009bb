"""The binary files of word2vec: counts, then words and raw float32 numbers."""

import mmap
import os
import pathlib

import numpy as np

from anchor_codes.formats.matrix import FormatError, Progress

_LONGEST = 10_000  # Bytes of a word; a damaged file may have no end of one.
_OFTEN = 4096


def read_word2vec(
  path: str | os.PathLike, progress: Progress | None = None
) -> tuple[np.ndarray, list[str]]:
  """Reads the binary form of word2vec.

  Args:
    path: The file.
    progress: Called now and then.

  Returns:
    float32 vectors, and the words.
  """
  with pathlib.Path(path).open("rb") as file:
    data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
  with data:
    size, width, position = _header(data)
    vectors, words = np.empty((size, width), np.float32), []
    for row in range(size):
      word, begin = _word(data, position, row)
      position = begin + 4 * width
      if position > len(data):
        raise FormatError(f"It is cut off in row {row} of {size}.")
      vectors[row] = np.frombuffer(data[begin:position], "<f4")
      words.append(word)
      if progress is not None and row % _OFTEN == 0:
        progress(position, len(data))
    if data[position:].strip():
      raise FormatError(f"It goes on after the {size} rows that it promises.")
  return vectors, words


def _header(data: mmap.mmap) -> tuple[int, int, int]:
  """Returns the two counts, and where the rows begin."""
  end = data.find(b"\n", 0, 64) + 1
  counts = data[:end].split()
  if len(counts) != 2 or not (counts[0].isdigit() and counts[1].isdigit()):
    raise FormatError(
      "Its first line is not two counts: no binary file of word2vec. Export a "
      "fastText model as .vec, a PyTorch checkpoint as .safetensors."
    )
  size, width = int(counts[0]), int(counts[1])
  if not size or not width:
    raise FormatError("It has no vectors.")
  # Before memory is asked for: a row has a letter and a space at the least.
  if size * (4 * width + 2) > len(data) - end:
    raise FormatError(
      f"It is cut off: {size} vectors of {width} do not fit in its "
      f"{len(data)} bytes."
    )
  return size, width, end


def _word(data: mmap.mmap, position: int, row: int) -> tuple[str, int]:
  """Returns a word, and where its numbers begin."""
  end = data.find(b" ", position, position + _LONGEST)
  # Some writers end a row with a new line, others do not.
  word = data[position:end].lstrip(b"\n")
  if end < 0 or not word:
    raise FormatError(f"Row {row} has no word: the file is cut off or damaged.")
  try:
    return word.decode(), end + 1
  except UnicodeDecodeError as error:
    raise FormatError(f"Row {row} is not UTF-8: {error.reason}.") from None
