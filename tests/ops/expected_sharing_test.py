"""Tests of the exact expected loss of matrix factorisation."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st

from anchor_codes.ops import expected_sharing, graphs, transitions
from anchor_codes.ops.expected_sharing import SharedTable

NUM_USERS, NUM_ITEMS, FEATURES = 6, 5, 3
USERS = reference.normal(0, NUM_USERS, FEATURES)
ITEMS = reference.normal(1, NUM_ITEMS, FEATURES)
RATINGS = np.array([3.5, -1.0, 2.0, 5.0], np.float32)
IDS = {
  "user_ids": np.array([0, 2, 5, 2], np.int32),
  "item_ids": np.array([4, 4, 0, 1], np.int32),
}
FRIENDS = graphs.graph_from_edges([(0, 1), (0, 2), (2, 5)], num_nodes=NUM_USERS)
GENRES = graphs.graph_from_classes([0, 1, 0, 1, 1])
WEIGHTED = graphs.graph_from_edges(
  [(0, 1), (1, 4), (4, 0)], num_nodes=NUM_ITEMS, weights=[1.0, 2.0, 5.0]
)
EMPTY = graphs.graph_from_edges([], num_nodes=NUM_ITEMS)
RATES = (0.3, 0.2)
LAWS = {
  "uniform": ({}, {}),
  "one graph": ({}, {"graph": WEIGHTED, "neighbor_ratio": 4.0}),
  "two graphs": (
    {"graph": FRIENDS, "neighbor_ratio": 9.0},
    {"graph": GENRES, "neighbor_ratio": 200.0},
  ),
  "no edges": ({}, {"graph": EMPTY, "neighbor_ratio": 4.0}),
}


def _expected(users, items, ratings, rates=RATES, laws=({}, {}), **options):
  ids = IDS | options
  tables = [
    SharedTable(rows=rows, rate=rate, **law)
    for rows, rate, law in zip((users, items), rates, laws, strict=True)
  ]
  return expected_sharing.expected_squared_error(*tables, ratings, **ids)


# Graphs are constants, whose degrees are known.
expected = {
  name: jax.jit(functools.partial(_expected, laws=laws))
  for name, laws in LAWS.items()
}


def _matrix(size, rate, law):
  rows = [
    transitions.transition_row(i, num_embeddings=size, rate=rate, **law)
    for i in range(size)
  ]
  return np.stack(rows)


def _enumerate(scores, ratings, rates=RATES, laws=({}, {})):
  """Mean over all replacements of users, and of items."""
  user, item = (
    _matrix(size, rate, law)[ids]
    for size, rate, law, ids in zip(
      scores.shape, rates, laws, IDS.values(), strict=True
    )
  )
  errors = (ratings[:, None, None] - scores[None]) ** 2
  return (user[:, :, None] * item[:, None, :] * errors).sum(axis=(1, 2))


# --- The closed form ---


@pytest.mark.parametrize("name", LAWS)
def test_it_is_the_mean_over_all_replacements(name):
  for rates in (RATES, (1.0, 0.9), (0.0, 0.01)):
    np.testing.assert_allclose(
      expected[name](USERS, ITEMS, RATINGS, rates),
      _enumerate(USERS @ ITEMS.T, RATINGS, rates, LAWS[name]),
      rtol=1e-5,
    )


def test_gradients_are_those_of_the_enumeration():
  name = "two graphs"
  laws = LAWS[name]
  user, item = (
    _matrix(size, rate, law)[ids]
    for size, rate, law, ids in zip(
      (NUM_USERS, NUM_ITEMS), RATES, laws, IDS.values(), strict=True
    )
  )

  def enumerated(users, items):
    errors = jnp.square(RATINGS[:, None, None] - (users @ items.T)[None])
    return jnp.einsum("bk,bl,bkl->", np.float32(user), np.float32(item), errors)

  def closed(users, items):
    return jnp.sum(expected[name](users, items, RATINGS))

  both = jax.jit(lambda *tables: [jax.grad(f, (0, 1))(*tables) for f in fs])
  fs = (closed, enumerated)
  chex.assert_trees_all_close(*both(USERS, ITEMS), rtol=1e-4, atol=1e-5)


def test_float64_is_exact():
  with jax.enable_x64(True):
    found = expected["one graph"](
      np.float64(USERS), np.float64(ITEMS), np.float64(RATINGS)
    )
  exact = _enumerate(
    np.float64(USERS) @ np.float64(ITEMS).T, RATINGS, laws=LAWS["one graph"]
  )
  # The weights of the edges are float32.
  np.testing.assert_allclose(found, exact, rtol=1e-6)
  assert found.dtype == np.float64


def test_it_is_the_formula_of_moments():
  """With m and S the first two moments of the replaced rows (no graph)."""

  def moments(table, rate, ids):
    table = np.float64(table)
    share, own = rate / (len(table) - 1), table[ids]
    means = (1 - rate) * own + share * (table.sum(axis=0) - own)
    squares = own[:, :, None] * own[:, None, :]
    return means, (1 - rate) * squares + share * (table.T @ table - squares)

  (m_u, s_u), (m_v, s_v) = (
    moments(table, rate, ids)
    for table, rate, ids in zip(
      (USERS, ITEMS), RATES, IDS.values(), strict=True
    )
  )
  products = np.sum(m_u * m_v, axis=-1)
  traces = np.einsum("bij,bji->b", s_u, s_v)
  np.testing.assert_allclose(
    expected["uniform"](USERS, ITEMS, RATINGS),
    RATINGS**2 - 2 * RATINGS * products + traces,
    rtol=1e-5,
  )


def test_biases_that_are_replaced_with_their_rows():
  user_bias = reference.normal(2, NUM_USERS)
  item_bias = reference.normal(3, NUM_ITEMS)
  users, items = expected_sharing.append_biases(
    USERS, ITEMS, user_bias=user_bias, item_bias=item_bias
  )
  scores = USERS @ ITEMS.T + user_bias[:, None] + item_bias[None]
  np.testing.assert_allclose(users @ items.T, scores, atol=1e-5)
  constant = 3.5
  np.testing.assert_allclose(
    expected["uniform"](users, items, RATINGS - np.float32(constant)),
    _enumerate(scores + constant, RATINGS),
    rtol=1e-5,
  )


# --- Samples ---


@jax.jit
def _sampled_gradients(users, items):
  """Means of sampled gradients in parts, of 3e4 replacements of each rating."""
  key_user, key_item = jax.random.split(jax.random.key(0))
  ids = {}
  for name, key, size, rate in zip(
    IDS, (key_user, key_item), (NUM_USERS, NUM_ITEMS), RATES, strict=True
  ):
    copies = jnp.broadcast_to(IDS[name], (30_000, 4))
    ids[name] = transitions.sse_se_transition(
      key, copies, num_embeddings=size, rate=rate
    )

  def loss(users, items):
    scores = jnp.sum(users[ids["user_ids"]] * items[ids["item_ids"]], axis=-1)
    return jnp.mean(jnp.sum(jnp.square(RATINGS[None] - scores), axis=-1))

  return jax.grad(loss, (0, 1))(users, items)


def test_sampled_gradients_tend_to_the_exact_one():
  def closed(users, items):
    return jnp.sum(expected["uniform"](users, items, RATINGS))

  exact = jax.jit(jax.grad(closed, (0, 1)))(USERS, ITEMS)
  chex.assert_trees_all_close(_sampled_gradients(USERS, ITEMS), exact, atol=0.1)
  # Rows that no rating names learn as well.
  assert np.abs(exact[0][1]).max() > 0.3


# --- Laws ---


def test_rate_zero_is_the_squared_error():
  scores = np.sum(USERS[IDS["user_ids"]] * ITEMS[IDS["item_ids"]], axis=-1)
  np.testing.assert_allclose(
    expected["uniform"](USERS, ITEMS, RATINGS, (0.0, 0.0)),
    (RATINGS - scores) ** 2,
    rtol=1e-5,
  )


def test_uniform_rows_forget_their_ids():
  rates = (1 - 1 / NUM_USERS, 1 - 1 / NUM_ITEMS)
  errors = expected["uniform"](USERS, ITEMS, np.full(4, 2, np.float32), rates)
  np.testing.assert_allclose(errors, np.broadcast_to(errors[0], 4), rtol=1e-5)
  scores = USERS @ ITEMS.T
  np.testing.assert_allclose(errors[0], np.mean((2 - scores) ** 2), rtol=1e-5)


@given(
  seed=st.integers(0, 2**16),
  rates=st.tuples(st.floats(0, 1, width=32), st.floats(0, 1, width=32)),
)
def test_noise_only_adds_to_the_error_of_the_mean(seed, rates):
  users = reference.normal(seed, NUM_USERS, FEATURES)
  items = reference.normal(seed + 1, NUM_ITEMS, FEATURES)
  means = [
    (_matrix(len(rows), rate, {}) @ rows)[ids]
    for rows, rate, ids in zip((users, items), rates, IDS.values(), strict=True)
  ]
  least = (RATINGS - np.sum(means[0] * means[1], axis=-1)) ** 2
  errors = np.asarray(expected["uniform"](users, items, RATINGS, rates))
  assert (errors >= least - 1e-4 * (1 + least)).all()


def test_large_tables_take_the_other_way():
  """Fewer ratings than rows, or more: the same numbers."""
  few = expected["uniform"](USERS, ITEMS, RATINGS)
  many = expected["uniform"](
    USERS,
    ITEMS,
    np.tile(RATINGS, (3, 1)),
    **{name: np.tile(ids, (3, 1)) for name, ids in IDS.items()},
  )
  assert many.shape == (3, 4)
  np.testing.assert_allclose(many, np.tile(few, (3, 1)), rtol=1e-5)


def test_a_table_of_one_row_is_not_replaced():
  errors = expected["uniform"](
    USERS[:1],
    ITEMS,
    RATINGS,
    (0.9, 0.0),
    user_ids=np.zeros(4, np.int32),
  )
  scores = ITEMS[IDS["item_ids"]] @ USERS[0]
  np.testing.assert_allclose(errors, (RATINGS - scores) ** 2, rtol=1e-5)


def test_ids_outside_of_a_table_are_not_a_row_of_it():
  ids = np.array([0, -1, 5, 6], np.int32)
  errors = expected["one graph"](USERS, ITEMS, RATINGS, user_ids=ids)
  np.testing.assert_array_equal(np.isnan(errors), [0, 1, 0, 1])


def test_an_empty_batch_and_narrow_types():
  none = np.zeros(0, np.uint8)
  errors = expected["two graphs"](
    jnp.asarray(USERS, jnp.bfloat16),
    jnp.asarray(ITEMS, jnp.bfloat16),
    np.zeros(0, np.float32),
    user_ids=none,
    item_ids=none,
  )
  assert errors.shape == (0,)
  assert errors.dtype == jnp.float32


def test_rates_and_tables_are_traced_once():
  @jax.jit
  @chex.assert_max_traces(n=1)
  def loss(users, items):
    return expected_sharing.expected_squared_error(users, items, RATINGS, **IDS)

  for rate in (0.0, 0.1):
    users = SharedTable(
      rows=USERS,
      rate=rate,
      graph=FRIENDS,
      neighbor_ratio=2.0 + rate,
      max_degree=2,
    )
    errors = loss(users, SharedTable(rows=ITEMS, rate=2 * rate))
    assert np.isfinite(errors).all()


# --- Errors ---


@pytest.mark.parametrize(
  ("law", "message"),
  [
    ({"rate": -0.1}, "`rate` must be between 0 and 1, got -0.1"),
    ({"graph": FRIENDS}, "`graph` must be of .* ids, got 6 and 5"),
    ({"neighbor_ratio": 0}, "`neighbor_ratio` must be at least 1, .* got 0"),
  ],
)
def test_laws_are_checked(law, message):
  items = SharedTable(rows=jnp.asarray(ITEMS), **({"rate": 0.1} | law))
  users = SharedTable(rows=jnp.asarray(USERS), rate=0.1)
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(
      lambda: expected_sharing.expected_squared_error(
        users, items, RATINGS, **IDS
      )
    )


def test_arrays_are_checked():
  error = functools.partial(jax.eval_shape, _expected)
  with pytest.raises(ValueError, match="ids must be integers, got float32"):
    error(USERS, ITEMS, RATINGS, user_ids=np.zeros(4, np.float32))
  with pytest.raises(AssertionError, match="shape"):
    error(USERS, ITEMS, RATINGS, user_ids=np.zeros(3, np.int32))
  with pytest.raises(AssertionError, match="shape"):
    error(USERS, ITEMS[:, :2], RATINGS)
  with pytest.raises(AssertionError, match="rank"):
    expected_sharing.append_biases(
      USERS, ITEMS, user_bias=USERS, item_bias=ITEMS[:, 0]
    )


def test_traced_graphs_need_a_limit():
  users = SharedTable(rows=USERS, rate=0.1, graph=FRIENDS)
  items = SharedTable(rows=ITEMS, rate=0.1)
  with pytest.raises(ValueError, match="`max_degree` must be given"):
    jax.jit(expected_sharing.expected_squared_error)(
      users, items, RATINGS, **IDS
    )
