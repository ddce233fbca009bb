r"""Lookup of rows that are split over devices, for use in ``jax.shard_map``.

Device :math:`p` of :math:`n` holds the rows :math:`[p R, (p + 1) R)` of a
table. A lookup is two moves, ids to the owners of the rows and rows to the
devices that asked, and so is its gradient, the other way round. Both kinds of
:class:`Route` say the same three things, so that the moves are written once:

* "scatter": all devices see all ids, take what they own, and ``psum_scatter``
  brings each part of the batch home. It has no limits, but a device sends
  :math:`(n - 1) / n` of the rows of the whole batch, most of them zeros.
* "all_to_all": an id goes to its owner alone, with a fixed room for each pair
  of devices, since shapes are fixed. What finds no room is counted.

The rows that travel are whatever a table keeps for a symbol. Where that is
less than the vector (8 weights and positions of anchors take 48 bytes, a code
of 16 digits takes 16, and fewer as packed bits), compose after the move.
"""

import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Shaped

from anchor_codes.ops import indexing

Exchange = Literal["auto", "scatter", "all_to_all"]
"""How rows travel; "auto" leaves the moves to the compiler."""


class Route(NamedTuple):
  """Which rows a device gives, and where those that it wants arrive.

  Attributes:
    requests: Local rows that this device gives, in the order of the answers;
      past the end of its rows where nothing is asked.
    slots: For each id its position among the rows that arrive; past their end
      for an id outside the table, or without room. Any shape will do.
    overflow: How many ids of all devices have found no room.
  """

  requests: Int[Array, " num_requests"]
  slots: Int[Array, "*batch"]
  overflow: Int[Array, ""]


def scatter_route(
  ids: Int[Array, " batch"],
  *,
  num_embeddings: int,
  rows_per_shard: int,
  axis_name: str,
) -> Route:
  """Shows all ids to all devices.

  Args:
    ids: The ids of this device, in any order.
    num_embeddings: Number of rows of the table, without padding. An id that is
      negative or past the end lies outside.
    rows_per_shard: Number of rows of a device.
    axis_name: Axis of the mesh over which rows and ids are split.

  Returns:
    The route for :func:`fetch_rows` and :func:`return_rows`, without overflow.

  Raises:
    ValueError: If the ids are not integers.

  >>> from jax.sharding import Mesh, PartitionSpec as P
  >>> def lookup(rows, ids):
  ...   route = scatter_route(
  ...     ids, num_embeddings=3, rows_per_shard=3, axis_name="data"
  ...   )
  ...   return fetch_rows(rows, route, axis_name="data", exchange="scatter")
  >>> mesh = Mesh(jax.devices()[:1], ("data",))
  >>> lookup = jax.jit(jax.shard_map(
  ...   lookup, mesh=mesh, in_specs=P("data"), out_specs=P("data")
  ... ))
  >>> print(lookup(jnp.array([1.0, 2.0, 3.0]), jnp.array([2, 0, 3])))
  [ 3.  1. nan]
  """
  ids = _outside_last(ids, num_embeddings)
  everyones = jax.lax.all_gather(ids, axis_name, tiled=True)
  local = everyones - jax.lax.axis_index(axis_name) * rows_per_shard
  owned = (local >= 0) & (local < rows_per_shard)
  # A sentinel may be the number of a row of padding.
  owned &= everyones < num_embeddings
  places = jnp.arange(ids.size, dtype=jnp.int32)
  return Route(
    requests=jnp.where(owned, local, rows_per_shard),
    slots=jnp.where(ids < num_embeddings, places, ids.size),
    overflow=jnp.int32(0),
  )


