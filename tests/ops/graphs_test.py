"""Tests of graphs."""

import dataclasses
import itertools
import time

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchor_codes.ops import graphs

EDGES = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), max_size=40)


def _rows(graph):
  bounds = np.asarray(graph.offsets)
  neighbors = np.asarray(graph.neighbors)
  return [neighbors[a:b].tolist() for a, b in itertools.pairwise(bounds)]


def test_small_graph():
  graph = graphs.graph_from_edges(
    [(0, 1), (1, 0), (0, 1), (3, 0), (2, 2)], num_nodes=5
  )
  assert _rows(graph) == [[1, 3], [0], [], [0], []]
  assert graph.num_nodes == 5
  assert graph.offsets.dtype == graph.neighbors.dtype == jnp.int32


@given(EDGES)
def test_rows_are_the_neighbours(edges):
  rows = _rows(graphs.graph_from_edges(edges, num_nodes=9))
  expected = [set() for _ in range(9)]
  for i, j in edges:
    if i != j:
      expected[i].add(j)
      expected[j].add(i)
  assert rows == [sorted(row) for row in expected]


@given(EDGES, st.randoms(use_true_random=False))
def test_order_and_direction_do_not_matter(edges, random):
  shuffled = [(j, i) if random.random() < 0.5 else (i, j) for i, j in edges]
  random.shuffle(shuffled)
  chex.assert_trees_all_equal(
    graphs.graph_from_edges(edges, num_nodes=9),
    graphs.graph_from_edges(shuffled, num_nodes=9),
  )


@pytest.mark.parametrize(
  "edges", [[], np.zeros((0, 2)), np.zeros((0, 2), np.int64), [(3, 3)]]
)
def test_graphs_may_have_no_edges(edges):
  graph = graphs.graph_from_edges(edges, num_nodes=4)
  assert _rows(graph) == [[]] * 4
  assert graph.neighbors.shape == (0,)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint64])
def test_narrow_types_do_not_overflow(dtype):
  graph = graphs.graph_from_edges(
    np.array([[200, 127]]).clip(0, np.iinfo(dtype).max).astype(dtype),
    num_nodes=1000,
  )
  row = int(graph.neighbors[0])
  assert row == 200
  assert int(graph.offsets[-1]) == 2


def test_jax_arrays_are_edges_too():
  graph = graphs.graph_from_edges(jnp.array([[0, 1]]), num_nodes=2)
  assert _rows(graph) == [[1], [0]]


@pytest.mark.parametrize("edge", [(0, 5), (-1, 2), (9, 9)])
def test_nodes_out_of_range_are_named(edge):
  message = rf"edge \({edge[0]}, {edge[1]}\) at position 1 .* \[0, 5\)"
  with pytest.raises(IndexError, match=message):
    graphs.graph_from_edges([(0, 1), edge, (7, 7)], num_nodes=5)


@pytest.mark.parametrize(
  ("edges", "message"),
  [
    ([1, 2], r"`edges` must be \[num_edges, 2\], got \(2,\)"),
    ([(1, 2, 3)], r"`edges` must be \[num_edges, 2\], got \(1, 3\)"),
    ([(0.0, 1.0)], "`edges` must be integers, got float64"),
  ],
)
def test_other_arrays_are_refused(edges, message):
  with pytest.raises(ValueError, match=message):
    graphs.graph_from_edges(edges, num_nodes=5)


@pytest.mark.parametrize("num_nodes", [0, -3, 2.5])
def test_number_of_nodes_is_checked(num_nodes):
  with pytest.raises(ValueError, match="`num_nodes` must be"):
    graphs.graph_from_edges([], num_nodes=num_nodes)


def test_graph_is_a_frozen_pytree():
  graph = graphs.graph_from_edges([(0, 1)], num_nodes=2)
  leaves, structure = jax.tree.flatten(graph)
  assert [leaf.shape for leaf in leaves] == [(3,), (2,)]
  chex.assert_trees_all_equal(jax.tree.unflatten(structure, leaves), graph)
  with pytest.raises(AttributeError):
    graph.offsets = graph.neighbors
  degrees = jax.jit(lambda g: jnp.diff(g.offsets))(graph)
  np.testing.assert_array_equal(degrees, [1, 1])


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_the_last_node_of_a_narrow_type_has_its_neighbours(dtype):
  last = np.iinfo(dtype).max
  graph = graphs.graph_from_edges([(last, 0), (last, 1)], num_nodes=last + 1)
  np.testing.assert_array_equal(graph.degrees(jnp.array([last], dtype)), [2])


