"""Laws of the proximal operators."""

import chex
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from anchor_codes.ops import prox

OPERATORS = {
  "signed": prox.soft_threshold,
  "nonnegative": prox.nonnegative_soft_threshold,
}
FLOATS = st.floats(-8, 8, width=32)
THRESHOLDS = st.floats(0, 8, width=32)

operators = pytest.mark.parametrize("name", OPERATORS)


def vectors(seed, size=64):
  return jax.random.normal(jax.random.key(seed), (size,)) * 2


def scalar_prox(name, x, t):
  """The operators again, for one number, with branches."""
  if x > t:
    return x - t
  if name == "signed" and x < -t:
    return x + t
  return 0.0


def objective(name, y, x, t):
  """What the operator minimises, in float64."""
  y, x = np.float64(y), np.float64(x)
  infeasible = name == "nonnegative" and y < 0
  return np.inf if infeasible else 0.5 * (y - x) ** 2 + t * abs(y)


@operators
@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])
@pytest.mark.parametrize("shape", [(), (4,), (2, 3), (0,)])
def test_agrees_with_scalar_loop(name, wrap, shape):
  x = jax.random.normal(jax.random.key(0), shape)
  expected = [scalar_prox(name, float(value), 0.5) for value in x.ravel()]
  result = wrap(OPERATORS[name])(x, 0.5)
  chex.assert_shape(result, shape)
  np.testing.assert_allclose(result.ravel(), expected, atol=1e-6)


@operators
@hypothesis.given(x=FLOATS, t=THRESHOLDS, step=st.floats(-1, 1))
def test_beats_its_neighbours(name, x, t, step):
  y = float(OPERATORS[name](jnp.float32(x), t))
  best = objective(name, y, x, t)
  for scale in (1.0, 1e-1, 1e-2):
    assert best <= objective(name, y + scale * step, x, t) + 1e-5
  assert best <= objective(name, 0.0, x, t) + 1e-5


@operators
@hypothesis.given(x=FLOATS, y=FLOATS, t=THRESHOLDS)
def test_is_firmly_nonexpansive(name, x, y, t):
  move = float(OPERATORS[name](jnp.float32(x), t)) - float(
    OPERATORS[name](jnp.float32(y), t)
  )
  assert move**2 <= move * (x - y) + 1e-5


@operators
@hypothesis.given(x=FLOATS, t=THRESHOLDS)
def test_satisfies_moreaus_decomposition(name, x, t):
  # x - prox(x) is the projection on the polar set: [-t, t], or (-inf, t].
  rest = float(x - OPERATORS[name](jnp.float32(x), t))
  lowest = -t if name == "signed" else -np.inf
  np.testing.assert_allclose(rest, np.clip(x, lowest, t), atol=1e-5)


@operators
def test_projection_is_idempotent(name):
  x = vectors(1)
  once = OPERATORS[name](x, 0.0)
  np.testing.assert_array_equal(OPERATORS[name](once, 0.0), once)


def test_threshold_zero_projects():
  x = vectors(2)
  np.testing.assert_array_equal(prox.soft_threshold(x, 0.0), x)
  np.testing.assert_array_equal(
    prox.nonnegative_soft_threshold(x, 0.0), np.maximum(x, 0)
  )


def test_signed_is_odd_and_agrees_on_positive_numbers():
  x = vectors(3)
  result = prox.soft_threshold(x, 0.3)
  np.testing.assert_array_equal(prox.soft_threshold(-x, 0.3), -result)
  np.testing.assert_array_equal(
    prox.nonnegative_soft_threshold(jnp.abs(x), 0.3), jnp.abs(result)
  )


@operators
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_zeros_are_exact_and_positive(name, dtype):
  x = jnp.linspace(-1, 1, 41).astype(dtype)
  result = np.asarray(OPERATORS[name](x, 0.5), np.float32)
  inside = np.abs(np.asarray(x, np.float32)) <= 0.5
  assert not result[inside].any()
  assert not np.signbit(result[inside]).any()
  assert OPERATORS[name](x, 0.5).dtype == dtype


