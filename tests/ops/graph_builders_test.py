"""Tests of graphs from attributes, sequences and other graphs."""

import itertools

import chex
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchor_codes.ops import graph_builders, graphs

ATTRIBUTES = st.lists(
  st.lists(st.sampled_from("abcde"), max_size=4), min_size=1, max_size=12
)
EDGES = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), max_size=30)
SEED = st.integers(0, 3)


def _rows(graph):
  bounds = np.asarray(graph.offsets)
  neighbors = np.asarray(graph.neighbors)
  return [neighbors[a:b].tolist() for a, b in itertools.pairwise(bounds)]


def _from_attributes(attributes, **options):
  pairs = graph_builders.attribute_pairs(attributes)
  return graph_builders.graph_from_attributes(
    pairs, num_nodes=len(attributes), **options
  )


def _shared_by_hand(attributes):
  return [
    [j for j, b in enumerate(attributes) if i != j and set(a) & set(b)]
    for i, a in enumerate(attributes)
  ]


# --- Attributes ---


@given(ATTRIBUTES)
def test_what_shares_an_attribute_is_connected(attributes):
  assert _rows(_from_attributes(attributes)) == _shared_by_hand(attributes)


@given(ATTRIBUTES, st.integers(1, 5), SEED)
def test_degrees_are_limited_and_full_where_they_can_be(attributes, cap, seed):
  found = _rows(_from_attributes(attributes, max_degree=cap, seed=seed))
  for row, whole in zip(found, _shared_by_hand(attributes), strict=True):
    assert set(row) <= set(whole)
    assert row == sorted(row)
    assert min(len(whole), 1) <= len(row) <= cap


def test_a_dense_attribute_gives_each_node_its_share():
  pairs = np.stack([np.arange(3000), np.zeros(3000, int)], axis=1)
  make = lambda seed: graph_builders.graph_from_attributes(
    pairs, num_nodes=3000, max_degree=10, seed=seed
  )
  graph = make(0)
  np.testing.assert_array_equal(np.diff(graph.offsets), np.full(3000, 10))
  # Neighbours are drawn from everywhere, not from next to each other.
  nodes = np.repeat(np.arange(3000), 10)
  assert np.abs(np.asarray(graph.neighbors) - nodes).mean() > 600
  chex.assert_trees_all_equal(graph, make(0))
  assert _rows(graph) != _rows(make(1))


def test_a_limit_that_is_not_reached_changes_nothing():
  attributes = [["a"], ["a", "b"], ["b"], ["a"], []]
  graph = _from_attributes(attributes, max_degree=3)
  assert _rows(graph) == _shared_by_hand(attributes)


def test_pairs_may_repeat_and_attributes_be_any_numbers():
  pairs = [(0, -7), (2, -7), (0, -7), (1, 2**40)]
  graph = graph_builders.graph_from_attributes(pairs, num_nodes=3)
  assert _rows(graph) == [[2], [], [0]]
  empty = graph_builders.graph_from_attributes([], num_nodes=2)
  assert _rows(empty) == [[], []]


def test_too_many_pairs_are_refused_before_they_are_made():
  pairs = np.stack([np.arange(70_000), np.zeros(70_000, int)], axis=1)
  message = r"fewer than 2 \*\* 31 pairs of nodes, got 2450000000: give"
  with pytest.raises(ValueError, match=message):
    graph_builders.graph_from_attributes(pairs, num_nodes=70_000)


@pytest.mark.parametrize(
  ("pairs", "error", "message"),
  [
    ([1, 2], ValueError, r"`pairs` must be \[num_pairs, 2\], got \(2,\)"),
    ([(0.0, 1.0)], ValueError, "`pairs` must be integers, got float64"),
    ([(0, 1), (3, 1)], IndexError, r"node 3 at position 1 .* \[0, 3\)"),
    ([(-1, 1)], IndexError, "node -1 at position 0"),
  ],
)
def test_other_pairs_are_refused(pairs, error, message):
  with pytest.raises(error, match=message):
    graph_builders.graph_from_attributes(pairs, num_nodes=3)


# --- Sequences ---


def test_bigrams_are_counted_in_either_order():
  graph = graph_builders.graph_from_bigrams([[0, 1, 0, 0, 2]], num_nodes=4)
  assert _rows(graph) == [[1, 2], [0], [0], []]
  np.testing.assert_array_equal(graph.weights.values, [2, 1, 2, 1])


def test_padding_breaks_a_sequence_and_rows_are_apart():
  padded = np.array([[0, 1, -1, 2], [3, -1, -1, -1]], np.int16)
  by_row = graph_builders.graph_from_bigrams(padded, num_nodes=4)
  assert _rows(by_row) == [[1], [0], [], []]
  lists = graph_builders.graph_from_bigrams([[0, 1], [2], [], [3]], num_nodes=4)
  chex.assert_trees_all_equal(lists, by_row)
  as_jax = graph_builders.graph_from_bigrams(jnp.asarray(padded), num_nodes=4)
  chex.assert_trees_all_equal(as_jax, by_row)


def test_rare_bigrams_are_left_out():
  tokens = np.array([0, 1, 0, 2])
  graph = graph_builders.graph_from_bigrams(tokens, num_nodes=3, min_count=2)
  assert _rows(graph) == [[1], [0], []]
  graph = graph_builders.graph_from_bigrams(tokens, num_nodes=3, min_count=9)
  assert _rows(graph) == [[], [], []]


@pytest.mark.parametrize("sequences", [[], [[]], np.zeros((0, 3), int), [[2]]])
def test_sequences_without_bigrams(sequences):
  graph = graph_builders.graph_from_bigrams(sequences, num_nodes=3)
  assert _rows(graph) == [[], [], []]


