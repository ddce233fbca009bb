"""Tests of the diagnostics of shared embeddings."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st

from anchor_codes.ops import graphs, sharing_diagnostics, transitions

SIZE = 7
KEY = jax.random.key(0)
EDGES = [(0, 1), (0, 2), (0, 3), (0, 4), (1, 2), (3, 4), (4, 5)]
GRAPHS = {
  "none": None,
  "plain": graphs.graph_from_edges(EDGES, num_nodes=SIZE),
  "directed": graphs.graph_from_rows(
    np.array([0, 0, 0, 3]), np.array([1, 2, 6, 0]), num_nodes=SIZE
  ),
  "classes": graphs.graph_from_classes([2, 0, 2, -1, 2, 1, 0]),
}
IDS = np.array([0, 0, 3, 6, 5], np.int32)


def _matrix(name, rate, neighbor_ratio=1.0):
  rows = [
    transitions.transition_row(
      i,
      num_embeddings=SIZE,
      rate=rate,
      graph=GRAPHS[name],
      neighbor_ratio=neighbor_ratio,
    )
    for i in range(SIZE)
  ]
  return np.stack(rows)


# --- The spectrum ---


@functools.partial(
  jax.jit, static_argnames=("num_embeddings", "num_iterations")
)
def eigenvalue(rate, graph=None, ratio=1.0, num_embeddings=SIZE, **options):
  return sharing_diagnostics.second_eigenvalue(
    KEY,
    num_embeddings=num_embeddings,
    rate=rate,
    graph=graph,
    neighbor_ratio=ratio,
    **options,
  )


@given(st.floats(0, 1, width=32))
def test_uniform_replacement_has_one_other_eigenvalue(rate):
  np.testing.assert_allclose(
    eigenvalue(rate), abs(1 - rate * SIZE / (SIZE - 1)), rtol=1e-4, atol=1e-6
  )


@pytest.mark.parametrize(
  ("name", "rtol"),
  # Only of a graph that is not symmetric are the largest a complex pair.
  [("plain", 1e-4), ("classes", 1e-4), ("directed", 0.01)],
)
def test_it_is_the_eigenvalue_of_the_matrix(name, rtol):
  for rate, ratio in ((0.3, 5.0), (0.9, 200.0)):
    moduli = np.sort(np.abs(np.linalg.eigvals(_matrix(name, rate, ratio))))
    np.testing.assert_allclose(
      eigenvalue(rate, GRAPHS[name], ratio), moduli[-2], rtol=rtol
    )


def test_clusters_are_hardly_ever_left():
  near = eigenvalue(0.5, GRAPHS["classes"], 1e4)
  assert near > 0.99 > eigenvalue(0.5)


def test_there_is_no_second_of_one():
  assert eigenvalue(0.3, num_embeddings=1) == 0


def test_iterations_are_checked():
  with pytest.raises(ValueError, match="`num_iterations` must be at least 2"):
    eigenvalue(0.3, num_iterations=1)
  with pytest.raises(ValueError, match="`num_embeddings` must be at least 1"):
    eigenvalue(0.3, num_embeddings=0)


# --- Complexity ---

LOSSES = np.abs(reference.normal(0, 4, SIZE))
complexity = jax.jit(
  sharing_diagnostics.empirical_complexity, static_argnames="num_signs"
)


def _complexity(rate):
  law = {"rate": rate, "graph": GRAPHS["plain"], "neighbor_ratio": 5.0}
  return complexity(KEY, LOSSES, ids=IDS, num_signs=5000, **law)


def test_complexity_is_the_mean_over_all_signs():
  shared = LOSSES @ _matrix("plain", 0.4, 5.0).T
  signs = np.array(list(itertools.product((-1, 1), repeat=len(IDS))))
  exact = np.abs(signs @ shared[:, IDS].T).max(axis=1).mean()
  found = _complexity(0.4)
  np.testing.assert_allclose(found.mean, exact, atol=4 * float(found.error))
  assert found.error < 0.02 * exact


def test_replacement_lowers_complexity():
  """With the same signs for all rates, and for each call with a key."""

  def mean(rate):
    return float(_complexity(rate).mean)

  means = [mean(rate) for rate in (0.0, 0.3, 0.7)]
  assert means == sorted(means, reverse=True)
  assert mean(0.3) == means[1]


# --- Bias ---

bias = jax.jit(sharing_diagnostics.expected_bias)


@pytest.mark.parametrize("name", ["none", "directed"])
def test_bias_is_the_mean_over_all_replacements(name):
  law = {"rate": 0.4, "graph": GRAPHS[name], "neighbor_ratio": 5.0}
  losses = LOSSES[0]
  expected = (_matrix(name, 0.4, 5.0) @ losses - losses)[IDS].mean()
  np.testing.assert_allclose(bias(losses, ids=IDS, **law), expected, rtol=1e-4)


@given(st.floats(0, 1, width=32))
def test_uniform_ids_have_no_bias_under_symmetric_transitions(rate):
  np.testing.assert_allclose(bias(LOSSES[0], rate=rate), 0, atol=1e-6)


@jax.jit
def _sampled_bias(key, losses, ids, graph):
  return sharing_diagnostics.sampled_bias(
    key,
    ids,
    loss=lambda ids: losses[ids],
    transition=lambda key, ids: transitions.sse_graph_transition(
      key, ids, graph, rate=0.4, neighbor_ratio=5.0
    ),
  )


def test_sampled_bias_tends_to_the_expected_one():
  losses, graph = LOSSES[0], GRAPHS["directed"]
  found = _sampled_bias(KEY, losses, np.tile(IDS, 100), graph)
  exact = bias(losses, ids=IDS, graph=graph, rate=0.4, neighbor_ratio=5.0)
  np.testing.assert_allclose(found.mean, exact, atol=4 * float(found.error))
  assert found.error < 0.02


def test_samples_may_name_several_tables():
  """Only users are exchanged here: that part of the bias is 1 for sure."""
  ids = {"users": jnp.array([0, 1]), "items": jnp.array([2, 2])}
  found = jax.jit(
    lambda ids: sharing_diagnostics.sampled_bias(
      KEY,
      ids,
      loss=lambda ids: (ids["users"] + ids["items"]).astype(jnp.float32),
      transition=lambda _, ids: ids | {"users": ids["users"] + 1},
      num_draws=1,
    )
  )(ids)
  assert float(found.mean) == 1
  # One draw says nothing about its error.
  assert np.isnan(found.error)


# --- Distances ---


def test_mean_squared_distance_is_that_of_all_pairs():
  table = reference.normal(0, SIZE, 3) + np.float32(100)
  pairs = [
    np.sum((np.float64(a) - np.float64(b)) ** 2)
    for a, b in itertools.permutations(table, 2)
  ]
  found = sharing_diagnostics.mean_squared_distance(jnp.asarray(table))
  np.testing.assert_allclose(found, np.mean(pairs), rtol=1e-5)


def test_a_single_row_has_no_distance():
  assert sharing_diagnostics.mean_squared_distance(jnp.ones((1, 3))) == 0


# --- Errors ---


def test_counts_of_draws_are_checked():
  with pytest.raises(ValueError, match="`num_signs` must be at least 1, got 0"):
    sharing_diagnostics.empirical_complexity(
      KEY, jnp.asarray(LOSSES), rate=0.1, num_signs=0
    )
  with pytest.raises(ValueError, match="`num_draws` must be at least 1, got 0"):
    sharing_diagnostics.sampled_bias(
      KEY, IDS, loss=abs, transition=lambda _, ids: ids, num_draws=0
    )


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"rate": 2.0}, "`rate` must be between 0 and 1, got 2.0"),
    ({"rate": 0.1, "neighbor_ratio": 0.0}, "`neighbor_ratio` must be"),
  ],
)
def test_laws_are_checked(options, message):
  with pytest.raises(ValueError, match=message):
    sharing_diagnostics.expected_bias(jnp.ones(3), **options)


def test_ranks_are_checked():
  with pytest.raises(AssertionError, match="rank"):
    bias(LOSSES, rate=0.1)
  with pytest.raises(AssertionError, match="rank"):
    complexity(KEY, LOSSES[0], rate=0.1, num_signs=1)
  with pytest.raises(AssertionError, match="rank"):
    sharing_diagnostics.mean_squared_distance(jnp.ones(3))
