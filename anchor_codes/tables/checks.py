"""Checks of what tables are given: arrays, ids and vectors."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from anchor_codes.typing import check_ids

FLOATS = ("float32", "float16")


def as_array(
  name: str,
  value: Any,
  *,
  ndim: int,
  dtypes: Sequence[str] = FLOATS,
  may_be_empty: bool = False,
) -> np.ndarray:
  """Returns a read-only view of an array of the right type and rank.

  Bytes in another order than that of the machine are copied.

  Args:
    name: The argument that an error names.
    value: Anything that NumPy takes for an array.
    ndim: Number of axes.
    dtypes: Names of the types that are allowed.
    may_be_empty: Whether an axis may be empty.

  Raises:
    ValueError: If the array is not like that.
  """
  array = np.asarray(value)
  if array.dtype.name == "bfloat16":  # Which NumPy alone cannot read; exact.
    array = array.astype(np.float32)
  # Of another machine: what serves a table knows the order of this one only.
  array = array.astype(array.dtype.newbyteorder("="), copy=False)
  if array.dtype.name not in dtypes:
    raise ValueError(
      f"`{name}` must be {' or '.join(dtypes)}, got {array.dtype}."
    )
  if array.ndim != ndim or not (array.size or may_be_empty):
    axes = f"{ndim} axes" + ("" if may_be_empty else ", none of them empty")
    raise ValueError(f"`{name}` must have {axes}, got shape {array.shape}.")
  # Of a view: the array of the caller stays writeable.
  view = array.view()
  view.flags.writeable = False
  return view


def as_scales(
  name: str,
  value: Any,
  scaled: np.ndarray,
  *,
  of: str,
  dtypes: Sequence[str] = ("float32",),
  is_scaled: bool | None = None,
  size: int | None = None,
) -> np.ndarray | None:
  """Returns a read-only view of the scales of rounded values, if they are.

  Args:
    name: The argument that an error names.
    value: One scale for each entry of the first axis of `scaled`, or None.
    scaled: What the scales multiply.
    of: The name of `scaled`.
    dtypes: Names of the types that are allowed.
    is_scaled: Whether `scaled` must have scales; by default if it is int8.
    size: Number of scales, by default the length of `scaled`.

  Raises:
    ValueError: If scales are missing, are there without a need, or do not fit.
  """
  if is_scaled is None:
    is_scaled = scaled.dtype == np.int8
  if is_scaled != (value is not None):
    raise ValueError(
      f"`{name}` must be given for {of} of integers, and only for them, got "
      f"{scaled.dtype} {of}."
    )
  if value is None:
    return None
  scales = as_array(name, value, ndim=1, dtypes=dtypes)
  shape = (len(scaled) if size is None else size,)
  check_shape(name, scales, shape, f"`{of}` {scaled.shape}")
  return scales


def as_ids(ids: Any, num_embeddings: int) -> np.ndarray:
  """Returns ids that are all in range, as NumPy indexes with them.

  Raises:
    ValueError: If the ids are not integers.
    IndexError: If an id is negative or past the end.
  """
  array = np.asarray(ids)
  if isinstance(ids, list | tuple) and not array.size:
    array = array.astype(np.intp)  # An empty list says nothing of its type.
  check_ids(array, num_embeddings)
  return array.astype(np.intp, copy=False)


def as_vectors(name: str, value: Any, features: int) -> np.ndarray:
  """Returns finite vectors of some width, float32 [size, features].

  Raises:
    ValueError: If there are none, they have another width, or are not finite.
  """
  with np.errstate(over="ignore"):  # The check below says it better.
    vectors = np.asarray(value, np.float32)
  if vectors.ndim != 2 or vectors.shape[1] != features or not len(vectors):
    raise ValueError(
      f"`{name}` must be [size, {features}] with at least one vector, got "
      f"shape {vectors.shape}."
    )
  # Of a sum: one that is finite needs no second array as large as the first.
  if not np.isfinite(vectors.sum(dtype=np.float64)):
    raise ValueError(f"`{name}` must be finite, got nan or infinite values.")
  return vectors


def cast(name: str, array: np.ndarray, dtype: str) -> np.ndarray:
  """Rounds an array to 'float32' or 'float16'.

  Raises:
    ValueError: If a value of `name` is too large for the type, or no number.
  """
  limit = np.finfo(dtype).max
  # In this form `nan` is refused, too.
  if array.size and not np.abs(array).max() <= limit:
    raise ValueError(f"`{name}` must lie within {limit} for {dtype}.")
  return array.astype(dtype)


def check_shape(
  name: str, array: np.ndarray, shape: tuple[int, ...], other: str
) -> None:
  """Raises `ValueError` unless the array has the shape that `other` asks."""
  if array.shape != shape:
    raise ValueError(
      f"`{name}` must have shape {shape} to fit {other}, got {array.shape}."
    )