def all_to_all_route(
  ids: Int[Array, " batch"],
  *,
  num_embeddings: int,
  rows_per_shard: int,
  axis_name: str,
  capacity_factor: float = 1.5,
) -> Route:
  """Sends each id to the device that owns its row.

  Args:
    ids: The ids of this device in ascending order, those outside the table
      last; best without duplicates, which take up room.
    num_embeddings: Number of rows of the table, without padding.
    rows_per_shard: Number of rows of a device.
    axis_name: Axis of the mesh over which rows and ids are split.
    capacity_factor: As for :func:`exchange_capacity`.

  Returns:
    The route for :func:`fetch_rows` and :func:`return_rows`.

  Raises:
    ValueError: If the ids are not integers, or the factor is not positive.

  >>> from jax.sharding import Mesh, PartitionSpec as P
  >>> def lookup(rows, ids):
  ...   route = all_to_all_route(
  ...     ids, num_embeddings=3, rows_per_shard=3, axis_name="data"
  ...   )
  ...   return fetch_rows(rows, route, axis_name="data", exchange="all_to_all")
  >>> mesh = Mesh(jax.devices()[:1], ("data",))
  >>> lookup = jax.jit(jax.shard_map(
  ...   lookup, mesh=mesh, in_specs=P("data"), out_specs=P("data")
  ... ))
  >>> print(lookup(jnp.array([1.0, 2.0, 3.0]), jnp.array([0, 2, 3])))
  [ 1.  3. nan]
  """
  num_shards = jax.lax.axis_size(axis_name)
  room = exchange_capacity(
    ids.size, num_shards=num_shards, capacity_factor=capacity_factor
  )
  room = min(room, rows_per_shard)
  ids = _outside_last(ids, num_embeddings)
  shards = jnp.arange(num_shards + 1, dtype=jnp.int32)
  # The ids of an owner stand side by side.
  firsts = jnp.minimum(shards * rows_per_shard, num_embeddings)
  edges = jnp.searchsorted(ids, firsts).astype(jnp.int32)
  places = jnp.arange(room, dtype=jnp.int32)[None, :]
  sources = edges[:-1, None] + places
  wanted = jnp.take(ids, sources, mode="clip") - firsts[:-1, None]
  asked = jnp.where(sources < edges[1:, None], wanted, rows_per_shard)
  owners = jnp.minimum(ids // rows_per_shard, num_shards - 1)
  positions = jnp.arange(ids.size, dtype=jnp.int32)
  place = positions - jnp.take(edges, owners, mode="clip")
  inside = ids < num_embeddings
  fits = inside & (place < room)
  return Route(
    requests=_all_to_all(asked.reshape(-1), axis_name),
    slots=jnp.where(fits, owners * room + place, num_shards * room),
    overflow=jax.lax.psum(jnp.sum(inside & ~fits, dtype=jnp.int32), axis_name),
  )


def exchange_capacity(
  num_ids: int, *, num_shards: int, capacity_factor: float = 1.5
) -> int:
  r"""Returns the room for the ids that one device asks of another.

  Definition: :math:`\min(\lceil c B / n \rceil + 64, B)` for :math:`B` ids of a
  device and :math:`n` devices: :math:`c` times the mean, and something for the
  spread of few ids. With :math:`c \ge n` nothing can overflow. Where small ids
  are the frequent ones, as in a vocabulary sorted by counts, the first device
  owns most of what is asked: take a larger factor, or shuffle the vocabulary.

  Args:
    num_ids: Ids of a device, at least 0.
    num_shards: Number of devices, at least 1.
    capacity_factor: The :math:`c`, positive.

  Raises:
    ValueError: If the factor is not positive and finite.

  >>> exchange_capacity(4096, num_shards=4), exchange_capacity(8, num_shards=4)
  (1600, 8)
  """
  if not 0 < capacity_factor < math.inf:
    raise ValueError(
      f"`capacity_factor` must be positive and finite, got {capacity_factor}."
    )
  return min(math.ceil(capacity_factor * num_ids / num_shards) + 64, num_ids)


def fetch_rows(
  rows: Shaped[Array, " rows_per_shard *shape"],
  route: Route,
  *,
  axis_name: str,
  exchange: Exchange,
) -> Shaped[Array, "..."]:
  """Brings the rows of a batch to the devices that asked for them.

  Args:
    rows: The rows of this device.
    route: Where they go.
    axis_name: Axis of the mesh over which rows and ids are split.
    exchange: The kind of the route. With "auto" the rows are those of all
      devices, and nothing is said about how they travel.

  Returns:
    One row for each id, bit for bit, but that "scatter", a sum with zeros, may
    lose the sign of a zero and numbers that are not normal. An id outside the
    table, or without room, has ``nan``; a row of integers, zeros.

  >>> route = Route(jnp.array([1, 2]), jnp.array([1, 0, 1, 2]), jnp.int32(0))
  >>> rows = jnp.array([1.0, 2.0, 3.0])
  >>> print(fetch_rows(rows, route, axis_name="data", exchange="auto"))
  [ 3.  2.  3. nan]
  """
  answers = indexing.take_rows(rows, route.requests, fill_value=0.0)
  if exchange == "scatter":
    # One device at most adds anything but zeros: nothing is rounded.
    answers = jax.lax.psum_scatter(answers, axis_name, tiled=True)
  elif exchange == "all_to_all":
    answers = _all_to_all(answers, axis_name)
  return indexing.take_rows(answers, route.slots)


def return_rows(
  values: Shaped[Array, "..."],
  route: Route,
  *,
  axis_name: str,
  exchange: Exchange,
) -> Shaped[Array, " num_requests *shape"]:
  """Takes what belongs to the rows of a batch back to their owners.

  The transpose of :func:`fetch_rows`, but for the last step: a gradient that is
  as large as the table is never built.

  Args:
    values: One gradient for each of ``route.slots``; its shape need not be
      that of the rows.
    route: The route on which the rows came.
    axis_name: Axis of the mesh over which rows and ids are split.
    exchange: The kind of the route.

  Returns:
    What to add up for each of ``route.requests``: the values of the same id of
    one device are summed, those of several devices are not.

  >>> route = Route(jnp.array([1, 2]), jnp.array([1, 0, 1, 2]), jnp.int32(0))
  >>> values = jnp.array([1.0, 2.0, 3.0, 4.0])
  >>> print(return_rows(values, route, axis_name="data", exchange="auto"))
  [2. 4.]
  """
  size = route.requests.shape[0]
  if exchange == "scatter":
    size //= jax.lax.axis_size(axis_name)
  shape = values.shape[route.slots.ndim :]
  sums = jnp.zeros((size, *shape), values.dtype)
  sums = sums.at[route.slots].add(values, mode="drop")
  if exchange == "scatter":
    return jax.lax.all_gather(sums, axis_name, tiled=True)
  return _all_to_all(sums, axis_name) if exchange == "all_to_all" else sums


def _all_to_all(values: Array, axis_name: str) -> Array:
  return jax.lax.all_to_all(values, axis_name, 0, 0, tiled=True)


def _outside_last(
  ids: Int[Array, " batch"], num_embeddings: int
) -> Int[Array, " batch"]:
  """Replaces ids outside the table by the number past its end."""
  inside = indexing.inside_table(ids, num_embeddings=num_embeddings)
  # A narrow type may hold all ids, but not the sentinel; a wide one may hold
  # ids that would become rows when they are cut to 32 bits.
  ids = ids.astype(jnp.int32)
  return jnp.where(inside, ids, num_embeddings)
