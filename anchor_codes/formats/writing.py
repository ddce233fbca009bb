"""Writes vectors in the forms that other tools read."""

import dataclasses
import io
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import DTypeLike

from anchor_codes import tables
from anchor_codes.formats import matrix, text
from anchor_codes.tables import storage
from anchor_codes.typing import check_choice

_BLOCK = 4096  # Rows that are dense at a time.
_SUFFIXES = (".npy", ".vec", ".txt", ".safetensors")


def write(
  path: str | os.PathLike,
  vectors: tables.Table | np.ndarray,
  vocabulary: Sequence[str] | None = None,
  *,
  suffix: str | None = None,
) -> None:
  """Writes a table or a matrix, whole or not at all; the suffix says how.

  * ``.npy``: the dense vectors, without their words;
  * ``.vec``, ``.txt``: the text form of word2vec, in digits that give the same
    float32 again; rows without a word are called by their number;
  * ``.safetensors``: a table of ours, as :meth:`anchor_codes.tables.Table.save`
    writes it.

  Args:
    path: Where to write; an old file is replaced at once.
    vectors: A table, which is decoded block by block, or floats
      [num_embeddings, features].
    vocabulary: One different word for each row, by default those of the table.
    suffix: What to take for the suffix of `path`, or None.

  Raises:
    ValueError: If the suffix is another one, the arrays are not like that, or
      a word cannot be told from what surrounds it in text.
    OSError: If the file cannot be written; an old file stays as it was.

  >>> import tempfile
  >>> with tempfile.TemporaryDirectory() as folder:
  ...   path = pathlib.Path(folder, "vectors.vec")
  ...   write(path, np.eye(2, dtype=np.float32), ["cat", "dog"])
  ...   print(path.read_text())
  2 2
  cat 1 0
  dog 0 1
  """
  suffix = suffix or pathlib.Path(path).suffix.lower()
  check_choice("suffix", suffix, _SUFFIXES)
  if isinstance(vectors, tables.Table):
    if vocabulary is None:
      vocabulary = vectors.vocabulary
  else:
    matrix.check_vectors(vectors)
  if vocabulary is not None:
    vocabulary = matrix.check_words(vocabulary, _shape(vectors)[0])
  _WRITERS[suffix](path, vectors, vocabulary)


def _write_npy(
  path: str | os.PathLike,
  vectors: tables.Table | np.ndarray,
  vocabulary: Sequence[str] | None,
) -> None:
  del vocabulary  # The format has no place for it.
  blocks = _blocks(vectors)
  first = next(blocks)
  header = io.BytesIO()
  np.lib.format.write_array_header_1_0(
    header,
    {
      "descr": np.lib.format.dtype_to_descr(first.dtype),
      "fortran_order": False,
      "shape": _shape(vectors),
    },
  )

  def blobs() -> Iterator[bytes]:
    yield header.getvalue()
    yield first.tobytes()
    for block in blocks:
      yield block.tobytes()

  storage.write_atomically(path, blobs())


def _write_text(
  path: str | os.PathLike,
  vectors: tables.Table | np.ndarray,
  vocabulary: Sequence[str] | None,
) -> None:
  size, width = _shape(vectors)
  words = vocabulary or [str(i) for i in range(size)]
  for word in words:
    _check_word(word)
  line = "%s" + " %.9g" * width + "\n"  # Nine digits tell any float32.

  def blobs() -> Iterator[bytes]:
    yield f"{size} {width}\n".encode()
    start = 0
    for block in _blocks(vectors, np.float32):
      names = words[start : start + len(block)]
      rows = zip(names, block.tolist(), strict=True)
      yield "".join(line % (word, *row) for word, row in rows).encode()
      start += len(block)

  storage.write_atomically(path, blobs())


def _write_table(
  path: str | os.PathLike,
  vectors: tables.Table | np.ndarray,
  vocabulary: Sequence[str] | None,
) -> None:
  if not isinstance(vectors, tables.Table):
    vectors = tables.DenseTable.from_dense(vectors, vocabulary=vocabulary)
  elif vocabulary is not vectors.vocabulary:
    vectors = dataclasses.replace(vectors, vocabulary=vocabulary)
  vectors.save(path)


_WRITERS: dict[str, Callable[..., None]] = {
  ".npy": _write_npy,
  ".vec": _write_text,
  ".txt": _write_text,
  ".safetensors": _write_table,
}


def _shape(vectors: tables.Table | np.ndarray) -> tuple[int, int]:
  if isinstance(vectors, tables.Table):
    return vectors.num_embeddings, vectors.features
  return vectors.shape[0], vectors.shape[1]


def _blocks(
  vectors: tables.Table | np.ndarray, dtype: DTypeLike | None = None
) -> Iterator[np.ndarray]:
  size = _shape(vectors)[0]
  for start in range(0, size, _BLOCK):
    ids = np.arange(start, min(start + _BLOCK, size))
    if isinstance(vectors, tables.Table):
      block = vectors.lookup(ids)
    else:
      block = vectors[start : start + _BLOCK]
    if block.dtype.name == "bfloat16":  # Which NumPy alone cannot read; exact.
      block = block.astype(np.float32)
    if dtype is not None:
      with np.errstate(over="ignore"):  # Infinity is refused below.
        block = block.astype(dtype, copy=False)
    matrix.check_finite(block, lambda row, start=start: f"Row {start + row}")
    yield block


def _check_word(word: str) -> None:
  """Refuses a word that would not be read back as it is."""
  encoded = word.encode()
  if text.ambiguous(encoded) or encoded.strip() != encoded or not encoded:
    reason = "be the same without spaces around it and not end in a number"
  elif {"\n", "\r"} & set(word):
    reason = "be on one line"
  else:
    return
  raise ValueError(f"A word must {reason} to be written as text, got {word!r}.")
