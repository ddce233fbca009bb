r"""Rows that are split over devices: a table too large for one of them.

Device :math:`p` of :math:`n` holds an equal part of the rows and of their
optimiser's state, padded with zeros where :math:`n` does not divide them. A
step moves the rows of its batch, and their gradients, and nothing of the size
of the table:

1. :func:`exchange_rows` brings the rows of a batch to where their ids are;
2. the loss is differentiated with respect to these rows, as if there were one
   device;
3. :func:`update_sharded_rows` takes the gradients back to the owners, each of
   which updates its own rows, see :mod:`anchor_codes.training.rows`.

All is said about global arrays, inside of the step that
:func:`~anchor_codes.training.compile_chunk` compiles.

>>> import optax
>>> from anchor_codes.training import data_mesh, pad_rows, update_rows
>>> mesh = data_mesh(jax.devices()[:1])
>>> optimizer = optax.sgd(0.5)
>>> rows = pad_rows(jnp.ones((5, 2)), mesh.size)
>>> state = optimizer.init(rows)
>>> ids = jnp.array([4, 2, 4])
>>> batch, route = exchange_rows(rows, ids, num_embeddings=5, mesh=mesh)
>>> gradients = jax.grad(lambda batch: batch.sum())(batch)
>>> update = functools.partial(update_rows, optimizer)
>>> rows, state = update_sharded_rows(
...   update, rows, state, route, gradients, mesh=mesh
... )
>>> print(rows[:, 0])
[1.  1.  0.5 1.  0. ]
"""

import functools
from collections.abc import Callable
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int, PyTree

from anchor_codes import typing
from anchor_codes.ops import sharded_lookup
from anchor_codes.training import sharding
from anchor_codes.training.rows import unique_ids
from anchor_codes.training.sharding import AXIS, REPLICATED, SPLIT, Rows

RowExchange = sharded_lookup.Exchange

RowUpdate = Callable[[Any, Any, Array, Any], tuple[Any, Any]]
"""``update(rows, state, ids, gradients) -> (rows, state)`` of one device."""

# Of any type: specs stand where a route has its arrays.
_ROUTE_SPECS: Any = (SPLIT, SPLIT, REPLICATED)


def exchange_rows(
  rows: PyTree,
  ids: Int[Array, "*batch"],
  *,
  num_embeddings: int,
  mesh: Mesh,
  exchange: RowExchange = "scatter",
  capacity_factor: float = 1.5,
) -> tuple[PyTree, sharded_lookup.Route]:
  """Brings the rows of a batch to the devices that hold its ids.

  What travels is the record of a symbol as it is stored: compose its vector
  afterwards, from anchors or codebooks that all devices have. For rows that are
  larger than the vector, such as dense rows of a transform with more anchors
  than features, nothing is gained.

  Args:
    rows: A pytree of arrays [num_rows, ...], split over "data", with padding.
    ids: The ids of the global batch, its first axis split over "data". An id
      outside the table gives ``nan``, in a leaf of integers zero.
    num_embeddings: Number of rows of the table, without padding.
    mesh: The devices, with an axis "data".
    exchange: "scatter" sends the rows of the whole batch along all devices,
      and has no limits. "all_to_all" sends a row to who asked for it, each id
      of a device once, as long as there is room. "auto" leaves it to the
      compiler, which sums the rows of the whole batch over the devices.
    capacity_factor: Room of "all_to_all", see
      :func:`anchor_codes.ops.exchange_capacity`.

  Returns:
    The rows, ``[*batch, ...]``, split like the ids, and the route that they
    took, for :func:`update_sharded_rows`. Its `overflow` counts the distinct
    ids of a device that found no room, over all devices; their rows are
    ``nan``. Put it into the metrics.

  Raises:
    ValueError: If the devices do not divide the rows or the batch, or an
      option is outside its range.

  >>> from anchor_codes.training import data_mesh
  >>> mesh = data_mesh(jax.devices()[:1])
  >>> rows, ids = jnp.array([1.0, 2.0, 3.0]), jnp.array([[2, 7], [0, 2]])
  >>> print(exchange_rows(rows, ids, num_embeddings=3, mesh=mesh)[0])
  [[ 3. nan]
   [ 1.  3.]]
  """
  typing.check_choice("exchange", exchange, get_args(RowExchange))
  typing.check_integer_ids(ids)
  num_shards = mesh.shape[AXIS]
  num_rows = sharding.check_split(rows, num_embeddings, num_shards)
  if ids.ndim == 0 or ids.shape[0] % num_shards:
    raise ValueError(
      f"`ids` must be split evenly over {num_shards} devices along their first "
      f"axis, got the shape {ids.shape}."
    )

  ids = _narrow(ids, num_embeddings)

  def fetch(rows: PyTree, ids: Array) -> tuple[PyTree, sharded_lookup.Route]:
    route = _find_route(
      ids,
      exchange,
      num_embeddings=num_embeddings,
      rows_per_shard=num_rows // num_shards,
      capacity_factor=capacity_factor,
    )
    bring = functools.partial(
      sharded_lookup.fetch_rows, axis_name=AXIS, exchange=exchange
    )
    return jax.tree.map(lambda leaf: bring(leaf, route), rows), route

  if exchange == "auto":
    batch, route = fetch(rows, ids)
    return _constrain(batch, SPLIT, mesh), route
  moved = jax.shard_map(
    fetch,
    mesh=mesh,
    in_specs=(SPLIT, SPLIT),
    out_specs=(SPLIT, sharded_lookup.Route(*_ROUTE_SPECS)),
  )
  # Outside of a compiled step it would take seconds, operation by operation.
  return jax.jit(moved)(rows, ids)


