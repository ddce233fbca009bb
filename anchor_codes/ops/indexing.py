"""Gathering rows: an id outside the table is never silently another row."""

import math
from typing import Any

import jax
import numpy as np
from jax import core
from jax import numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from anchor_codes import typing


def as_ids(inputs: Any, *, num_embeddings: int) -> Int[Array, "*batch"]:
  """Returns ids as a JAX array, checked where their values are known.

  Args:
    inputs: Integers of any shape: an array, a number, or nested lists.
    num_embeddings: Number of rows of the table.

  Returns:
    The ids as ``int32``, or ``int64`` where JAX has it enabled.

  Raises:
    ValueError: If the ids are not integers, or that type cannot hold those of
      the whole table.
    IndexError: If an id is negative or past the end. Under a transformation
      such as ``jax.jit`` the values are unknown, and such an id gives ``nan``
      in :func:`take_rows`.

  >>> as_ids([2, 0], num_embeddings=3)
  Array([2, 0], dtype=int32)
  """
  limit = jnp.iinfo(_index_dtype()).max
  if num_embeddings > limit:
    raise ValueError(
      f"`num_embeddings` must be at most {limit} for ids of type "
      f"{_index_dtype()}, got {num_embeddings}."
    )
  if isinstance(inputs, core.Tracer):
    return _index(inputs)
  # Checked as NumPy has them: JAX would have cut 64 bits down to 32 by then.
  ids = np.asarray(inputs)
  if not ids.size and not hasattr(inputs, "dtype"):
    ids = ids.astype(np.int32)  # An empty list has no type of its own.
  typing.check_ids(ids, num_embeddings)
  return jnp.asarray(inputs, _index_dtype())


def clip_ids(
  ids: Int[Array, "*batch"], *, num_embeddings: int
) -> tuple[Int[Array, "*batch"], Int[Array, ""]]:
  """Clips ids to the table, and counts those that were outside.

  For pipelines that must go on: report the counter with the metrics.

  Args:
    ids: Ids of any shape.
    num_embeddings: Number of rows of the table.

  Returns:
    The clipped ids, as ``int32`` or ``int64``, and how many of them were out
    of range.

  Raises:
    ValueError: If the ids are not integers.

  >>> ids, num_clipped = clip_ids(jnp.array([1, 7, -1]), num_embeddings=5)
  >>> print(ids, num_clipped)
  [1 4 0] 2
  """
  ids = _index(ids)
  clipped = jnp.clip(ids, 0, num_embeddings - 1)
  return clipped, jnp.sum(clipped != ids)


def inside_table(
  ids: Int[Array, "*batch"], *, num_embeddings: int
) -> Bool[Array, "*batch"]:
  """Tells which ids are rows of the table.

  Args:
    ids: Ids of any shape.
    num_embeddings: Number of rows of the table.

  Returns:
    False for an id that is negative or past the end.

  Raises:
    ValueError: If the ids are not integers.

  >>> print(inside_table(jnp.array([1, 7, -1]), num_embeddings=5))
  [ True False False]
  """
  typing.check_integer_ids(ids)
  inside = ids >= 0
  # JAX would wrap around a number that the type of the ids does not hold.
  if num_embeddings <= jnp.iinfo(ids.dtype).max:
    inside &= ids < np.asarray(num_embeddings, ids.dtype)
  return jnp.asarray(inside)


def take_rows(
  rows: Shaped[Array, " num_embeddings *shape"],
  ids: Int[Array, "*batch"],
  *,
  fill_value: float = math.nan,
) -> Shaped[Array, "..."]:
  """Gathers rows; an id outside the table gives a row of ``nan``.

  Plain indexing clamps ids past the end and wraps negative ones around; here
  both are as visible as in ``flax.nnx.Embed``.

  Args:
    rows: The table.
    ids: Ids of any shape.
    fill_value: What stands in the row of an id outside the table. Rows of
      integers are filled with zero: use them with floats gathered beside them.

  Returns:
    One row for each id.

  Raises:
    ValueError: If the ids are not integers.

  >>> print(take_rows(jnp.array([[1.0], [2.0]]), jnp.array([1, 2, -1])))
  [[ 2.]
   [nan]
   [nan]]
  """
  # Cast to an integer, `nan` may be any number.
  is_float = jnp.issubdtype(rows.dtype, jnp.inexact)
  return rows.at[_no_wrap(ids, rows.shape[0])].get(
    mode="fill", fill_value=fill_value if is_float else 0
  )


def put_rows(
  rows: Shaped[Array, " num_embeddings *shape"],
  ids: Int[Array, " size"],
  values: Shaped[Array, " size *shape"],
) -> Shaped[Array, " num_embeddings *shape"]:
  """Writes rows back; an id outside the table is dropped.

  Args:
    rows: The table.
    ids: Distinct ids; those outside the table are padding.
    values: The new rows, cast to the type of the table.

  Returns:
    The table with the new rows, in place where its buffer is donated.

  Raises:
    ValueError: If the ids are not integers.

  >>> print(put_rows(jnp.zeros((3, 1)), jnp.array([1, 3]), jnp.ones((2, 1))))
  [[0.]
   [1.]
   [0.]]
  """
  # Without `unique_indices`, for ids of padding are all the same.
  return rows.at[_no_wrap(ids, rows.shape[0])].set(
    values.astype(rows.dtype), mode="drop"
  )


def nan_outside(
  vectors: Float[Array, "*batch features"],
  ids: Int[Array, "*batch"],
  *,
  num_embeddings: int,
) -> Float[Array, "*batch features"]:
  """Puts ``nan`` where an id lies outside the table.

  For lookups that pass through integers, where a ``nan`` would get lost.

  Args:
    vectors: One vector for each id.
    ids: The ids.
    num_embeddings: Number of rows of the table.

  Returns:
    The vectors, with ``nan`` for each id outside the table.

  Raises:
    ValueError: If the ids are not integers.

  >>> print(nan_outside(jnp.ones((2, 1)), jnp.array([0, 9]), num_embeddings=5))
  [[ 1.]
   [nan]]
  """
  inside = inside_table(ids, num_embeddings=num_embeddings)
  return jnp.where(inside[..., None], vectors, jnp.nan)


def _index_dtype() -> np.dtype:
  return jax.dtypes.canonicalize_dtype(np.int64)


def _index(ids: Any) -> Int[Array, "*batch"]:
  """Casts ids to a type in which an id outside the table stays outside."""
  typing.check_integer_ids(ids)
  largest, info = int(jnp.iinfo(_index_dtype()).max), jnp.iinfo(ids.dtype)
  if isinstance(ids, np.ndarray):
    # JAX would cut 64 bits down to 32, and make a row of a large id.
    ids = np.clip(ids, max(-1, info.min), min(largest, info.max))
  elif info.max > largest:
    # A large id without a sign would become a negative one.
    ids = jnp.minimum(ids, largest)
  return jnp.asarray(ids, _index_dtype())


def _no_wrap(ids: Int[Array, "*batch"], num_rows: int) -> Int[Array, "*batch"]:
  """Sends all ids outside the table to its end, which 32 bits can name.

  Indexing would wrap negative ones around, and cut 64 bits down to 32.
  """
  ids = _index(ids)
  return jnp.where((ids < 0) | (ids >= num_rows), num_rows, ids)
