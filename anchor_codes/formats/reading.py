"""Reads vectors from a file of any of the known formats."""

import os
import pathlib

import numpy as np

from anchor_codes.formats import (
  arrays,
  matrix,
  parquet,
  tensor_files,
  text,
  word2vec,
)
from anchor_codes.formats.matrix import FormatError, Matrix, Progress

# The first bytes tell more than a name does.
_MAGIC = {
  b"\x93NUMPY": ".npy",
  b"PK\x03\x04": ".npz",
  b"PAR1": ".parquet",
  text.GZIP: ".gz",
}
_NAMED = (".npz", ".safetensors", ".parquet")
_TEXT = (".vec", ".txt")
_KNOWN = (".npy", *_NAMED, ".bin", *_TEXT)


def read(
  path: str | os.PathLike,
  *,
  tensor: str | None = None,
  verify: bool = True,
  progress: Progress | None = None,
) -> Matrix:
  r"""Reads the vectors of a file, and their words if it has them.

  ============================ ==============================================
  ``.npy``                     mapped into memory
  ``.npz``                     floats of two axes; words if an array has them
  ``.safetensors``             of any writer, mapped; our tables become dense
  ``.bin``                     word2vec, binary
  ``.vec``, ``.txt``, also .gz word2vec, fastText and GloVe
  ``.parquet``                 a column of lists, perhaps one of strings
  ============================ ==============================================

  Args:
    path: The file; its first bytes go before its suffix.
    tensor: Which array or column has the vectors, for the formats with several;
      not needed if only one can be meant.
    verify: Whether to look for nan and infinite values, which reads what is
      mapped. Text is always looked at.
    progress: Called with the bytes read and all bytes, for the formats that
      take long.

  Returns:
    The vectors and the vocabulary.

  Raises:
    FormatError: If the file is damaged, of another format, or ambiguous. It
      names the file and the line or row. Nothing is dropped silently.
    OSError: If the file cannot be read.
    ImportError: If a library for this format is missing.

  >>> import tempfile
  >>> with tempfile.TemporaryDirectory() as folder:
  ...   path = pathlib.Path(folder, "glove.txt")
  ...   _ = path.write_text("cat 1 2\nice cream 3 4\n")
  ...   read(path)
  Matrix(vectors=array([[1., 2.],
         [3., 4.]], dtype=float32), vocabulary=('cat', 'ice cream'))
  """
  path = pathlib.Path(path)
  with matrix.naming(path):
    kind = _kind(path)
    if tensor is not None and kind not in _NAMED:
      raise FormatError(f"It has one matrix only, and none named {tensor!r}.")
    vectors, words = _read(path, kind, tensor, progress)
    matrix.check_vectors(vectors)
    if verify:
      matrix.check_finite(vectors, lambda row: f"Row {row}")
    if words is not None:
      words = matrix.check_words(words, len(vectors))
  return Matrix(vectors, words)


def _read(
  path: pathlib.Path,
  kind: str,
  tensor: str | None,
  progress: Progress | None,
) -> tuple[np.ndarray, list[str] | None]:
  match kind:
    case ".npy":
      return arrays.read_npy(path), None
    case ".npz":
      return arrays.read_npz(path, tensor)
    case ".safetensors":
      return tensor_files.read_safetensors(path, tensor)
    case ".parquet":
      return parquet.read_parquet(path, tensor, progress)
    case ".bin":
      return word2vec.read_word2vec(path, progress)
    case _:
      return text.read_text(path, progress)


def _kind(path: pathlib.Path) -> str:
  """Returns the suffix that stands for the format of a file."""
  with path.open("rb") as file:
    head = file.read(8)
  if not head:
    raise FormatError("It is empty.")
  kinds = [kind for magic, kind in _MAGIC.items() if head.startswith(magic)]
  kind = kinds[0] if kinds else path.suffix.lower()
  if kind == ".gz" and path.suffix.lower() == ".gz":
    kind = path.with_suffix("").suffix.lower()
    if kind not in _TEXT:
      raise FormatError(f"Only {_TEXT} are read packed: unpack it first.")
  # A file that is named so, but does not begin so.
  if not kinds and kind in _MAGIC.values():
    raise FormatError(f"It does not begin as a {kind} file does.")
  if kind not in (*_KNOWN, ".gz"):
    raise FormatError(f"The suffix {kind!r} is none of {', '.join(_KNOWN)}.")
  return kind