def update_sharded_rows(
  update: RowUpdate,
  rows: Rows,
  state: Any,
  route: sharded_lookup.Route,
  gradients: PyTree,
  *,
  mesh: Mesh,
  exchange: RowExchange = "scatter",
) -> tuple[Rows, Any]:
  """Takes gradients to the owners of their rows, which update them.

  The result is that of one device, up to the order in which the gradients of
  the occurrences of an id are summed.

  Args:
    update: What an owner does, as ``update(rows, state, ids, gradients) ->
      (rows, state)`` with its own rows and state, the distinct ids to update,
      counted from its first row and filled up with the number of its rows, and
      the sums of their gradients. Such as ``functools.partial(update_rows,
      optimizer)``. It may use other arrays of the step that all devices have,
      such as anchors.
    rows: The rows, as for :func:`exchange_rows`.
    state: State of their optimiser: what has as many rows is split like them.
    route: The route of :func:`exchange_rows`.
    gradients: A pytree of arrays ``[*batch, ...]``, split like the ids. It need
      not look like `rows`: for sparse rows of anchors send the gradient of the
      vector if that is shorter than the dense row, and multiply by the anchors
      in `update`.
    mesh: The devices.
    exchange: That of :func:`exchange_rows`.

  Returns:
    The new rows and the new state, split like the old ones.

  Raises:
    ValueError: If `exchange` is unknown, or the size of the route is not that
      of such an exchange.

  >>> from anchor_codes.training import data_mesh
  >>> mesh = data_mesh(jax.devices()[:1])
  >>> rows, ids = jnp.zeros(3), jnp.array([2, 7, 2])
  >>> _, route = exchange_rows(rows, ids, num_embeddings=3, mesh=mesh)
  >>> def add(rows, state, ids, gradients):
  ...   return rows.at[ids].add(gradients, mode="drop"), state
  >>> rows, _ = update_sharded_rows(
  ...   add, rows, (), route, jnp.array([1.0, 2.0, 4.0]), mesh=mesh
  ... )
  >>> print(rows)
  [0. 0. 5.]
  """
  typing.check_choice("exchange", exchange, get_args(RowExchange))
  _check_route(route, exchange, mesh.shape[AXIS])
  num_rows = jax.tree.leaves(rows)[0].shape[0]

  def move(
    rows: Rows, state: Any, route: sharded_lookup.Route, gradients: PyTree
  ) -> tuple[Rows, Any]:
    take_back = functools.partial(
      sharded_lookup.return_rows, axis_name=AXIS, exchange=exchange
    )
    sums = jax.tree.map(lambda leaf: take_back(leaf, route), gradients)
    ids = route.requests
    if exchange == "auto":
      ids = jnp.minimum(ids, num_rows)
    else:
      ids, sums = _sum_by_id(ids, sums, num_rows // mesh.shape[AXIS])
    return update(rows, state, ids, sums)

  specs = SPLIT, sharding.row_specs(state, num_rows)
  if exchange == "auto":
    moved = move(rows, state, route, gradients)
    return _constrain(moved, specs, mesh)
  moved = jax.shard_map(
    move,
    mesh=mesh,
    in_specs=(*specs, sharded_lookup.Route(*_ROUTE_SPECS), SPLIT),
    out_specs=specs,
  )
  return jax.jit(moved)(rows, state, route, gradients)


def _narrow(ids: Any, num_embeddings: int) -> Any:
  """Casts ids of the host, of which the devices would cut 64 bits down."""
  if not isinstance(ids, np.ndarray):
    return ids
  inside = (ids >= 0) & (ids < num_embeddings)
  return np.where(inside, ids, num_embeddings).astype(np.int32)


def _find_route(
  ids: Int[Array, "*batch"],
  exchange: RowExchange,
  *,
  num_embeddings: int,
  rows_per_shard: int,
  capacity_factor: float,
) -> sharded_lookup.Route:
  """Finds the route of the ids of a device, or with "auto" of all of them."""
  sizes: dict[str, Any] = {
    "num_embeddings": num_embeddings,
    "rows_per_shard": rows_per_shard,
    "axis_name": AXIS,
  }
  if exchange == "scatter":
    route = sharded_lookup.scatter_route(ids.reshape(-1), **sizes)
    return route._replace(slots=route.slots.reshape(ids.shape))
  unique, inverse = unique_ids(ids, num_embeddings=num_embeddings)
  if exchange == "all_to_all":
    route = sharded_lookup.all_to_all_route(
      unique, capacity_factor=capacity_factor, **sizes
    )
    return route._replace(slots=route.slots[inverse])
  # The sentinel could be the number of a row of padding.
  never = jnp.iinfo(jnp.int32).max
  requests = jnp.where(unique < num_embeddings, unique, never)
  slots = jnp.where(requests[inverse] == never, unique.size, inverse)
  return sharded_lookup.Route(requests, slots, jnp.int32(0))


def _check_route(
  route: sharded_lookup.Route, exchange: RowExchange, num_shards: int
) -> None:
  """Checks that a route has the size of a kind of exchange."""
  num_requests, batch = route.requests.size, route.slots.size
  fits = {
    "auto": num_requests <= batch,
    "scatter": num_requests == num_shards * batch,
    # As many for each pair of devices.
    "all_to_all": num_requests % num_shards**2 == 0,
  }
  if not fits[exchange]:
    raise ValueError(
      "`exchange` must be that of `exchange_rows`, whose route has "
      f"{num_requests} requests for {batch} ids, got {exchange!r}."
    )


def _sum_by_id(
  ids: Int[Array, " num_requests"], values: PyTree, num_rows: int
) -> tuple[Int[Array, " size"], PyTree]:
  """Sums what several devices have sent for the same row of this one."""
  distinct, inverse = unique_ids(ids, num_embeddings=num_rows)
  add_up = functools.partial(
    jax.ops.segment_sum, segment_ids=inverse, num_segments=distinct.shape[0]
  )
  return distinct, jax.tree.map(add_up, values)


def _constrain(tree: Rows, specs: PyTree, mesh: Mesh) -> Rows:
  """Says how the results of the compiler's own moves lie on the devices."""

  def place(spec: PartitionSpec, part: Any) -> Any:
    sharding = NamedSharding(mesh, spec)
    return jax.lax.with_sharding_constraint(part, sharding)

  is_spec = lambda node: isinstance(node, PartitionSpec)
  return jax.tree.map(place, specs, tree, is_leaf=is_spec)