# --- Weights ---


@given(EDGES)
def test_weights_of_equal_pairs_are_added(edges):
  weights = np.arange(1.0, len(edges) + 1)
  graph = graphs.graph_from_edges(edges, num_nodes=9, weights=weights)
  chex.assert_trees_all_equal(
    dataclasses.replace(graph, weights=None),
    graphs.graph_from_edges(edges, num_nodes=9),
  )
  matrix = np.zeros((9, 9))
  for (i, j), weight in zip(edges, weights, strict=True):
    matrix[i, j] += weight
    matrix[j, i] += weight
  for node in range(9):
    neighbors, relative = graph.row(node)
    own = matrix[node, neighbors]
    np.testing.assert_allclose(relative, own / (own.mean() if own.size else 1))


@pytest.mark.parametrize(
  ("weights", "message"),
  [
    ([1.0], r"one number for each of 2 edges, got shape \(1,\)"),
    ([1.0, 0.0], "must be positive and finite, got 0.0 at position 1"),
    ([-1.0, 2.0], "must be positive and finite, got -1.0 at position 0"),
    ([1.0, float("nan")], "positive and finite, got nan at position 1"),
    ([float("inf"), 1.0], "positive and finite, got inf at position 0"),
    ([1.0, 1e-60], "positive and finite, got 1e-60 at position 1"),
  ],
)
def test_other_weights_are_refused(weights, message):
  with pytest.raises(ValueError, match=message):
    graphs.graph_from_edges([(0, 1), (1, 2)], num_nodes=3, weights=weights)


def test_a_weighted_graph_is_a_pytree():
  graph = graphs.graph_from_edges([(0, 1)], num_nodes=2, weights=[3.0])
  leaves, structure = jax.tree.flatten(graph)
  assert len(leaves) == 5
  chex.assert_trees_all_equal(jax.tree.unflatten(structure, leaves), graph)


# --- Classes ---


@given(st.lists(st.integers(-1, 4), min_size=12, max_size=12))
def test_rows_are_the_others_of_a_class(classes):
  graph = graphs.graph_from_classes(classes, num_classes=5)
  assert graph.num_nodes == len(classes)
  degrees = np.asarray(graph.degrees(jnp.arange(len(classes))))
  for node, own in enumerate(classes):
    others = [i for i, c in enumerate(classes) if c == own >= 0 and i != node]
    assert graph.row(node)[0].tolist() == others
    assert degrees[node] == len(others)


@pytest.mark.parametrize(
  "names",
  [
    [10**13, 5, 5, -1, 10**13],
    np.array([2**64 - 1, 5, 5, 7, 2**64 - 1], np.uint64),
  ],
)
def test_classes_have_any_numbers(names):
  # Renumbered: the memory is that of the nodes.
  graph = graphs.graph_from_classes(names)
  assert graph.offsets.size <= 4
  assert [graph.row(node)[0].tolist() for node in range(5)] == [
    [4],
    [2],
    [1],
    [],
    [0],
  ]
  drawn = graph.draw(jax.random.key(0), jnp.array([0, 1, 2, 4]))
  assert drawn.tolist() == [4, 2, 1, 0]


def test_classes_may_be_empty():
  graph = graphs.graph_from_classes([-1, -1])
  np.testing.assert_array_equal(graph.degrees(jnp.arange(2)), [0, 0])
  key = jax.random.key(0)
  assert graph.draw(key, jnp.arange(2)).shape == (2,)


@pytest.mark.parametrize(
  ("classes", "error", "message"),
  [
    ([0, 3, 5], IndexError, r"class 3 of node 1 .* \[0, 3\), or be -1"),
    ([0, -2], IndexError, "class -2 of node 1 is out of range"),
    ([], ValueError, r"`classes` must be \[num_nodes\], got \(0,\)"),
    ([[0]], ValueError, r"`classes` must be \[num_nodes\], got \(1, 1\)"),
    ([0.0], ValueError, "integers, got float64"),
  ],
)
def test_other_classes_are_refused(classes, error, message):
  with pytest.raises(error, match=message):
    graphs.graph_from_classes(classes, num_classes=3)


def test_a_million_edges_take_about_a_second():
  edges = np.random.default_rng(0).integers(0, 100_000, (1_000_000, 2))
  start = time.process_time()
  graph = graphs.graph_from_edges(edges, num_nodes=100_000)
  assert time.process_time() - start < 5
  assert graph.neighbors.shape[0] > 1_900_000
