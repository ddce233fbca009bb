"""Rare random changes of ids, at the cost of the changes alone."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from anchor_codes.typing import check_at_least, check_rate

Replace = Callable[[PRNGKeyArray, Int[Array, " few"]], Int[Array, " few"]]
"""Replaces each of some ids, given a key."""


def rare_positions(
  key: PRNGKeyArray, *, size: int, rate: float
) -> Int[Array, " num_draws"]:
  r"""Draws the positions that a coin of small probability hits.

  The gap between two hits is geometric, :math:`\lceil \log U / \log(1 - r)
  \rceil` for a uniform :math:`U` (Devroye, 1986, chapter X.2), so that a few
  draws stand for a coin at each position. They are eight standard deviations
  more than the expected number of hits: that they do not reach the end has a
  probability far below that of two equal draws.

  Args:
    key: Random key.
    size: Number of positions, from 1 to almost ``2 ** 31``.
    rate: Probability :math:`r` of each, in ``(0, 1)``; not traced.

  Returns:
    The positions, ascending and distinct; those from `size` on are none.

  Raises:
    ValueError: If an option is out of range.

  >>> positions = rare_positions(jax.random.key(0), size=10_000, rate=0.01)
  >>> print(positions.size, 60 < jnp.sum(positions < 10_000) < 140)
  196 True
  """
  check_at_least("size", size, 1)
  check_rate("rate", rate)
  if rate in (0, 1):
    raise ValueError(f"`rate` must be inside of (0, 1), got {rate}.")
  num_draws = _num_draws(size, rate)
  largest = 2**31 - 1 - num_draws
  if size > largest:
    raise ValueError(
      f"`size` must be at most {largest} for int32 positions, got {size}: draw "
      "for parts of them."
    )
  draws = jax.random.uniform(key, (num_draws,), jnp.float32)
  # In (0, 1]: the logarithm is finite.
  gaps = jnp.floor(jnp.log(1 - draws) / math.log1p(-rate))
  # No draw of float32 is nearer to 1 than exp(-17), so that short gaps, which
  # are usual, have a sum that never overflows.
  if num_draws * (2 + min(size, -17 / math.log1p(-rate))) < 2**31:
    return jnp.cumsum(1 + jnp.minimum(gaps, size).astype(jnp.int32)) - 1
  return _saturating_sum(gaps, size, largest) - 1


def replace_some(
  key: PRNGKeyArray,
  ids: Int[Array, "*batch"],
  replace: Replace,
  *,
  rate: float,
) -> Int[Array, "*batch"]:
  r"""Replaces each id with some probability, at random.

  The law is that of a coin for each id. For a small rate the work grows with
  the ids that are replaced, see :func:`rare_positions`, not with the batch.

  Args:
    key: Random key.
    ids: Ids of any shape and integer type.
    replace: From a key and some ids, of one axis, to what takes their place.
    rate: Probability of replacement, between 0 and 1; not traced. 0 changes
      nothing.

  Returns:
    Ids like `ids`.

  Raises:
    ValueError: If the rate is out of range.

  >>> swap = lambda key, ids: -ids
  >>> ids = jnp.arange(1, 1001)
  >>> new = replace_some(jax.random.key(0), ids, swap, rate=0.01)
  >>> print(jnp.array_equal(jnp.abs(new), ids), 0 < jnp.sum(new < 0) < 40)
  True True
  """
  check_rate("rate", rate)
  if rate == 0 or ids.size == 0:
    return ids
  key_hit, key_new = jax.random.split(key)
  flat = ids.reshape(-1)
  if 2 * _num_draws(flat.size, rate) > flat.size:
    hit = jax.random.uniform(key_hit, flat.shape, jnp.float32) < rate
    return jnp.where(hit, replace(key_new, flat), flat).reshape(ids.shape)
  positions = rare_positions(key_hit, size=flat.size, rate=rate)
  new = replace(key_new, flat.at[positions].get(mode="clip"))
  flat = flat.at[positions].set(
    new, mode="drop", unique_indices=True, indices_are_sorted=True
  )
  return flat.reshape(ids.shape)


def _saturating_sum(
  gaps: Float[Array, " num_draws"], size: int, largest: int
) -> Int[Array, " num_draws"]:
  """Adds up steps; from the first sum that is too large on, one by one."""
  # A sum of two that int32 holds is one that uint32 holds.
  steps = 1 + jnp.minimum(gaps, size).astype(jnp.uint32)
  sums = jax.lax.associative_scan(
    lambda left, right: jnp.minimum(left + right, largest),
    jnp.minimum(steps, largest),
  )
  beyond = largest + jnp.arange(sums.size, dtype=jnp.uint32)
  return jnp.where(sums < largest, sums, beyond).astype(jnp.int32)


def _num_draws(size: int, rate: float) -> int:
  mean = size * rate
  return math.ceil(mean + 8 * math.sqrt(mean * (1 - rate)) + 16)
