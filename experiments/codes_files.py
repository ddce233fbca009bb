"""Codes that others have made, from files."""

import os
import pathlib

import numpy as np

from anchor_codes.ops import as_codes


def read_codes(
  path: str | os.PathLike[str],
  *,
  codebook_size: int | None = None,
  num_embeddings: int | None = None,
) -> np.ndarray:
  """Reads codes from a .npy file, or from the array `codes` of a .npz file.

  The latter is how the authors of KD codes (Chen et al., ICML 2018) publish
  theirs. Nothing is unpickled.

  Args:
    path: The file.
    codebook_size: Values of a digit; if None, the smallest size that holds
      all of them, and at least 2.
    num_embeddings: Number of codes that there have to be, any if None.

  Returns:
    Codes [num_embeddings, code_length] in the smallest unsigned type.

  Raises:
    ValueError: If the file is of another kind, or what it holds is no codes;
      it names the file.
  """
  path = pathlib.Path(path)
  codes = _read_array(path)
  if codes.ndim != 2 or not codes.size:
    raise ValueError(
      f"Codes must have 2 axes, none of them empty, got shape {codes.shape} in "
      f"{path}."
    )
  if codebook_size is None and np.issubdtype(codes.dtype, np.integer):
    codebook_size = max(int(codes.max()) + 1, 2)
  rows, length = codes.shape
  return as_codes(
    str(path),
    codes,
    num_embeddings=rows if num_embeddings is None else num_embeddings,
    code_length=length,
    codebook_size=codebook_size or 2,
  )


def _read_array(path: pathlib.Path) -> np.ndarray:
  if path.suffix not in (".npy", ".npz"):
    raise ValueError(f"Codes must be in a .npy or .npz file, got {path}.")
  loaded = np.load(path, allow_pickle=False)
  if isinstance(loaded, np.ndarray):
    return loaded
  with loaded:
    if "codes" not in loaded:
      raise ValueError(
        f"`codes` must be an array of {path}, got {sorted(loaded)}."
      )
    return loaded["codes"]
