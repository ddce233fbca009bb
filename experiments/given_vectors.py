"""Vectors that somebody else has trained, one for each symbol."""

import os
import pathlib
from collections.abc import Sequence

import numpy as np

from anchor_codes import tables


def load_vectors(
  path: str | os.PathLike[str], *, vocabulary: Sequence[str]
) -> np.ndarray:
  """Loads one vector for each symbol of a vocabulary.

  Args:
    path: A .npy file whose rows are the symbols in order, or a .safetensors
      file of a table of this package. The rows of a table with a vocabulary are
      found by its symbols; more symbols than asked for do no harm.
    vocabulary: The symbols.

  Returns:
    float32 [len(vocabulary), features].

  Raises:
    ValueError: If a symbol is missing, the shape does not fit, or a number is
      not finite.
    FileNotFoundError: If there is no such file.

  >>> import tempfile
  >>> table = tables.DenseTable(np.eye(3, dtype=np.float32), vocabulary="abc")
  >>> with tempfile.TemporaryDirectory() as folder:
  ...   path = pathlib.Path(folder, "table.safetensors")
  ...   table.save(path)
  ...   print(load_vectors(path, vocabulary="ca"))
  [[0. 0. 1.]
   [1. 0. 0.]]
  """
  path = pathlib.Path(path).expanduser()
  if path.suffix == ".safetensors":
    vectors = _read_table(path, vocabulary)
  else:
    vectors = np.load(path, allow_pickle=False)
  if vectors.ndim != 2 or len(vectors) != len(vocabulary):
    raise ValueError(
      f"{path} must have one row for each of the {len(vocabulary)} symbols, "
      f"got the shape {vectors.shape}."
    )
  vectors = vectors.astype(np.float32)
  bad = ~np.isfinite(vectors).all(axis=1)
  if bad.any():
    raise ValueError(
      f"{path} must be finite, got {bad.sum()} rows that are not, the first "
      f"is row {bad.argmax()}."
    )
  return vectors


def _read_table(path: pathlib.Path, vocabulary: Sequence[str]) -> np.ndarray:
  """Reads the rows of a table in the order of the vocabulary."""
  table = tables.load(path)
  ids = np.arange(table.num_embeddings)
  if table.vocabulary is not None:
    rows = {symbol: row for row, symbol in enumerate(table.vocabulary)}
    missing = [symbol for symbol in vocabulary if symbol not in rows]
    if missing:
      raise ValueError(
        f"{path} must have a row for each symbol, got none for {len(missing)} "
        f"of {len(vocabulary)}, such as {missing[:3]}."
      )
    ids = np.array([rows[symbol] for symbol in vocabulary], np.int64)
  return table.lookup(ids)
