"""The price of anchors against sums by hand, and draws of a buffet."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchor_codes import ops
from anchor_codes.ops import nonparametric

N, CAPACITY = 40, 64

# Compiled once for all tests.
buffet = jax.jit(
  ops.indian_buffet_rows,
  static_argnames=("num_embeddings", "concentration", "max_anchors"),
)


def draws(num_draws=400, *, concentration=1.5, max_anchors=CAPACITY, seed=0):
  """Returns many tables at once, [num_draws, N, max_anchors]."""
  draw = lambda key: ops.indian_buffet_rows(
    key,
    num_embeddings=N,
    concentration=concentration,
    max_anchors=max_anchors,
  )
  keys = jax.random.split(jax.random.key(seed), num_draws)
  return np.asarray(jax.jit(jax.vmap(draw))(keys))


@pytest.fixture(scope="module")
def tables():
  return draws()


# The objective.


def test_the_objective_by_hand():
  # Three anchors, used by 4, 2 and 1 rows: the first use of each costs 1, each
  # of the other 4 uses 1 / 4.
  value = ops.small_variance_objective(0.5, 7, 3, l1=0.25, anchor_penalty=1.0)
  assert value == 0.5 + 3 * 1.0 + 4 * 0.25


# Multiples of 1 / 64, so that all sums are exact.
PRICES = st.tuples(st.integers(0, 64), st.integers(0, 64)).map(
  lambda pair: {"l1": pair[0] / 64, "anchor_penalty": sum(pair) / 64}
)


@given(PRICES, st.lists(st.integers(1, 1000), max_size=20), st.integers(0, 640))
def test_the_first_use_of_an_anchor_has_another_price(prices, uses, loss):
  value = ops.small_variance_objective(
    loss / 64, sum(uses), len(uses), **prices
  )
  used = [prices["anchor_penalty"] + prices["l1"] * (m - 1) for m in uses]
  assert value == loss / 64 + sum(used)


@given(PRICES, st.integers(0, 2**31 - 1))
def test_the_objective_of_a_table_is_that_of_its_rows(prices, seed):
  transform = np.random.default_rng(seed).random((9, 5)) < 0.3
  nonzeros, used = transform.sum(), transform.any(axis=0).sum()
  value = ops.small_variance_objective(0.0, nonzeros, used, **prices)
  expected, seen = 0.0, set()
  for row in transform:
    for anchor in np.flatnonzero(row):
      new = anchor not in seen
      expected += prices["anchor_penalty"] if new else prices["l1"]
      seen.add(anchor)
  assert value == expected


def test_the_objective_takes_arrays():
  value = jax.jit(
    lambda *args: ops.small_variance_objective(
      *args, l1=0.5, anchor_penalty=2.0
    )
  )(jnp.float32(1.0), jnp.float32(10.0), jnp.float32(4.0))
  assert float(value) == 1 + 5 + 6


def test_equal_prices_count_weights_alone():
  prices = {"l1": 0.5, "anchor_penalty": 0.5}
  values = {ops.small_variance_objective(1, 8, k, **prices) for k in range(5)}
  assert values == {5.0}


@pytest.mark.parametrize(
  ("l1", "anchor_penalty", "text"),
  [
    (-0.1, 1.0, r"`l1` must be non-negative, got -0\.1\."),
    (float("nan"), 1.0, r"`l1` must be non-negative, got nan\."),
    (
      0.5,
      0.25,
      r"`anchor_penalty` must be at least `l1`, the price of one weight, got "
      r"0\.25 and 0\.5\.",
    ),
    (0.0, -1.0, r"`anchor_penalty` must be at least .* got -1\.0 and 0\.0\."),
    (0.0, float("nan"), r"`anchor_penalty` must be at least .* got nan"),
  ],
)
def test_prices_out_of_range(l1, anchor_penalty, text):
  prices = {"l1": l1, "anchor_penalty": anchor_penalty}
  with pytest.raises(ValueError, match=text):
    nonparametric.check_prices(**prices)
  with pytest.raises(ValueError, match=text):
    ops.small_variance_objective(1.0, 2, 3, **prices)


@pytest.mark.parametrize(("l1", "anchor_penalty"), [(0, 0), (0.5, 0.5), (0, 1)])
def test_prices_at_the_ends_of_their_range(l1, anchor_penalty):
  nonparametric.check_prices(l1=l1, anchor_penalty=anchor_penalty)


# The buffet.


def test_the_expected_number_of_anchors(tables):
  numbers = tables.any(axis=1).sum(axis=1)
  expected = 1.5 * np.sum(1 / np.arange(1, N + 1))
  # It is Poisson: the variance of the number is its mean.
  error = 4 * np.sqrt(expected / len(tables))
  assert abs(numbers.mean() - expected) < error
  np.testing.assert_allclose(numbers.var(), expected, rtol=0.3)


def test_each_row_expects_as_many_anchors(tables):
  sums = tables.sum(axis=2)
  # Of each row it is Poisson, too; over all draws 400, or 400 * 40 rows that
  # share anchors.
  error = 4 * np.sqrt(1.5 / len(tables))
  np.testing.assert_allclose(sums.mean(axis=0)[[0, 1, 7, -1]], 1.5, atol=error)
  assert abs(sums.mean() - 1.5) < error


def test_the_first_row_uses_new_anchors_alone(tables):
  numbers = tables[:, 0].sum(axis=1)
  np.testing.assert_array_equal(
    tables[:, 0], np.arange(CAPACITY)[None, :] < numbers[:, None]
  )
  np.testing.assert_allclose((numbers == 0).mean(), np.exp(-1.5), atol=0.09)


def test_anchors_are_taken_in_proportion_to_their_rows(tables):
  before = np.cumsum(tables, axis=1)[:, 19]  # Of the first 20 rows.
  chosen = tables[:, 20]
  for count in (1, 2, 20):
    at = before == count
    rate, expected = chosen[at].mean(), count / 21
    error = 4 * np.sqrt(expected * (1 - expected) / at.sum())
    assert abs(rate - expected) < error, count


def test_anchors_stand_in_the_order_in_which_they_came(tables):
  first_use = np.where(tables.any(axis=1), tables.argmax(axis=1), N)
  assert (np.diff(first_use, axis=1) >= 0).all()


def test_there_are_no_more_anchors_than_room(tables):
  rows = draws(max_anchors=2)
  assert rows.shape == (400, N, 2)
  assert rows.any(axis=1).any(axis=0).all()
  # Those that came in time follow the same law as with more room.
  used, expected = (r[:, :, :2].mean(axis=(0, 1)) for r in (rows, tables))
  np.testing.assert_allclose(used, expected, atol=0.08)


def test_a_draw_is_that_of_its_key():
  options = {"num_embeddings": 9, "concentration": 2.0, "max_anchors": 16}
  first, again, other = (
    buffet(jax.random.key(seed), **options) for seed in (3, 3, 4)
  )
  np.testing.assert_array_equal(first, again)
  assert not np.array_equal(first, other)
  assert first.dtype == bool
  assert first.shape == (9, 16)


def test_a_buffet_is_traced_once():
  draw = jax.jit(
    chex.assert_max_traces(
      lambda key: ops.indian_buffet_rows(
        key, num_embeddings=5, concentration=1.0, max_anchors=4
      ),
      n=1,
    )
  )
  for seed in range(3):
    draw(jax.random.key(seed))


@pytest.mark.parametrize(
  ("option", "text"),
  [
    ({"num_embeddings": 0}, r"`num_embeddings` must be at least 1, got 0\."),
    ({"num_embeddings": 1.5}, r"`num_embeddings` must be an integer, got 1\.5"),
    ({"max_anchors": 0}, r"`max_anchors` must be at least 1, got 0\."),
    ({"concentration": 0}, r"`concentration` must be positive, got 0\."),
    ({"concentration": -2.0}, r"`concentration` must be positive, got -2\.0\."),
    ({"concentration": np.nan}, r"`concentration` must be positive, got nan\."),
  ],
)
def test_options_of_a_buffet(option, text):
  options = {"num_embeddings": 3, "concentration": 1.0, "max_anchors": 4}
  with pytest.raises(ValueError, match=text):
    ops.indian_buffet_rows(jax.random.key(0), **{**options, **option})
