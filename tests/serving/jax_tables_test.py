"""Tests of tables on a device: the same as in NumPy."""

import chex
import jax
import numpy as np
import pytest
from compilations import count_compilations
from jax import numpy as jnp
from serving_cases import CASES, EXACT, FEATURES, V, dense, floats

from anchor_codes import serving, tables
from anchor_codes.serving import jax_base

# Each way to score rows, and a composition of others.
SCORED = (
  "dense_int4",
  "slots_int8",
  "low_rank",
  "concat",
  "rotated",
  "sums",
  "tiered",
)


def close(values, expected):
  np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_lookup_is_that_of_numpy(name):
  table = CASES[name]()
  ids = np.array([[0, V - 1, 3], [3, 4, 7]])
  vectors = serving.to_jax(table).lookup(ids)
  assert vectors.dtype == jnp.float32
  close(vectors, table.lookup(ids))
  if name in EXACT:
    np.testing.assert_array_equal(vectors, table.lookup(ids))


@pytest.mark.parametrize("name", SCORED)
def test_scores_and_bags_are_those_of_numpy(name, monkeypatch):
  table = CASES[name]()
  monkeypatch.setattr(jax_base, "_BLOCK", 4)
  on_device = serving.to_jax(table)
  queries = floats(2, 1, table.features, seed=3)
  ids, offsets = [0, 3, 3, 10, 5, 1], [0, 0, 3, 3, 5]
  # Compiled once for each operation, not for each table.
  with jax.disable_jit():
    scores = on_device.attend(queries)
    best, best_ids = on_device.top_k(queries, 5)
    pooled = on_device.bag(ids, offsets, np.arange(6.0))
    means = on_device.bag(ids, offsets, mode="mean")
  close(scores, table.attend(queries))
  expected, expected_ids = table.top_k(queries, 5)
  close(best, expected)
  np.testing.assert_array_equal(best_ids, expected_ids)
  close(pooled, table.bag(ids, offsets, np.arange(6.0)))
  close(means, table.bag(ids, offsets, mode="mean"))


def test_calls_are_compiled_once():
  table = serving.to_jax(CASES["concat"]())
  calls = {
    "lookup_rows": lambda i: table.lookup([i, 2]),
    "_attend": lambda i: table.attend(floats(2, FEATURES, seed=i)),
    "_top_k": lambda i: table.top_k(floats(2, FEATURES, seed=i), 3)[1],
    "_bag": lambda i: table.bag([i, 1, 2], [0, i]),
  }
  for name, call in calls.items():
    function = getattr(jax_base, name)
    function.clear_cache()
    with count_compilations() as counts:
      for i in range(3):
        call(i)
    assert counts[f"jit({name})"] == 1, name


def test_tables_are_arguments_of_jitted_functions():
  table = serving.to_jax(CASES["tiered"]())

  @jax.jit
  @chex.assert_max_traces(n=1)
  def model(table, ids, query):
    return table.lookup(ids).sum(axis=-1), table.top_k(query, 2)[1]

  numpy_table = CASES["tiered"]()
  for seed in range(2):
    query = floats(FEATURES, seed=seed)
    sums, ids = model(table, jnp.array([seed, 4]), query)
    close(sums, numpy_table.lookup([seed, 4]).sum(axis=-1))
    np.testing.assert_array_equal(ids, numpy_table.top_k(query, 2)[1])


def test_ids_outside_are_errors_where_they_are_known():
  table = serving.to_jax(dense("int8"))
  for bad in (V, -1):
    with pytest.raises(IndexError, match=f"id {bad} at position"):
      table.lookup([0, bad])
    with pytest.raises(IndexError, match=f"id {bad} at position"):
      table.bag([0, bad], [0])
  with pytest.raises(ValueError, match="ids must be integers"):
    table.lookup([0.5])


@pytest.mark.parametrize("name", ["dense_int4", "concat", "slots_int8"])
def test_ids_outside_under_jit(name):
  table = CASES[name]()
  lookup = jax.jit(lambda table, ids: table.lookup(ids))
  ids = jnp.array([-1, 2, V])
  vectors = lookup(serving.to_jax(table), ids)
  assert np.isnan(vectors[jnp.array([0, 2])]).all()
  close(vectors[1], table.lookup(2))
  close(
    lookup(serving.to_jax(table, outside="clip"), ids),
    table.lookup([0, 2, V - 1]),
  )


