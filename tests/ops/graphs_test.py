"""Tests of graphs."""

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


def test_a_million_edges_take_about_a_second():
  edges = np.random.default_rng(0).integers(0, 100_000, (1_000_000, 2))
  start = time.process_time()
  graph = graphs.graph_from_edges(edges, num_nodes=100_000)
  assert time.process_time() - start < 5
  assert graph.neighbors.shape[0] > 1_900_000
