"""Rows that are split over devices: the layout, and what a step moves."""

import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compilations import count_compilations
from jax.sharding import PartitionSpec

from anchor_codes import ops, training
from anchor_codes.training import sharding
from experiments.benchmarks import collectives

V, FEATURES, BATCH, STEPS, ANCHORS, NONZEROS = 4001, 8, 16, 3, 16, 4
EXCHANGES = ("auto", "scatter", "all_to_all")
SPLIT = PartitionSpec("data")


def draw(*shape, seed=0):
  rng = np.random.default_rng(seed)
  return rng.standard_normal(shape).astype(np.float32)


def ids_of(size=V, seed=1, shape=(STEPS, BATCH, 2)):
  """Ids with many duplicates, and rows that all devices own."""
  rng = np.random.default_rng(seed)
  ids = rng.integers(0, size, shape, dtype=np.int32)
  return np.where(rng.random(shape) < 0.4, ids[0, 0, 0], ids)


def loss_of(vectors, batch):
  return jnp.mean((vectors.sum((1, 2)) - batch["targets"]) ** 2)


def full_rows():
  return draw(V, FEATURES)


def sparse_rows():
  rng = np.random.default_rng(2)
  weights = np.abs(draw(V, NONZEROS)) / NONZEROS
  indices = rng.permuted(
    np.tile(np.arange(ANCHORS, dtype=np.int32), (V, 1)), axis=1
  )
  return ops.SparseRows(indices[:, :NONZEROS], weights)


def code_rows():
  codes = np.random.default_rng(3).integers(0, 8, (V, 4), np.uint8)
  return jnp.asarray(codes)


def full_vectors(rows, shared):
  del shared
  return rows


def anchor_vectors(rows, shared):
  """Composes vectors from sparse rows that have arrived."""
  flat = jax.tree.map(lambda leaf: leaf.reshape(-1, NONZEROS), rows)
  order = jnp.arange(flat.weights.shape[0])
  vectors = ops.sparse_anchor_lookup(flat, shared, order)
  return vectors.reshape(*rows.weights.shape[:-1], -1)


def code_vectors(rows, shared):
  return shared[rows.astype(jnp.int32)].sum(-2)


def update_anchors(optimizer, shared, rows, state, ids, gradients):
  """Updates sparse rows as dense ones, from the gradients of vectors."""
  num_rows = rows.weights.shape[0]
  old = training.gather_rows(rows, ids)
  dense = ops.expand_rows(old, num_anchors=ANCHORS)
  updates, state = training.row_updates(
    optimizer, dense, state, ids, gradients @ shared.T, num_embeddings=num_rows
  )
  new = ops.nonnegative_soft_threshold(dense + updates, 1e-3)
  new = ops.project_rows(new, num_nonzeros=NONZEROS)
  return training.scatter_rows(rows, ids, new), state


class Table:
  """A table to train: its rows, its vectors, and its step."""

  def __init__(self, kind, optimizer):
    self.kind, self.optimizer = kind, optimizer
    self.rows = {"full": full_rows, "anchors": sparse_rows, "codes": code_rows}[
      kind
    ]()
    self.vectors = {
      "full": full_vectors,
      "anchors": anchor_vectors,
      "codes": code_vectors,
    }[kind]
    self.shared = draw(ANCHORS, FEATURES, seed=4)

  def init(self, num_shards):
    rows = training.pad_rows(self.rows, num_shards)
    size = jax.tree.leaves(rows)[0].shape[0]
    trained = {
      "full": rows,
      "anchors": jnp.zeros((size, ANCHORS)),
      "codes": (),
    }[self.kind]
    state = self.optimizer.init(trained)
    return {"rows": rows, "state": state, "shared": jnp.asarray(self.shared)}

  def specs(self, state):
    size = jax.tree.leaves(state["rows"])[0].shape[0]
    return training.row_specs(state, size)

  def update(self, state):
    if self.kind == "full":
      return functools.partial(training.update_rows, self.optimizer)
    return functools.partial(update_anchors, self.optimizer, state["shared"])

  def step(self, state, batch, *, mesh, exchange):
    rows, route = training.exchange_rows(
      state["rows"],
      batch["ids"],
      num_embeddings=V,
      mesh=mesh,
      exchange=exchange,
    )
    vectors, pull = jax.vjp(lambda a: self.vectors(rows, a), state["shared"])
    loss, gradients = jax.value_and_grad(loss_of)(vectors, batch)
    (shared,) = pull(gradients)
    new = state | {"shared": state["shared"] - 0.01 * shared}
    if self.kind != "codes":
      new["rows"], new["state"] = training.update_sharded_rows(
        self.update(state),
        state["rows"],
        state["state"],
        route,
        gradients,
        mesh=mesh,
        exchange=exchange,
      )
    return new, {"loss": loss, "overflow": route.overflow}


