"""Features of nodes as sparse rows: the words of a paper, say."""

import os
import pathlib
import zipfile
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

_CSR = ("indptr", "indices", "data", "shape")
_DENSE = "features"


class SparseFeatures(NamedTuple):
  """One sparse row for each node, in compressed sparse rows (CSR).

  The entries of node ``i`` are those from ``indptr[i]`` to ``indptr[i + 1]``.

  Attributes:
    indptr: int64 [num_nodes + 1], where the rows start and the last one ends.
    indices: int32 [num_entries], the words; a word that comes twice in a row
      counts with the sum of its values.
    data: float32 [num_entries], finite values.
    num_words: Number of words, those that never occur included.
  """

  indptr: np.ndarray
  indices: np.ndarray
  data: np.ndarray
  num_words: int

  @property
  def num_nodes(self) -> int:
    """Number of nodes."""
    return len(self.indptr) - 1

  @property
  def nodes(self) -> np.ndarray:
    """The node of each entry, int32 [num_entries], ascending.

    >>> from_dense(np.array([[0.0, 2.0], [0.0, 0.0], [1.0, 4.0]])).nodes
    array([0, 2, 2], dtype=int32)
    """
    numbers = np.arange(self.num_nodes, dtype=np.int32)
    return np.repeat(numbers, np.diff(self.indptr))

  def normalized(self) -> "SparseFeatures":
    """Returns rows divided by the sum of their absolute values.

    A row without entries, or of zeros alone, stays as it is.

    >>> from_dense(np.array([[1.0, 3.0], [0.0, 0.0]])).normalized().data
    array([0.25, 0.75], dtype=float32)
    """
    sums = np.bincount(self.nodes, np.abs(self.data), self.num_nodes)
    scale = 1 / np.where(sums > 0, sums, 1)
    data = (self.data * scale[self.nodes]).astype(np.float32)
    return self._replace(data=data)


def from_csr(
  indptr: np.ndarray, indices: np.ndarray, data: np.ndarray, *, num_words: int
) -> SparseFeatures:
  """Checks compressed sparse rows.

  Args:
    indptr: Where the rows start, and where the last one ends.
    indices: The words, in any order within a row.
    data: Their values.
    num_words: Number of words.

  Returns:
    The features.

  Raises:
    ValueError: If the parts do not fit, a word is out of range, or a value is
      not finite.
  """
  for name, array in (("indptr", indptr), ("indices", indices)):
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
      raise ValueError(
        f"`{name}` must be integers [n], got {array.dtype} {array.shape}."
      )
  if len(indptr) < 2 or indptr[0] or (np.diff(indptr) < 0).any():
    raise ValueError("`indptr` must ascend from 0, with one row at least.")
  if not len(indices) == indptr[-1] == data.size:
    raise ValueError(
      f"`indptr` must end with the number of entries, got {indptr[-1]} for "
      f"{len(indices)} `indices` and {data.size} `data`."
    )
  features = SparseFeatures(
    indptr.astype(np.int64),
    indices.astype(np.int32),
    _as_floats("data", data.ravel()),
    int(num_words),
  )
  _check_entries(features, indices)
  return features


def _as_floats(name: str, values: np.ndarray) -> np.ndarray:
  if values.dtype.kind not in "biuf":
    raise ValueError(f"`{name}` must be real numbers, got {values.dtype}.")
  # What is too large for float32 becomes infinite, and is named as such.
  with np.errstate(over="ignore"):
    return values.astype(np.float32)


def _check_entries(features: SparseFeatures, indices: np.ndarray) -> None:
  outside = (indices < 0) | (indices >= features.num_words)
  for bad, problem in (
    (outside, f"is out of range for {features.num_words} words"),
    (~np.isfinite(features.data), "has a value that is not finite"),
  ):
    if bad.any():
      entry = int(np.argmax(bad))
      raise ValueError(
        f"word {indices[entry]} of node {features.nodes[entry]} {problem}: "
        f"{features.data[entry]}."
      )


def from_dense(features: np.ndarray) -> SparseFeatures:
  """Keeps the non-zeros of a dense matrix [num_nodes, num_words].

  Raises:
    ValueError: If it is no matrix of finite numbers.

  >>> from_dense(np.array([[0.0, 2.0], [1.0, 4.0]])).indices
  array([1, 0, 1], dtype=int32)
  """
  if features.ndim != 2 or not features.size:
    raise ValueError(
      f"`{_DENSE}` must be [num_nodes, num_words], got {features.shape}."
    )
  dense = _as_floats(_DENSE, features)
  nodes, words = np.nonzero(dense)  # A nan is no zero.
  counts = np.bincount(nodes, minlength=len(dense))
  return from_csr(
    np.concatenate([[0], np.cumsum(counts)]),
    words,
    dense[nodes, words],
    num_words=dense.shape[1],
  )


def read_features(path: str | os.PathLike[str]) -> SparseFeatures:
  """Reads the features of nodes from a .npz file.

  Args:
    path: A file with the arrays ``indptr``, ``indices``, ``data`` and
      ``shape`` of compressed sparse rows [num_nodes, num_words], as
      ``scipy.sparse.save_npz`` writes them, or with a dense matrix
      ``features``.

  Returns:
    The features.

  Raises:
    FileNotFoundError: If there is no such file.
    ValueError: If it is not of this form; it names the file.
  """
  path = pathlib.Path(path)
  try:
    # Opened here: NumPy would leave a file open that is no archive.
    with path.open("rb") as file:
      return _parse(np.load(file, allow_pickle=False))
  except (ValueError, zipfile.BadZipFile, EOFError) as error:
    raise ValueError(f"{path}: {error}") from error


def _parse(arrays: Any) -> SparseFeatures:
  if not isinstance(arrays, Mapping):
    raise ValueError("this is a single array; write it by `np.savez`.")
  if _DENSE in arrays:
    return from_dense(arrays[_DENSE])
  missing = [name for name in _CSR if name not in arrays]
  if missing:
    raise ValueError(
      f"must hold {', '.join(map(repr, _CSR))} or {_DENSE!r}, got "
      f"{sorted(arrays)}."
    )
  layout = str(arrays["format"].astype(str)) if "format" in arrays else "csr"
  if layout != "csr":
    raise ValueError(f"the matrix must have the format 'csr', got {layout!r}.")
  indptr, indices, data = (arrays[name] for name in _CSR[:3])
  shape = tuple(arrays["shape"].tolist())
  if len(shape) != 2 or shape[0] != len(indptr) - 1:
    raise ValueError(
      f"`shape` must be [num_nodes, num_words] with the {len(indptr) - 1} rows "
      f"of `indptr`, got {list(shape)}."
    )
  return from_csr(indptr, indices, data, num_words=shape[1])