def test_equal_scores_go_by_id():
  rows = np.zeros((9, 2), np.float32)
  rows[[2, 5, 8], 0] = 1
  table = serving.to_jax(tables.DenseTable(rows))
  scores, ids = table.top_k([1.0, 0.0], 5)
  assert ids.tolist() == [2, 5, 8, 0, 1]
  assert scores.tolist() == [1, 1, 1, 0, 0]


@pytest.mark.parametrize("block", [2, 4096])
def test_rows_without_a_score_are_found_once_and_last(block, monkeypatch):
  monkeypatch.setattr(jax_base, "_BLOCK", block)
  rows = np.float32([[1], [np.nan], [2], [np.nan], [-np.inf]])
  table = tables.DenseTable(rows)
  for query in ([1.0], [10.0], [-1.0]):
    with jax.disable_jit():
      scores, ids = serving.to_jax(table).top_k(query, 5)
    expected, expected_ids = table.top_k(query, 5)
    np.testing.assert_array_equal(ids, expected_ids)
    np.testing.assert_array_equal(scores, expected)


def test_nothing_to_look_up():
  table = serving.to_jax(dense("int8"))
  assert table.lookup([]).shape == (0, FEATURES)
  assert table.bag([], []).shape == (0, FEATURES)
  assert not table.bag([], [0, 0]).any()
  assert table.attend(np.zeros((0, FEATURES))).shape == (0, V)
  assert table.top_k(np.zeros((0, FEATURES)), 2)[1].shape == (0, 2)


@pytest.mark.parametrize("offsets", [[1, 2], [0, 2, 1], [0, 4], []])
@pytest.mark.parametrize("mode", ["sum", "mean"])
def test_wrong_offsets_of_unknown_values_give_no_sums(offsets, mode):
  table = serving.to_jax(dense("int8"))
  pool = jax.jit(lambda offsets: table.bag([0, 1, 2], offsets, mode=mode))
  pooled = pool(jnp.array(offsets, jnp.int32))
  assert pooled.shape == (len(offsets), FEATURES)
  assert np.isnan(pooled).all()


@pytest.mark.parametrize("offsets", [np.zeros(1, np.float32), np.zeros((1, 1))])
def test_offsets_of_unknown_values_are_one_axis_of_integers(offsets):
  table = serving.to_jax(dense("int8"))
  with pytest.raises(ValueError, match="`offsets` must be integers"):
    jax.jit(lambda offsets: table.bag([0], offsets))(offsets)


def test_bad_arguments_are_named():
  table = serving.to_jax(dense("int8"))
  for call, text in (
    (lambda: table.attend(np.zeros(2)), r"`query` must be \[..., 6\]"),
    (lambda: table.top_k(np.zeros(6), 0), "`k` must be between 1 and the 11"),
    (lambda: table.top_k(np.zeros(6), 12), "got 12"),
    (lambda: table.bag([[1]], [0]), r"`ids` must be \[num_ids\]"),
    (lambda: table.bag([1], [1]), "`offsets` must ascend from 0"),
    (lambda: table.bag([1], [0], [1, 2]), r"`weights` must have shape \(1,\)"),
    (lambda: table.bag([1], [0], [1.0], mode="mean"), "`weights` must be None"),
    (lambda: table.bag([1], [0], mode="max"), "`mode` must be one of"),
    (
      lambda: serving.to_jax(table),
      "`table` must be a table, as `to_table` of",
    ),
    (lambda: serving.to_jax(dense("int8"), outside="zero"), "`outside` must"),
  ):
    with pytest.raises(ValueError, match=text):
      call()


def test_bytes_are_those_of_the_file():
  for name in ("dense_int4", "concat", "tiered_first"):
    table = CASES[name]()
    assert serving.to_jax(table).nbytes == table.nbytes, name


def test_one_hots_are_not_built():
  table = serving.to_jax(CASES["slots_int8"]())
  jaxpr = str(
    jax.make_jaxpr(jax_base.lookup_rows)(table, jnp.zeros(100, jnp.int32))
  )
  assert "[100,3,6]" not in jaxpr
  assert "[100,5]" not in jaxpr
