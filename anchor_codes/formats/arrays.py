"""NumPy's own files: one array (.npy), or an archive of some (.npz)."""

import os
import zipfile
from collections.abc import Mapping

import numpy as np

from anchor_codes.formats import choosing
from anchor_codes.formats.matrix import FormatError

_HEADERS = {
  (1, 0): np.lib.format.read_array_header_1_0,
  (2, 0): np.lib.format.read_array_header_2_0,
}


def read_npy(path: str | os.PathLike) -> np.ndarray:
  """Maps the array of a file into memory, read-only."""
  # Pickled objects could run any code, and are refused.
  return np.load(path, mmap_mode="r", allow_pickle=False)


def read_npz(
  path: str | os.PathLike, tensor: str | None
) -> tuple[np.ndarray, list[str] | None]:
  """Reads the vectors of an archive, and their words if they are in it.

  Args:
    path: A file of `numpy.savez` or `numpy.savez_compressed`.
    tensor: Name of the vectors, or None for the only floats of two axes.

  Returns:
    The vectors, and the words if the archive has one array of strings of as
    many rows.
  """
  with zipfile.ZipFile(path) as archive:
    if not any(name.endswith(".npy") for name in archive.namelist()):
      raise FormatError(
        "It is an archive, but none of NumPy: save a PyTorch checkpoint as "
        ".safetensors."
      )
    arrays = _headers(archive)
  vectors = choosing.choose(arrays, tensor)
  words = _find_words(arrays, vectors)
  with np.load(path, allow_pickle=False) as archive:
    strings = None if words is None else _strings(archive[words])
    return archive[vectors], strings


def _find_words(
  arrays: Mapping[str, choosing.Entry], vectors: str
) -> str | None:
  """Finds the words of some vectors; none of them is lost without a word."""
  rows = arrays[vectors].shape[:1]
  words = [n for n, a in arrays.items() if a.kind in "US" and a.shape == rows]
  if len(words) > 1:
    raise FormatError(f"It has several arrays of words: {words}; keep one.")
  forms = [(entry.kind, len(entry.shape)) for entry in arrays.values()]
  for name, entry in arrays.items():
    # Of another length they may belong to another matrix.
    belongs = forms.count(("f", 2)) == 1 or entry.shape == rows
    if not words and entry.kind in "USO" and belongs:
      raise FormatError(
        f"Words must be strings, one for each of the {rows[0]} rows, got "
        f"{name!r} of type {entry.dtype} and shape {list(entry.shape)}: save "
        "them as `np.array(words, dtype=str)`, or leave them out."
      )
  return words[0] if words else None


def _headers(archive: zipfile.ZipFile) -> Mapping[str, choosing.Entry]:
  """Finds types and shapes, so that nothing is unpacked that is not asked."""
  arrays = {}
  for info in archive.infolist():
    if not info.filename.endswith(".npy"):
      continue
    with archive.open(info) as file:
      parse = _HEADERS.get(np.lib.format.read_magic(file))
      if parse is None:  # With names of fields: structured, no vectors.
        continue
      shape, _, dtype = parse(file)
    # A damaged shape would ask for any amount of memory.
    if dtype.itemsize * int(np.prod(shape, dtype=object)) <= info.file_size:
      name = info.filename.removesuffix(".npy")
      arrays[name] = choosing.Entry(dtype.name, tuple(shape), dtype.kind)
  return arrays


def _strings(array: np.ndarray) -> list[str]:
  return (np.char.decode(array) if array.dtype.kind == "S" else array).tolist()