def compiled(table, num_devices, exchange):
  mesh = training.data_mesh(jax.devices()[:num_devices])
  state = table.init(num_devices)
  chunk = training.compile_chunk(
    functools.partial(table.step, mesh=mesh, exchange=exchange),
    mesh,
    state_specs=table.specs(state),
  )
  batches = {"ids": ids_of(), "targets": draw(STEPS, BATCH, seed=5)}
  return chunk, chunk.put_state(state), chunk.put_batches(batches)


@functools.cache
def train(kind, make_optimizer, num_devices, exchange):
  """Returns the program, what it has computed, and the new rows."""
  table = Table(kind, make_optimizer())
  chunk, state, batches = compiled(table, num_devices, exchange)
  program: Any = chunk.program
  program = program.lower(state, batches).compile()
  state, metrics = program(state, batches)
  rows = training.unpad_rows(state["rows"], V)
  host = jax.device_get((rows, state["shared"], metrics))
  return program.as_text(), host, state["rows"]


def sgd():
  return optax.sgd(0.3)


def adagrad():
  return optax.adagrad(0.3)


CASES = [("full", sgd), ("anchors", adagrad), ("codes", sgd)]


@pytest.mark.parametrize("exchange", EXCHANGES)
@pytest.mark.parametrize(("kind", "make_optimizer"), CASES)
def test_split_rows_train_as_on_one_device(kind, make_optimizer, exchange):
  _, (rows, shared, metrics), split = train(kind, make_optimizer, 4, exchange)
  _, expected, _ = train(kind, make_optimizer, 1, "auto")
  chex.assert_trees_all_close((rows, shared), expected[:2], atol=1e-6)
  np.testing.assert_allclose(metrics["loss"], expected[2]["loss"], rtol=1e-5)
  assert not metrics["overflow"].any()
  for leaf in jax.tree.leaves(split):
    assert leaf.sharding.spec == SPLIT
    assert not np.asarray(leaf)[V:].any()


@pytest.mark.parametrize("exchange", EXCHANGES)
@pytest.mark.parametrize(("kind", "make_optimizer"), CASES)
def test_nothing_of_the_size_of_the_table_travels(
  kind, make_optimizer, exchange
):
  text, _, rows = train(kind, make_optimizer, 4, exchange)
  found = collectives.find_collectives(text)
  assert found, "nothing travels: the rows are not split"
  table = max(leaf.nbytes for leaf in jax.tree.leaves(rows))
  assert max(entry.nbytes for entry in found) < table / 8
  kinds = {entry.kind for entry in found}
  assert ("all-to-all" in kinds) == (exchange == "all_to_all")
  assert ("reduce-scatter" in kinds) == (exchange == "scatter")


def test_bytes_of_codes_stay_bytes():
  text, _, _ = train("codes", sgd, 4, "scatter")
  moved = [
    entry
    for entry in collectives.find_collectives(text)
    if entry.kind == "reduce-scatter"
  ]
  # Four bytes for each of the ids of a device.
  assert [entry.nbytes for entry in moved] == [4 * BATCH * 2 // 4]


def look_up(ids, *, size=V, num_devices=4, **options):
  mesh = training.data_mesh(jax.devices()[:num_devices])
  rows = training.pad_rows(
    np.arange(1.0, size + 1, dtype=np.float32), num_devices
  )
  lookup = functools.partial(
    training.exchange_rows, num_embeddings=size, mesh=mesh, **options
  )
  return jax.jit(lookup)(rows, ids)


@pytest.mark.parametrize("exchange", EXCHANGES)
@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.uint8])
def test_ids_outside_are_nan_and_padding_is_outside(exchange, dtype):
  ids = np.array([[0, 9], [10, 11], [-1, 127], [3, 3]]).astype(dtype)
  rows, route = look_up(ids, size=10, exchange=exchange)
  expected = np.array([[1, 10], [np.nan] * 2, [np.nan] * 2, [4, 4]])
  np.testing.assert_array_equal(rows, expected)
  assert route.overflow == 0


@pytest.mark.parametrize("exchange", EXCHANGES)
@pytest.mark.parametrize("size", [1, 2, 5])
def test_empty_shards(exchange, size):
  rows, _ = look_up(np.arange(8) % size, size=size, exchange=exchange)
  np.testing.assert_array_equal(rows, np.arange(8) % size + 1)


def skewed(batch=400):
  """Distinct ids that all belong to the first of four devices."""
  return np.arange(batch, dtype=np.int32)


def test_overflow_is_counted_and_nan():
  rows, route = look_up(skewed(), exchange="all_to_all", capacity_factor=0.01)
  room = ops.exchange_capacity(100, num_shards=4, capacity_factor=0.01)
  assert room == 65
  assert int(route.overflow) == 4 * (100 - room)
  assert int(jnp.isnan(rows).sum()) == 4 * (100 - room)
  inside = ~np.isnan(rows)
  np.testing.assert_array_equal(rows[inside], (skewed() + 1)[inside])


def test_enough_room_never_overflows():
  rows, route = look_up(skewed(), exchange="all_to_all", capacity_factor=4)
  assert int(route.overflow) == 0
  np.testing.assert_array_equal(rows, skewed() + 1)


