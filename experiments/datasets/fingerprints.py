"""Digests of data sets, which tell whether two are the same."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_ORIGIN = ("source", "origin")
"""Fields that say where data come from: the same may come from elsewhere."""


def fingerprint(data: Any) -> str:
  """Computes a digest of all that a data set holds.

  Args:
    data: Named tuples, sequences and mappings of arrays, texts, numbers and
      None. What named tuples call their `source` or `origin` does not count.

  Returns:
    The SHA-256, in hexadecimal digits.

  Raises:
    TypeError: If there is anything else in it.

  >>> words = np.array([0, 1]), ("a", "b")
  >>> fingerprint(words) == fingerprint((np.array([0, 1]), ("a", "b")))
  True
  >>> fingerprint(words) == fingerprint((np.array([0, 1]), ("b", "a")))
  False
  """
  digest = hashlib.sha256()
  _add(digest, data)
  return digest.hexdigest()


def _add(digest: Any, part: Any) -> None:
  """Adds a part, whose kind and length go first: none is taken for another."""
  if isinstance(part, np.ndarray):
    _add_bytes(digest, f"array {part.dtype.str} {part.shape}".encode())
    if part.dtype.hasobject:
      _add(digest, part.ravel().tolist())
    else:
      _add_bytes(digest, np.ascontiguousarray(part).data.cast("B"))
  elif isinstance(part, str):
    _add_bytes(digest, part.encode("utf-8", "surrogatepass"))
  elif part is None or isinstance(part, int | float | np.generic):
    _add_bytes(digest, repr(part).encode())
  elif isinstance(part, Mapping):
    _add_bytes(digest, b"mapping")
    _add(digest, sorted(part.items()))
  elif isinstance(part, Sequence):
    names = getattr(part, "_fields", range(len(part)))
    kept = [p for n, p in zip(names, part, strict=True) if n not in _ORIGIN]
    _add_bytes(digest, f"sequence {len(kept)}".encode())
    for inner in kept:
      _add(digest, inner)
  else:
    raise TypeError(f"data must not hold a {type(part).__name__}.")


def _add_bytes(digest: Any, content: bytes | memoryview) -> None:
  digest.update(len(content).to_bytes(8, "little"))
  digest.update(content)
