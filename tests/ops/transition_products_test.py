"""Tests of transitions as linear operators."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st

from anchor_codes.ops import graphs, transition_products, transitions

SIZE = 7
# Node 5 has one neighbour, node 6 has none; 0 is tied to all of 1 to 4.
EDGES = [(0, 1), (0, 2), (0, 3), (0, 4), (1, 2), (3, 4), (4, 5)]
GRAPHS = {
  "none": None,
  "plain": graphs.graph_from_edges(EDGES, num_nodes=SIZE),
  "weighted": graphs.graph_from_edges(
    EDGES, num_nodes=SIZE, weights=np.arange(1.0, 8.0)
  ),
  "directed": graphs.graph_from_rows(
    np.array([0, 0, 0, 3]), np.array([1, 2, 6, 0]), num_nodes=SIZE
  ),
  "classes": graphs.graph_from_classes([2, 0, 2, -1, 2, 1, 0]),
  "alone": graphs.graph_from_classes([-1] * SIZE),
  "empty": graphs.graph_from_edges([], num_nodes=SIZE),
}
LINKED = ["plain", "weighted", "directed", "classes"]
VALUES = reference.normal(0, SIZE, 3)

product = jax.jit(
  transition_products.transition_product, static_argnames="transpose"
)
neighbors_of = jax.jit(
  transition_products.padded_neighbors, static_argnames="max_degree"
)


def _degrees(graph):
  return np.array([graph.row(i)[0].size for i in range(SIZE)])


def _matrix(graph, rate, neighbor_ratio):
  rows = [
    transitions.transition_row(
      i,
      num_embeddings=SIZE,
      rate=rate,
      graph=graph,
      neighbor_ratio=neighbor_ratio,
    )
    for i in range(SIZE)
  ]
  return np.stack(rows)


# --- The operator ---


@pytest.mark.parametrize("name", GRAPHS)
def test_it_is_the_matrix_of_all_rows(name):
  for rate, ratio in ((0.3, 5.0), (1.0, 200.0), (0.01, 1.0), (0.0, 3.0)):
    law = {"rate": rate, "graph": GRAPHS[name], "neighbor_ratio": ratio}
    matrix = _matrix(GRAPHS[name], rate, ratio)
    np.testing.assert_allclose(
      product(VALUES, **law), matrix @ VALUES, atol=2e-6
    )
    np.testing.assert_allclose(
      product(VALUES, transpose=True, **law), matrix.T @ VALUES, atol=2e-6
    )


@pytest.mark.parametrize("name", LINKED)
@pytest.mark.parametrize("ratio", [1e20, 1e30, 1e38, 1e300])
def test_ratios_without_an_end_leave_neighbours_alone(name, ratio):
  # The product with a degree is more than float32 holds.
  matrix = _matrix(GRAPHS[name], 0.4, ratio)
  for traced in (ratio, jnp.float32(min(ratio, 3e38))):
    law = {"rate": 0.4, "graph": GRAPHS[name], "neighbor_ratio": traced}
    np.testing.assert_allclose(
      product(VALUES, **law), matrix @ VALUES, atol=2e-6
    )
    eager = transition_products.transition_product(jnp.asarray(VALUES), **law)
    np.testing.assert_allclose(eager, matrix @ VALUES, atol=2e-6)


@given(
  name=st.sampled_from(LINKED),
  rate=st.floats(0, 1, width=32),
  ratio=st.floats(1, 1000, width=32),
)
def test_rows_sum_to_one_and_masses_stay(name, rate, ratio):
  law = {"rate": rate, "graph": GRAPHS[name], "neighbor_ratio": ratio}
  ones = np.ones((SIZE, 3), np.float32)
  np.testing.assert_allclose(product(ones, **law), ones, atol=1e-5)
  landed = product(VALUES, transpose=True, **law)
  np.testing.assert_allclose(landed.sum(axis=0), VALUES.sum(axis=0), atol=1e-5)
  # An average of the rows: never outside of their range.
  shared = np.asarray(product(VALUES, **law))
  assert (shared <= VALUES.max(axis=0) + 1e-5).all()
  assert (shared >= VALUES.min(axis=0) - 1e-5).all()


@given(name=st.sampled_from(LINKED), seed=st.integers(0, 99))
def test_the_transpose_is_the_transpose(name, seed):
  law = {"rate": 0.4, "graph": GRAPHS[name], "neighbor_ratio": 9.0}
  other = reference.normal(seed, SIZE, 3)
  np.testing.assert_allclose(
    np.sum(other * product(VALUES, **law)),
    np.sum(product(other, transpose=True, **law) * VALUES),
    atol=1e-4,
  )


def test_values_may_be_a_vector():
  law = {"rate": 0.3, "graph": GRAPHS["weighted"], "neighbor_ratio": 5.0}
  expected = _matrix(GRAPHS["weighted"], 0.3, 5.0) @ VALUES[:, 0]
  np.testing.assert_allclose(product(VALUES[:, 0], **law), expected, atol=2e-6)


def test_a_single_embedding_stays():
  for transpose in (False, True):
    shared = product(jnp.array([3.0]), rate=0.7, transpose=transpose)
    np.testing.assert_array_equal(shared, [3.0])


def test_narrow_floats_are_widened():
  shared = product(jnp.ones(4, jnp.bfloat16), rate=0.1)
  assert shared.dtype == jnp.float32


def test_float64_is_kept():
  with jax.enable_x64(True):
    law = {"rate": 0.3, "graph": GRAPHS["plain"], "neighbor_ratio": 5.0}
    shared = product(VALUES.astype(np.float64), **law)
  assert shared.dtype == np.float64
  matrix = _matrix(GRAPHS["plain"], 0.3, 5.0)
  np.testing.assert_allclose(shared, matrix @ VALUES, rtol=1e-12)


def test_schedules_are_traced_once():
  @jax.jit
  @chex.assert_max_traces(n=1)
  def shared(values, graph, rate, ratio):
    return transition_products.transition_product(
      values, rate=rate, graph=graph, neighbor_ratio=ratio
    )

  for rate in (0.0, 0.5, 1.0):
    shared(VALUES, GRAPHS["plain"], rate, 2.0)


# --- Weights and neighbours ---


@pytest.mark.parametrize("name", ["none", "plain"])
def test_weights_make_up_a_distribution(name):
  graph = GRAPHS[name]
  keep, everyone, neighbor = transition_products.transition_weights(
    num_embeddings=SIZE, rate=0.3, graph=graph, neighbor_ratio=5.0
  )
  degrees = 0 if graph is None else _degrees(graph)
  total = keep + SIZE * everyone + np.float32(degrees) * np.asarray(neighbor)
  np.testing.assert_allclose(total, np.ones_like(total), rtol=1e-6)
  # What stays is what is kept, and what the draw of anyone gives back.
  np.testing.assert_allclose(keep + everyone, 0.7 * np.ones_like(total))


@pytest.mark.parametrize("name", ["weighted", "classes", "alone", "empty"])
def test_padded_neighbors_are_the_rows(name):
  graph = GRAPHS[name]
  nodes = np.array([[0, 1, 2], [3, 5, 6]])
  neighbors, weights = map(np.asarray, neighbors_of(graph, nodes, max_degree=5))
  for place in np.ndindex(nodes.shape):
    expected = np.zeros(SIZE)
    found, values = graph.row(nodes[place])
    expected[found] = values
    dense = np.zeros(SIZE)
    np.add.at(dense, neighbors[place], weights[place])
    np.testing.assert_allclose(dense, expected, rtol=1e-6)


@pytest.mark.parametrize(
  ("name", "degree"),
  [("plain", 4), ("directed", 3), ("classes", 2), ("alone", 0), ("empty", 0)],
)
def test_largest_degree(name, degree):
  graph = GRAPHS[name]
  assert transition_products.largest_degree(graph) == degree
  assert _degrees(graph).max() == degree


@pytest.mark.parametrize(("name", "limit"), [("plain", 2), ("classes", 1)])
def test_neighbours_are_never_left_out_in_silence(name, limit):
  graph = GRAPHS[name]
  _, weights = neighbors_of(graph, np.arange(SIZE), max_degree=limit)
  too_many = _degrees(graph) > limit
  assert too_many.any()
  np.testing.assert_array_equal(np.isnan(weights).any(axis=1), too_many)


# --- Errors ---


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"rate": 1.5}, "`rate` must be between 0 and 1, got 1.5"),
    ({"rate": float("nan")}, "`rate` must be between 0 and 1, got nan"),
    (
      {"neighbor_ratio": 0.5},
      "`neighbor_ratio` must be at least 1, .* got 0.5",
    ),
    ({"graph": GRAPHS["plain"]}, "ids, got 7 and 4"),
  ],
)
def test_options_are_checked(options, message):
  with pytest.raises(ValueError, match=message):
    transition_products.transition_product(
      jnp.ones(4), **({"rate": 0.1} | options)
    )


def test_an_empty_table_is_refused():
  with pytest.raises(ValueError, match="`num_embeddings` must be at least 1"):
    transition_products.transition_product(jnp.ones((0, 2)), rate=0.1)
  with pytest.raises(AssertionError, match="rank"):
    transition_products.transition_product(jnp.ones(()), rate=0.1)


def test_limits_of_degrees_are_checked():
  with pytest.raises(ValueError, match="`max_degree` must be at least 0"):
    transition_products.padded_neighbors(
      GRAPHS["plain"], jnp.arange(2), max_degree=-1
    )
  with pytest.raises(ValueError, match="`max_degree` must be given"):
    neighbors_of(GRAPHS["plain"], np.arange(2))