def test_duplicates_are_sent_once():
  ids = np.repeat(np.arange(4, dtype=np.int32), 200)
  rows, route = look_up(ids, exchange="all_to_all", capacity_factor=0.01)
  np.testing.assert_array_equal(rows, ids + 1)
  assert int(route.overflow) == 0


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_what_overflows_or_lies_outside_is_not_updated(exchange):
  ids = np.array([0, 9, 10, 11, -1, 127, 3, 3], np.int32)
  mesh = training.data_mesh()
  _, route = look_up(ids, size=10, exchange=exchange)

  def add(rows, state, ids, gradients):
    return rows.at[ids].add(gradients, mode="drop"), state

  update = functools.partial(
    training.update_sharded_rows, add, mesh=mesh, exchange=exchange
  )
  rows, _ = jax.jit(update)(jnp.zeros(12), (), route, jnp.ones(8))
  expected = np.zeros(12)
  expected[[0, 9]], expected[3] = 1, 2
  np.testing.assert_array_equal(rows, expected)


def test_refuses_what_cannot_be_split():
  mesh = training.data_mesh()
  lookup = functools.partial(
    training.exchange_rows, num_embeddings=5, mesh=mesh
  )
  with pytest.raises(ValueError, match="and split evenly over 4 dev"):
    lookup(jnp.zeros(5), jnp.zeros(4, jnp.int32))
  with pytest.raises(ValueError, match=r"at least 5, and split .* got 4"):
    lookup(jnp.zeros(4), jnp.zeros(4, jnp.int32))
  with pytest.raises(ValueError, match="`ids` must be split evenly over 4 dev"):
    lookup(jnp.zeros(8), jnp.zeros(6, jnp.int32))
  with pytest.raises(ValueError, match="must have the same number of rows"):
    lookup([jnp.zeros(8), jnp.zeros(4)], jnp.zeros(4, jnp.int32))
  with pytest.raises(ValueError, match="ids must be integers, got float32"):
    lookup(jnp.zeros(8), jnp.zeros(4))
  with pytest.raises(ValueError, match="`exchange` must be one of"):
    lookup(jnp.zeros(8), jnp.zeros(4, jnp.int32), exchange="ring")
  with pytest.raises(ValueError, match="`capacity_factor` must be positive"):
    look_up(np.zeros(4, np.int32), exchange="all_to_all", capacity_factor=0)


@pytest.mark.parametrize("num_shards", [1, 2, 3, 8])
@pytest.mark.parametrize("xp", [np, jnp])
def test_padding_comes_off_again(num_shards, xp):
  rows = {"a": xp.arange(10.0).reshape(5, 2), "b": xp.ones(5, np.uint8)}
  padded = training.pad_rows(rows, num_shards)
  for name, leaf in padded.items():
    assert leaf.shape[0] == -(-5 // num_shards) * num_shards
    assert leaf.dtype == rows[name].dtype
    assert isinstance(leaf, type(rows[name]))
    assert not leaf[5:].any()
  chex.assert_trees_all_equal(training.unpad_rows(padded, 5), rows)


def test_refuses_to_pad():
  with pytest.raises(ValueError, match="`num_shards` must be at least 1"):
    training.pad_rows(np.ones(3), 0)
  for empty in (np.ones((0, 2)), np.float32(0)):
    with pytest.raises(ValueError, match="`num_embeddings` must be at least 1"):
      training.pad_rows(empty, 2)
  with pytest.raises(ValueError, match="`rows` must be at least 4, got 3"):
    training.unpad_rows(np.ones(3), 4)
  with pytest.raises(ValueError, match=r"`rows` must be at least 4, got 0"):
    training.unpad_rows({"m": np.ones(4), "count": np.int32(1)}, 4)


def test_refuses_rows_that_no_id_can_name():
  huge = np.broadcast_to(np.uint8(0), (2**31 - 1,))
  with pytest.raises(ValueError, match=r"at most 2147483647 .* got 21474"):
    training.pad_rows(huge, 2)
  with pytest.raises(ValueError, match="for ids of 32 bits"):
    training.pad_rows(np.broadcast_to(np.uint8(0), (2**31,)), 1)


def test_specs_of_the_state_of_an_optimizer():
  rows = jnp.zeros((8, 2))
  state = optax.chain(
    training.scale_by_row_adagrad(), optax.scale_by_adam()
  ).init(rows)
  specs = training.row_specs(state, 8)
  assert specs[0].sum_of_squares == SPLIT
  assert specs[1].count == PartitionSpec()
  assert specs[1].mu == specs[1].nu == SPLIT
  assert sharding.check_split(rows, 7, 4) == 8


def test_one_trace_for_repeated_chunks():
  table = Table("full", sgd())
  chunk, state, batches = compiled(table, 4, "all_to_all")
  with count_compilations() as counts:
    for _ in range(3):
      state, _ = chunk(state, jax.tree.map(jnp.copy, batches))
  assert counts["jit(run)"] == 1
