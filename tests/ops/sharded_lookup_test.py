"""Routes of ids: every id arrives at its owner, and its row comes back."""

import functools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from jax.sharding import AxisType, Mesh, PartitionSpec

from anchor_codes import ops

SPLIT = PartitionSpec("data")
SHARDS, PER_SHARD, BATCH = 4, 5, 6
V = SHARDS * PER_SHARD - 3  # The last rows are padding.
ROUTES = {"scatter": ops.scatter_route, "all_to_all": ops.all_to_all_route}


def on_devices(function, out_specs=SPLIT):
  mesh = Mesh(
    np.array(jax.devices()[:SHARDS]), ("data",), axis_types=(AxisType.Auto,)
  )
  return jax.jit(
    jax.shard_map(function, mesh=mesh, in_specs=SPLIT, out_specs=out_specs)
  )


def route_of(exchange, ids):
  return ROUTES[exchange](
    ids, num_embeddings=V, rows_per_shard=PER_SHARD, axis_name="data"
  )


@functools.cache
def lookup(exchange):
  def look_up(rows, ids):
    route = route_of(exchange, ids)
    found = ops.fetch_rows(rows, route, axis_name="data", exchange=exchange)
    return found, route.overflow[None]

  return on_devices(look_up)


@functools.cache
def transpose(exchange):
  def take_back(ids, values):
    route = route_of(exchange, ids)
    sums = ops.return_rows(values, route, axis_name="data", exchange=exchange)
    rows = jnp.zeros((PER_SHARD, *values.shape[1:]), values.dtype)
    return rows.at[route.requests].add(sums, mode="drop")

  return on_devices(take_back)


def table(dtype=np.float32):
  rows = np.random.default_rng(0).integers(1, 99, (SHARDS * PER_SHARD, 2))
  rows[V:] = 0
  return rows.astype(dtype)


def expected_rows(rows, ids):
  inside = (ids >= 0) & (ids < V)
  outside = np.nan if rows.dtype.kind == "f" else 0
  found = rows[np.where(inside, ids, 0)]
  return np.where(inside[:, None], found, np.array(outside, rows.dtype))


def some_ids():
  return st.lists(
    st.integers(-3, V + 5), min_size=SHARDS * BATCH, max_size=SHARDS * BATCH
  )


def ascending(ids):
  """Distinct ids of a device in order, those outside last."""
  parts = []
  for part in np.split(np.asarray(ids, np.int32), SHARDS):
    inside = np.unique(part[(part >= 0) & (part < V)])
    outside = np.full(BATCH - len(inside), V, np.int32)
    parts.append(np.concatenate([inside, outside]))
  return np.concatenate(parts)


def ids_for(exchange, ids):
  ids = np.asarray(ids, np.int32)
  return ids if exchange == "scatter" else ascending(ids)


@pytest.mark.parametrize("exchange", ROUTES)
@pytest.mark.parametrize("dtype", [np.float32, np.uint8, np.int32])
@hypothesis.given(ids=some_ids())
def test_is_a_lookup_of_the_whole_table(exchange, dtype, ids):
  rows, ids = table(dtype), ids_for(exchange, ids)
  found, overflow = lookup(exchange)(rows, ids)
  np.testing.assert_array_equal(found, expected_rows(rows, ids))
  assert found.dtype == dtype
  assert not overflow.any()


@pytest.mark.parametrize("exchange", ROUTES)
@hypothesis.given(ids=some_ids())
def test_gradients_add_up_at_their_owners(exchange, ids):
  ids = ids_for(exchange, ids)
  values = np.arange(2.0 * len(ids), dtype=np.float32).reshape(-1, 2)
  sums = transpose(exchange)(ids, values)
  inside = (ids >= 0) & (ids < V)
  expected = np.zeros((SHARDS * PER_SHARD, 2), np.float32)
  np.add.at(expected, ids[inside], values[inside])
  np.testing.assert_array_equal(sums, expected)


@pytest.mark.parametrize("exchange", ROUTES)
def test_is_differentiable(exchange):
  """What JAX derives is the sum at the owners, as a table on each of them."""
  ids = ids_for(exchange, np.arange(SHARDS * BATCH) % V)
  weights = np.random.default_rng(1).random((len(ids), 2), np.float32)
  inside = (ids < V)[:, None]

  def loss(rows):
    found, _ = lookup(exchange)(rows, ids)
    return jnp.sum(jnp.where(inside, found, 0) * weights)

  gradient = jax.grad(loss)(jnp.asarray(table()))
  np.testing.assert_allclose(
    gradient, transpose(exchange)(ids, weights), rtol=1e-6
  )


@pytest.mark.parametrize("exchange", ROUTES)
def test_rows_travel_bit_for_bit(exchange):
  rows = table()
  rows[:4, 0] = [np.inf, -np.inf, np.nan, 1e-30]
  ids = ids_for(exchange, np.arange(SHARDS * BATCH) % 4)
  found, _ = lookup(exchange)(rows, ids)
  inside = ids < V
  ours, theirs = np.asarray(found)[inside], rows[ids[inside]]
  np.testing.assert_array_equal(ours.view(np.int32), theirs.view(np.int32))


@pytest.mark.parametrize("exchange", ROUTES)
def test_float_ids_are_refused(exchange):
  with pytest.raises(ValueError, match="ids must be integers, got float32"):
    lookup(exchange)(table(), np.zeros(SHARDS * BATCH, np.float32))


def test_overflow_is_the_same_on_all_devices():
  def look_up(rows, ids):
    route = ops.all_to_all_route(
      ids,
      num_embeddings=400,
      rows_per_shard=100,
      axis_name="data",
      capacity_factor=1e-6,
    )
    found = ops.fetch_rows(rows, route, axis_name="data", exchange="all_to_all")
    return found, route.overflow[None]

  rows = np.arange(400, dtype=np.float32)
  # Each device asks for 80 rows of the first one, and there is room for 65.
  ids = np.tile(np.arange(80, dtype=np.int32), SHARDS)
  found, overflow = on_devices(look_up)(rows, ids)
  np.testing.assert_array_equal(overflow, [SHARDS * 15] * SHARDS)
  lost = np.isnan(found).reshape(SHARDS, 80)
  np.testing.assert_array_equal(lost, [[False] * 65 + [True] * 15] * SHARDS)


@pytest.mark.parametrize(
  ("num_ids", "num_shards", "factor", "expected"),
  [(0, 4, 1.5, 0), (10, 4, 1.5, 10), (400, 4, 1.5, 214), (400, 4, 4.0, 400)],
)
def test_capacity(num_ids, num_shards, factor, expected):
  found = ops.exchange_capacity(
    num_ids, num_shards=num_shards, capacity_factor=factor
  )
  assert found == expected


@pytest.mark.parametrize("factor", [0.0, -1.0, np.inf, np.nan])
def test_bad_capacities_are_refused(factor):
  with pytest.raises(ValueError, match="must be positive and finite, got"):
    ops.exchange_capacity(8, num_shards=2, capacity_factor=factor)
