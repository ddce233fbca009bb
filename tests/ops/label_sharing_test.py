"""Tests of the expected loss of replaced labels."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st

from anchor_codes.ops import graphs, label_sharing, transitions

LOW, SIZE = 2, 7
NUM_CLASSES = LOW + SIZE + 1
EDGES = [(0, 1), (0, 2), (0, 3), (0, 4), (1, 2), (3, 4), (4, 5)]
GRAPHS = {
  "none": None,
  "plain": graphs.graph_from_edges(EDGES, num_nodes=SIZE),
  "weighted": graphs.graph_from_edges(
    EDGES, num_nodes=SIZE, weights=np.arange(1.0, 8.0)
  ),
  "classes": graphs.graph_from_classes([2, 0, 2, -1, 2, 1, 0]),
  "empty": graphs.graph_from_edges([], num_nodes=SIZE),
}
# Every class, the special ones included.
LABELS = np.arange(NUM_CLASSES, dtype=np.int32)
LOGITS = 3 * reference.normal(0, NUM_CLASSES, NUM_CLASSES)
LOG_PROBS = np.log(reference.softmax(LOGITS))
PLAIN = -LOG_PROBS[LABELS, LABELS]


def _loss(logits, labels, rate, neighbor_ratio=5.0, graph=None, **options):
  return label_sharing.shared_label_loss(
    logits,
    labels,
    rate=rate,
    neighbor_ratio=neighbor_ratio,
    graph=graph,
    **({"low": LOW, "num_embeddings": SIZE} | options),
  )


# Graphs are constants, whose degrees are known.
losses = {
  name: jax.jit(functools.partial(_loss, graph=graph))
  for name, graph in GRAPHS.items()
}


def _targets(name, rate, neighbor_ratio=5.0):
  """The distribution of each label."""
  targets = np.eye(NUM_CLASSES)
  for i in range(SIZE):
    targets[LOW + i, LOW : LOW + SIZE] = transitions.transition_row(
      i,
      num_embeddings=SIZE,
      rate=rate,
      graph=GRAPHS[name],
      neighbor_ratio=neighbor_ratio,
    )
  return targets


# --- The closed form ---


@pytest.mark.parametrize("name", GRAPHS)
def test_it_is_the_mean_over_all_labels(name):
  for rate, ratio in ((0.3, 5.0), (1.0, 200.0), (0.01, 1.0)):
    targets = _targets(name, rate, ratio)
    np.testing.assert_allclose(
      losses[name](LOGITS, LABELS, rate, ratio),
      -np.sum(targets * LOG_PROBS, axis=-1),
      rtol=1e-5,
    )


@given(seed=st.integers(0, 2**16), rate=st.floats(0, 0.875, width=32))
def test_without_a_graph_it_is_label_smoothing(seed, rate):
  logits = reference.normal(seed, NUM_CLASSES, NUM_CLASSES)
  smoothing = rate * NUM_CLASSES / (NUM_CLASSES - 1)
  targets = (1 - smoothing) * np.eye(NUM_CLASSES) + smoothing / NUM_CLASSES
  expected = optax.softmax_cross_entropy(logits, np.float32(targets))
  found = uniform(logits, LABELS, np.float32(rate))
  np.testing.assert_allclose(found, expected, rtol=1e-5)


@jax.jit
def uniform(logits, labels, rate):
  return label_sharing.shared_label_loss(logits, labels, rate=rate)


@pytest.mark.parametrize("name", ["none", "weighted"])
def test_gradients_are_probabilities_less_targets(name):
  gradient = jax.jit(
    jax.grad(lambda logits: jnp.sum(losses[name](logits, LABELS, 0.3)))
  )(LOGITS)
  expected = reference.softmax(LOGITS) - _targets(name, 0.3)
  np.testing.assert_allclose(gradient, expected, atol=1e-6)


def test_sampled_gradients_tend_to_the_exact_one():
  """The gradient of a draw is linear in how often each class was drawn."""
  copies = np.broadcast_to(LABELS, (30_000, NUM_CLASSES))
  drawn = jax.jit(transitions.sse_graph_transition, static_argnames="low")(
    jax.random.key(0),
    copies,
    GRAPHS["plain"],
    rate=0.3,
    neighbor_ratio=5.0,
    low=LOW,
  )
  pairs = LABELS * NUM_CLASSES + np.asarray(drawn)
  counts = np.bincount(pairs.ravel(), minlength=NUM_CLASSES**2)
  shares = counts.reshape(NUM_CLASSES, NUM_CLASSES) / len(copies)
  gradient = jax.jit(
    jax.grad(lambda logits: jnp.sum(losses["plain"](logits, LABELS, 0.3)))
  )(LOGITS)
  sampled = reference.softmax(LOGITS) - shares
  np.testing.assert_allclose(sampled, gradient, atol=0.01)


# --- What stays ---


def test_special_labels_have_the_plain_loss():
  special = [0, 1, NUM_CLASSES - 1]
  for name in ("none", "plain"):
    found = np.asarray(losses[name](LOGITS, LABELS, 0.9))
    np.testing.assert_allclose(found[special], PLAIN[special], rtol=1e-5)
    assert (np.abs(found - PLAIN)[LOW : LOW + SIZE] > 1e-3).all()


def test_labels_that_may_not_change_have_the_plain_loss():
  where = LABELS % 2 == 0
  found = losses["plain"](LOGITS, LABELS, 0.5, where=where)
  every = losses["plain"](LOGITS, LABELS, 0.5)
  np.testing.assert_allclose(found, np.where(where, every, PLAIN), rtol=1e-5)


@pytest.mark.parametrize("name", GRAPHS)
def test_rate_zero_is_the_plain_loss(name):
  found = losses[name](LOGITS, LABELS, 0.0)
  np.testing.assert_allclose(found, PLAIN, rtol=1e-5)


@pytest.mark.parametrize("name", GRAPHS)
def test_rate_zero_leaves_masked_classes_masked(name):
  logits = jnp.asarray(LOGITS).at[:, LOW].set(-jnp.inf)
  labels = np.delete(LABELS, LOW)
  loss = lambda logits: _loss(logits, labels, 0.0, graph=GRAPHS[name])
  values, pull_back = jax.vjp(loss, logits[labels])
  expected = -jax.nn.log_softmax(logits)[labels, labels]
  np.testing.assert_allclose(values, expected, rtol=1e-6)
  (grads,) = pull_back(jnp.ones_like(values))
  targets = jax.nn.one_hot(labels, NUM_CLASSES)
  expected = jax.nn.softmax(logits[labels]) - targets
  np.testing.assert_allclose(grads, expected, rtol=1e-5, atol=1e-6)


def test_one_class_is_never_replaced():
  found = jax.jit(functools.partial(_loss, low=3, num_embeddings=1))(
    LOGITS, LABELS, 1.0
  )
  np.testing.assert_allclose(found, PLAIN, rtol=1e-5)


# --- Edges ---


def test_large_scores_lose_no_digits():
  rate = np.float32(0.1)
  shifted = uniform(LOGITS + np.float32(2**16), LABELS, rate)
  rounded = (LOGITS + np.float32(2**16)) - np.float32(2**16)
  np.testing.assert_allclose(shifted, uniform(rounded, LABELS, rate), rtol=1e-6)


def test_labels_outside_of_the_logits_give_nan():
  labels = np.where(LABELS == 0, -1, LABELS + 1)

  def total(logits):
    found = losses["plain"](logits, labels, 0.1)
    return jnp.nansum(found), found

  (_, found), gradient = jax.jit(jax.value_and_grad(total, has_aux=True))(
    LOGITS
  )
  outside = (labels < 0) | (labels == NUM_CLASSES)
  np.testing.assert_array_equal(np.isnan(found), outside)
  assert np.isfinite(gradient).all()


def test_shapes_and_narrow_types():
  logits = jnp.asarray(LOGITS, jnp.bfloat16)
  found = losses["plain"](
    logits.reshape(2, 5, -1), LABELS.reshape(2, 5).astype(np.uint8), 0.3
  )
  assert found.dtype == jnp.float32
  flat = losses["plain"](np.float32(logits), LABELS, 0.3)
  np.testing.assert_allclose(found.reshape(-1), flat, rtol=1e-5)


def test_graphs_and_rates_are_traced_once():
  @jax.jit
  @chex.assert_max_traces(n=1)
  def loss(graph, rate):
    return _loss(LOGITS, LABELS, rate, graph=graph, max_degree=4)

  for rate in (0.0, 0.2, 0.9):
    np.testing.assert_allclose(
      loss(GRAPHS["plain"], rate),
      losses["plain"](LOGITS, LABELS, rate),
      rtol=1e-5,
    )


def test_graphs_say_how_many_classes_there_are():
  found = losses["plain"](LOGITS, LABELS, 0.3, num_embeddings=None)
  np.testing.assert_allclose(
    found, losses["plain"](LOGITS, LABELS, 0.3), rtol=1e-6
  )


# --- Errors ---


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"rate": 1.5}, "`rate` must be between 0 and 1, got 1.5"),
    ({"low": -1}, "`low` must be at least 0, got -1"),
    ({"low": 4}, r"must have `low \+ num_embeddings` .* 10 and 4 \+ 7"),
    ({"num_embeddings": 0}, "`num_embeddings` must be at least 1, got 0"),
    ({"num_embeddings": 3, "graph": GRAPHS["plain"]}, "ids, got 7 and 3"),
    ({"neighbor_ratio": 0.5}, "`neighbor_ratio` must be at least 1"),
    ({"labels": LOGITS[0]}, "ids must be integers, got float32"),
  ],
)
def test_options_are_checked(options, message):
  given_options = {"labels": LABELS, "rate": 0.1} | options
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(lambda: _loss(LOGITS, **given_options))


def test_shapes_are_checked():
  with pytest.raises(AssertionError, match="shape"):
    losses["none"](LOGITS, LABELS[:3], 0.1)
  with pytest.raises(AssertionError, match="shape"):
    losses["none"](LOGITS, LABELS, 0.1, where=np.ones(3, bool))