@operators
def test_jacobian_is_the_theoretical_one(name):
  x = jnp.array([-3.0, -0.9, -0.1, 0.0, 0.1, 0.9, 3.0])
  jacobian = jax.jacobian(OPERATORS[name])(x, 0.5)
  alive = np.asarray(OPERATORS[name](x, 0.5)) != 0
  np.testing.assert_array_equal(jacobian, np.diag(alive.astype(np.float32)))


@operators
def test_gradient_for_the_threshold_is_minus_the_sign(name):
  x = jnp.array([-3.0, -0.1, 0.1, 3.0])
  jacobian = jax.jacobian(OPERATORS[name], argnums=1)(x, 0.5)
  np.testing.assert_array_equal(jacobian, -np.sign(OPERATORS[name](x, 0.5)))


@operators
def test_check_grads_away_from_the_kinks(name):
  x = jnp.array([-3.0, -0.1, 0.2, 3.0])
  chex.assert_numerical_grads(
    lambda x: OPERATORS[name](x, 0.5).sum(), (x,), order=1, atol=1e-2
  )


@operators
def test_takes_one_threshold_for_each_entry(name):
  x = jnp.array([1.0, 1.0, -1.0])
  result = OPERATORS[name](x, jnp.array([0.0, 2.0, 0.25]))
  last = -0.75 if name == "signed" else 0.0
  np.testing.assert_array_equal(result, [1.0, 0.0, last])


@operators
def test_nan_stays_nan(name):
  result = OPERATORS[name](jnp.array([jnp.nan, jnp.inf]), 0.5)
  np.testing.assert_array_equal(result, [np.nan, np.inf])


@operators
def test_traces_once(name):
  function = jax.jit(chex.assert_max_traces(OPERATORS[name], n=1))
  for t in (0.1, 0.2, 0.3):
    function(vectors(4), t)


@hypothesis.given(
  x=st.lists(FLOATS, min_size=1, max_size=5),
  thresholds=st.lists(st.floats(0, 1, width=32), max_size=6),
)
def test_catch_up_composes(x, thresholds):
  rows = jnp.array(x, jnp.float32)
  eager = prox.nonnegative_soft_threshold(rows, 0.0)
  for t in thresholds:
    eager = prox.nonnegative_soft_threshold(eager, t)
  lazy = prox.catch_up(rows, sum(thresholds))
  np.testing.assert_allclose(lazy, eager, atol=1e-5)


def test_catch_up_is_exact_on_dyadic_numbers():
  rows = jnp.arange(32.0).reshape(4, 8) / 8
  eager = rows
  for _ in range(5):
    eager = prox.nonnegative_soft_threshold(eager, 0.25)
  np.testing.assert_array_equal(prox.catch_up(rows, 1.25), eager)


def test_catch_up_takes_one_number_for_each_row():
  rows = jnp.ones((3, 2, 4))
  result = prox.catch_up(rows, jnp.array([0.0, 0.5, 2.0]))
  np.testing.assert_array_equal(result[:, 1, 2], [1.0, 0.5, 0.0])
  each = prox.catch_up(rows, jnp.full((3, 2), 0.5))
  np.testing.assert_array_equal(each, np.full((3, 2, 4), 0.5))


@pytest.mark.parametrize("shape", [(4,), (2, 3), (3, 2, 4, 1)])
def test_catch_up_refuses_other_shapes(shape):
  with pytest.raises(AssertionError, match="shape"):
    prox.catch_up(jnp.ones((3, 2, 4)), jnp.ones(shape))


def test_catch_up_keeps_the_type_of_the_rows():
  rows = jnp.ones((2, 2), jnp.bfloat16)
  assert prox.catch_up(rows, jnp.float32(0.5)).dtype == jnp.bfloat16


@pytest.mark.parametrize("size", [1, 2])
def test_yogi_refuses_counts_of_other_rows(size):
  # One count would be taken for that of all rows.
  rows, last = jnp.ones((3, 2)), jnp.zeros(size, jnp.int32)
  with pytest.raises(AssertionError, match="shape"):
    prox.yogi_catch_up(
      rows, rows, rows, last, now=1, step_sizes=jnp.ones(1), l1=0.1
    )
