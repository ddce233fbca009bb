"""Multipliers of the penalty: against loops over their definitions."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anchor_codes import ops

N = 9
EDGES = st.lists(st.tuples(st.integers(0, N - 1), st.integers(0, N - 1)))
# Of two lengths, because each is compiled anew.
COUNTS = st.sampled_from([1, 7]).flatmap(
  lambda size: st.lists(st.integers(0, 2**31 - 1), min_size=size, max_size=size)
)
relate = jax.jit(ops.relation_multipliers)
keep_largest = jax.jit(ops.keep_largest_multipliers)


@given(COUNTS.filter(any))
def test_frequencies_have_the_mean_one(counts):
  result = np.asarray(ops.frequency_multipliers(jnp.array(counts)))
  expected = np.array(counts) / np.mean(counts)
  np.testing.assert_allclose(result[:, 0], expected, rtol=1e-5)
  np.testing.assert_array_equal(result[:, 0] == 0, np.array(counts) == 0)
  assert result.shape == (len(counts), 1)


def test_symbols_that_never_occur_are_free():
  for dtype in (jnp.int32, jnp.float32):
    result = ops.frequency_multipliers(jnp.zeros(4, dtype))
    np.testing.assert_array_equal(result, np.zeros((4, 1)))
    assert result.dtype == jnp.float32


def test_large_counts_do_not_overflow():
  counts = jnp.full(1000, 2**31 - 1)
  result = ops.frequency_multipliers(counts)
  np.testing.assert_allclose(result, np.ones((1000, 1)), rtol=1e-5)


def test_frequencies_scale_whole_rows():
  with pytest.raises(AssertionError, match="rank"):
    ops.frequency_multipliers(jnp.ones((3, 1)))


@given(
  st.lists(
    st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0]), min_size=4, max_size=4),
    min_size=5,
    max_size=5,
  )
)
def test_the_largest_weight_is_free(rows):
  result = np.asarray(keep_largest(np.array(rows, np.float32)))
  for row, factors in zip(rows, result, strict=True):
    expected = [0.0] * 4
    if max(row) > 0:
      expected = [float(i != row.index(max(row))) for i in range(4)]
    np.testing.assert_array_equal(factors, expected)


@pytest.mark.parametrize("num_anchors", [1, 5])
def test_no_penalty_empties_a_row(num_anchors):
  transform = jax.random.uniform(jax.random.key(0), (20, num_anchors)) + 0.1

  @jax.jit
  def step(transform):
    factors = ops.keep_largest_multipliers(transform)
    return ops.nonnegative_soft_threshold(transform, 0.1 * factors)

  for _ in range(30):
    transform = step(transform)
  np.testing.assert_array_equal((transform > 0).sum(axis=1), np.ones(20))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_keep_largest_under_jit(dtype):
  transform = jnp.array([[0.0, 1.0], [0.0, 0.0]], dtype)
  result = keep_largest(transform)
  np.testing.assert_array_equal(result, [[1.0, 0.0], [0.0, 0.0]])
  assert result.dtype == jnp.float32


def relations_by_hand(edges, ids, anchor_ids, related, unrelated):
  pairs = {pair for i, j in edges for pair in ((i, j), (j, i))}
  pairs |= {(i, i) for i in range(N)}
  hits = np.array([[(i, a) in pairs for a in anchor_ids] for i in ids])
  factors = np.where(hits, related, unrelated)
  factors[~hits.any(axis=1)] = 1
  return factors


@given(
  EDGES,
  st.lists(st.integers(-2, N + 2), min_size=4, max_size=4),
  st.lists(st.integers(-2, N + 2), min_size=3, max_size=3),
  st.sampled_from([(0.0, 1.0), (0.0, np.inf), (0.5, 3.0), (1.0, 1.0)]),
)
@settings(max_examples=30)
def test_relations_are_those_of_a_loop(edges, ids, anchor_ids, factors):
  related, unrelated = factors
  result = ops.relation_multipliers(
    ops.graph_from_edges(edges, num_nodes=N),
    jnp.array(ids),
    jnp.array(anchor_ids),
    related=related,
    unrelated=unrelated,
  )
  expected = relations_by_hand(edges, ids, anchor_ids, related, unrelated)
  np.testing.assert_array_equal(result, expected)
  assert result.dtype == jnp.float32


def test_every_neighbour_of_a_long_row_is_found():
  degrees = np.array([1, 2, 3, 31, 32, 33, 64])
  # The neighbours of these odd nodes are the first even ones after node 0.
  centres = 2 * np.arange(len(degrees)) + 1
  nodes = np.arange(130)
  is_even = (nodes > 0) & (nodes % 2 == 0)
  is_neighbor = is_even & (nodes <= 2 * degrees[:, None])
  rows, neighbors = np.nonzero(is_neighbor)
  graph = ops.graph_from_rows(centres[rows], neighbors, num_nodes=130)
  np.testing.assert_array_equal(graph.degrees(centres), degrees)
  is_related = is_neighbor | (nodes == centres[:, None])
  np.testing.assert_array_equal(relate(graph, centres, nodes), ~is_related)


@pytest.mark.parametrize("num_nodes", [2, 3, 4, 5, 8, 9])
def test_every_neighbour_of_the_longest_rows_is_found(num_nodes):
  # All nodes but one, and but the node itself.
  nodes = np.arange(num_nodes)
  is_neighbor = (nodes[:, None] != nodes) & (nodes != num_nodes // 2)
  graph = ops.graph_from_rows(*np.nonzero(is_neighbor), num_nodes=num_nodes)
  is_related = is_neighbor | np.eye(num_nodes, dtype=bool)
  np.testing.assert_array_equal(relate(graph, nodes, nodes), ~is_related)


def test_barred_rows_without_relations_are_left_alone():
  graph = ops.graph_from_edges([(0, 1)], num_nodes=5)
  bar = jax.jit(functools.partial(ops.relation_multipliers, unrelated=jnp.inf))
  result = bar(graph, np.array([0, 3, 5, -1]), np.array([1, 4]))
  expected = [[0, np.inf], [1, 1], [1, 1], [1, 1]]
  np.testing.assert_array_equal(result, expected)


def test_padding_is_not_related_to_anchors_without_a_symbol():
  graph = ops.graph_from_edges([(0, 4)], num_nodes=5)
  ids = jnp.array([-1, 5, 4])
  result = relate(graph, ids, jnp.array([-1, 5, 0]))
  np.testing.assert_array_equal(result, [[1, 1, 1], [1, 1, 1], [1, 1, 0]])


@pytest.mark.parametrize("dtype", [jnp.uint8, jnp.int16, jnp.int32])
def test_ids_may_have_any_integer_type(dtype):
  graph = ops.graph_from_edges([(0, 200)], num_nodes=201)
  ids = np.array([200, 0], dtype)
  result = relate(graph, ids, np.array([0, 1], dtype))
  np.testing.assert_array_equal(result, [[0, 1], [0, 1]])


def test_relations_are_traced_once_and_as_without_jit():
  chex.clear_trace_counter()
  graph = ops.graph_from_edges([(0, 1), (1, 2), (2, 7)], num_nodes=N)
  jitted = jax.jit(chex.assert_max_traces(ops.relation_multipliers, n=1))
  for seed in range(3):
    rng = np.random.default_rng(seed)
    ids, anchor_ids = (jnp.asarray(rng.integers(0, N, 4)) for _ in range(2))
    expected = ops.relation_multipliers(graph, ids, anchor_ids)
    np.testing.assert_array_equal(jitted(graph, ids, anchor_ids), expected)


def test_memory_does_not_grow_with_the_table():
  num_nodes, size, num_anchors = 1_000_000, 64, 16
  graph = ops.Graph(
    offsets=jax.ShapeDtypeStruct((num_nodes + 1,), jnp.int32),
    neighbors=jax.ShapeDtypeStruct((5_000_000,), jnp.int32),
  )
  ids = jax.ShapeDtypeStruct((size,), jnp.int32)
  anchor_ids = jax.ShapeDtypeStruct((num_anchors,), jnp.int32)
  compiled = jax.jit(ops.relation_multipliers).lower(graph, ids, anchor_ids)
  memory = compiled.compile().memory_analysis()
  assert memory.temp_size_in_bytes < 100 * size * num_anchors


@pytest.mark.parametrize("name", ["related", "unrelated"])
@pytest.mark.parametrize("value", [-1.0, np.nan])
def test_factors_are_not_negative(name, value):
  graph = ops.graph_from_edges([(0, 1)], num_nodes=2)
  ids = jnp.array([0])
  with pytest.raises(ValueError, match=f"`{name}` must be non-negative, got"):
    ops.relation_multipliers(graph, ids, ids, **{name: value})


def test_ids_that_are_not_integers_are_refused():
  graph = ops.graph_from_edges([(0, 1)], num_nodes=2)
  for pair in ((jnp.ones(1), jnp.array([0])), (jnp.array([0]), jnp.ones(1))):
    with pytest.raises(ValueError, match="ids must be integers, got float32"):
      ops.relation_multipliers(graph, *pair)
