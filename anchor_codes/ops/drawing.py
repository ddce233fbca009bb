"""Random rows of large tables, drawn in little more memory than they take.

A draw of JAX holds some copies of its result until it is done. A table of which
one copy just fits would be too large to start.
"""

import math
from collections.abc import Callable

import jax
from jax import core, lax
from jax import numpy as jnp
from jaxtyping import Array, DTypeLike, Float, PRNGKeyArray, Shaped

_BLOCK_ENTRIES = 2**24
"""Entries that are drawn at a time; of a table with fewer all at once."""

Draw = Callable[[PRNGKeyArray, int], Shaped[Array, "num_rows ..."]]
"""Draws so many rows from a key."""


def draw_rows(
  key: PRNGKeyArray, num_rows: int, draw: Draw
) -> Shaped[Array, "num_rows ..."]:
  """Draws the rows of a table, block by block if it is large.

  Args:
    key: Source of randomness.
    num_rows: Number of rows, at least 1.
    draw: Draws rows that are independent of each other.

  Returns:
    The rows. Where the key is traced, as under ``jax.jit``, all blocks are
    drawn at once, to the same numbers: devices can share them then.

  >>> draw_rows(jax.random.key(0), 3, lambda key, number: (
  ...     jax.random.bits(key, (number, 2)))).shape
  (3, 2)
  """
  row = jax.eval_shape(lambda key: draw(key, 1), key)
  block = max(_BLOCK_ENTRIES // max(math.prod(row.shape[1:]), 1), 1)
  if num_rows <= block:
    return draw(key, num_rows)
  numbers = jnp.arange(-(-num_rows // block))
  draw_block = lambda number: draw(jax.random.fold_in(key, number), block)
  if isinstance(key, core.Tracer):
    rows = jax.vmap(draw_block)(numbers)
    return rows.reshape(-1, *row.shape[1:])[:num_rows]

  def fill() -> Array:
    # In place, which it is inside of one compiled function alone.
    put = lambda number, rows: lax.dynamic_update_slice_in_dim(
      rows, draw_block(number), number * block, axis=0
    )
    rows = jnp.zeros((num_rows, *row.shape[1:]), row.dtype)
    whole = num_rows // block
    rows = lax.fori_loop(0, whole, put, rows)
    if num_rows % block:
      rest = draw_block(whole)[: num_rows % block]
      rows = lax.dynamic_update_slice_in_dim(rows, rest, whole * block, axis=0)
    return rows

  return jax.jit(fill)()


def normal_rows(
  key: PRNGKeyArray,
  shape: tuple[int, ...],
  *,
  scale: float = 1.0,
  dtype: DTypeLike = jnp.float32,
) -> Float[Array, "num_rows ..."]:
  """Draws rows of independent normal entries, by :func:`draw_rows`.

  Args:
    key: Source of randomness.
    shape: Of the result, the rows first.
    scale: Standard deviation of an entry, non-negative.
    dtype: Type of the result.

  >>> normal_rows(jax.random.key(0), (3, 2), scale=0.1).shape
  (3, 2)
  """

  def draw(key: PRNGKeyArray, number: int) -> Array:
    return scale * jax.random.normal(key, (number, *shape[1:]), dtype)

  return draw_rows(key, shape[0], draw)