@pytest.mark.parametrize(
  ("sequences", "error", "message"),
  [
    ([[0, 3]], IndexError, r"node 3 in `sequences` .* \[0, 3\)"),
    (np.ones(3), ValueError, "must be rows of integers, got float64"),
    (np.array(3), ValueError, r"rows of integers, got int64 of shape \(\)"),
  ],
)
def test_other_sequences_are_refused(sequences, error, message):
  with pytest.raises(error, match=message):
    graph_builders.graph_from_bigrams(sequences, num_nodes=3)


# --- Other graphs ---


def _hops_by_hand(graph, num_hops):
  size = graph.num_nodes
  step = np.eye(size, dtype=int)
  for i, row in enumerate(_rows(graph)):
    step[i, row] = 1
  reached = np.linalg.matrix_power(step, num_hops) > 0
  np.fill_diagonal(reached, False)
  return [np.flatnonzero(row).tolist() for row in reached]


@given(EDGES, st.integers(1, 4))
def test_hops_are_exact_below_the_limit(edges, num_hops):
  graph = graphs.graph_from_edges(edges, num_nodes=9)
  found = graph_builders.k_hop_graph(graph, num_hops=num_hops, max_degree=8)
  assert _rows(found) == _hops_by_hand(graph, num_hops)


@given(EDGES, st.integers(1, 3), st.integers(1, 3), SEED)
def test_hops_are_a_sample_above_it(edges, num_hops, cap, seed):
  graph = graphs.graph_from_edges(edges, num_nodes=9)
  options = {"num_hops": num_hops, "max_degree": cap, "seed": seed}
  found = graph_builders.k_hop_graph(graph, **options)
  for row, whole in zip(
    _rows(found), _hops_by_hand(graph, num_hops), strict=True
  ):
    assert set(row) <= set(whole)
    assert min(len(whole), 1) <= len(row) <= cap
  chex.assert_trees_all_equal(
    found, graph_builders.k_hop_graph(graph, **options)
  )


def test_blocks_of_nodes_do_not_matter(monkeypatch):
  edges = np.random.default_rng(0).integers(0, 50, (80, 2))
  graph = graphs.graph_from_edges(edges, num_nodes=50)
  make = lambda: graph_builders.k_hop_graph(graph, num_hops=2, max_degree=49)
  whole = make()
  monkeypatch.setattr(graph_builders, "_BLOCK", 7 * 49**2)
  chex.assert_trees_all_equal(make(), whole)


@given(EDGES, st.integers(1, 4), SEED)
def test_limits_keep_the_heaviest(edges, cap, seed):
  # A weight for each pair: all are different.
  edges = list(dict.fromkeys((min(e), max(e)) for e in edges))
  weights = [float(1 + i + 10 * j) for i, j in edges]
  graph = graphs.graph_from_edges(edges, num_nodes=9, weights=weights)
  cut = graph_builders.limit_degree(graph, cap, seed=seed)
  for i, (row, whole) in enumerate(zip(_rows(cut), _rows(graph), strict=True)):
    heaviest = sorted(whole, key=lambda j: -(1 + min(i, j) + 10 * max(i, j)))
    assert row == sorted(heaviest[:cap])


def test_equal_neighbours_are_a_seeded_sample():
  star = graphs.graph_from_edges([(0, i) for i in range(1, 41)], num_nodes=41)
  chosen = [
    _rows(graph_builders.limit_degree(star, 10, seed=seed))[0]
    for seed in range(60)
  ]
  assert len({tuple(row) for row in chosen}) > 50
  counts = np.bincount(np.concatenate(chosen), minlength=41)[1:]
  assert counts.sum() == 600
  # Each is kept 15 times of 60 in expectation, by a deviation of 3.4.
  assert np.abs(counts - 15).max() < 14
  assert _rows(graph_builders.limit_degree(star, 10, seed=3))[0] == chosen[3]


def test_limits_keep_weights_and_leave_short_rows_alone():
  graph = graphs.graph_from_edges(
    [(0, 1), (0, 2), (1, 2), (2, 3)], num_nodes=4, weights=[1.0, 2.0, 3.0, 4.0]
  )
  cut = graph_builders.limit_degree(graph, 2)
  assert _rows(cut) == [[1, 2], [0, 2], [1, 3], [2]]
  np.testing.assert_array_equal(cut.weights.values, [1, 2, 1, 3, 3, 4, 4])
  assert graph_builders.limit_degree(graph, 3) is graph


@pytest.mark.parametrize("bad", [0, -1, 2.5])
def test_options_are_checked(bad):
  graph = graphs.graph_from_edges([(0, 1)], num_nodes=2)
  with pytest.raises(ValueError, match="`max_degree` must be"):
    graph_builders.limit_degree(graph, bad)
  with pytest.raises(ValueError, match="`max_degree` must be"):
    graph_builders.graph_from_attributes([], num_nodes=2, max_degree=bad)
  with pytest.raises(ValueError, match="`max_degree` must be"):
    graph_builders.k_hop_graph(graph, num_hops=2, max_degree=bad)
  with pytest.raises(ValueError, match="`num_hops` must be"):
    graph_builders.k_hop_graph(graph, num_hops=bad, max_degree=2)
  with pytest.raises(ValueError, match="`min_count` must be"):
    graph_builders.graph_from_bigrams([], num_nodes=2, min_count=bad)
  with pytest.raises(ValueError, match="`num_nodes` must be"):
    graph_builders.graph_from_bigrams([], num_nodes=bad)
