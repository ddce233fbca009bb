"""Proximal gradient transformations: golden vectors and laws."""

import chex
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import strategies as st

from anchor_codes import training
from anchor_codes.ops import prox

# Computed from the formulas in the docstring of proximal_yogi, by hand, in
# float64: learning rate 0.01, l1 0.001, the other options at their defaults.
START = [0.05, 0.002, 0.0001, 0.03]
GRADIENTS = [
  [0.01, -0.002, 0.0005, 0.0],
  [-0.02, 0.001, -0.0005, 0.0],
  [0.003, -0.004, 0.0, 0.0],
  [0.0, 0.0, 0.0, 0.0],
]
GOLDEN = [
  [0.04691306, 0.00073635, 0.0, 0.02841886],
  [0.04701883, 0.0, 0.0, 0.02724228],
  [0.04673781, 0.0, 0.0, 0.02623222],
  [0.04642526, 0.0, 0.0, 0.02531338],
]
GOLDEN_MU = [-6.21e-4, -4.248e-4, -4.05e-6, 0.0]
GOLDEN_NU = [1.509e-6, 1.019e-6, 9.995e-7, 1e-6]
GOLDEN_WITHOUT_L1 = [0.05075764, 0.00327296, 3.509e-5, 0.03]
OPTAX_YOGI = [0.05107580, 0.00440848, -3.351e-5, 0.02999289]


def run(transformation, params, gradients):
  """Takes a step for each gradient; returns all parameters and the state."""
  state = transformation.init(params)
  history = []
  for gradient in gradients:
    updates, state = transformation.update(gradient, state, params)
    params = optax.apply_updates(params, updates)
    history.append(params)
  return history, state


def run_golden(transformation):
  with jax.enable_x64(True):
    start = jnp.array(START, jnp.float64)
    history, state = run(transformation, start, jnp.array(GRADIENTS))
    return np.array(history), jax.tree.map(np.asarray, state)


def yogi_by_hand(p, gradients, *, rate, l1, b1=0.9, b2=0.999, eps=1e-3):
  """One entry in plain Python, with the branch of the definition."""
  m, v = 0.0, 1e-6
  for t, g in enumerate(gradients, 1):
    m = b1 * m + (1 - b1) * g
    v = v - (1 - b2) * np.sign(v - g**2) * g**2
    step = rate * (1 - b2**t) ** 0.5 / (1 - b1**t) / (v**0.5 + eps)
    p = p - step * m
    p = p - step * l1 if p > step * l1 else 0.0
  return p


def test_yogi_golden_vector():
  history, state = run_golden(training.proximal_yogi(0.01, l1=1e-3))
  np.testing.assert_allclose(history, GOLDEN, rtol=0, atol=1e-8)
  assert history.dtype == np.float64
  np.testing.assert_allclose(state.mu, GOLDEN_MU, rtol=0, atol=5e-8)
  np.testing.assert_allclose(state.nu, GOLDEN_NU, rtol=0, atol=5e-10)
  assert state.count == 4


def test_yogi_golden_vector_without_l1():
  history, _ = run_golden(training.proximal_yogi(0.01, l1=0.0))
  np.testing.assert_allclose(history[-1], GOLDEN_WITHOUT_L1, rtol=0, atol=1e-8)


def test_yogi_is_not_the_yogi_of_optax():
  with jax.numpy_dtype_promotion("standard"):
    history, _ = run_golden(optax.yogi(0.01))
  np.testing.assert_allclose(history[-1], OPTAX_YOGI, rtol=0, atol=1e-7)
  assert np.abs(history[-1] - GOLDEN_WITHOUT_L1).max() > 1e-4


def test_yogi_in_float32_is_close_to_the_golden_vector():
  history, _ = run(
    training.proximal_yogi(0.01, l1=1e-3),
    jnp.array(START),
    jnp.array(GRADIENTS),
  )
  np.testing.assert_allclose(history, GOLDEN, rtol=0, atol=1e-6)
  assert not np.asarray(history[-1])[1:3].any()


@hypothesis.given(
  start=st.floats(0, 0.1),
  gradients=st.lists(st.floats(-0.05, 0.05), min_size=1, max_size=6),
  l1=st.sampled_from([0.0, 1e-4, 1e-2]),
)
def test_yogi_agrees_with_plain_python(start, gradients, l1):
  with jax.enable_x64(True):
    history, _ = run(
      training.proximal_yogi(0.01, l1=l1),
      jnp.array([start], jnp.float64),
      jnp.array(gradients, jnp.float64)[:, None],
    )
  expected = yogi_by_hand(start, gradients, rate=0.01, l1=l1)
  np.testing.assert_allclose(history[-1], [expected], atol=1e-12)


@pytest.mark.parametrize("rate", [1e-3, 0.1, 10.0])
@pytest.mark.parametrize(
  ("slope", "stays"), [(0.9, True), (1.0, True), (1.1, False), (-5.0, True)]
)
def test_yogi_keeps_a_zero_iff_the_slope_is_at_most_l1(rate, slope, stays):
  gradient = jnp.array([-slope * 2**-7])
  history, _ = run(
    training.proximal_yogi(rate, l1=2**-7), jnp.zeros(1), [gradient] * 40
  )
  assert (float(history[-1][0]) == 0.0) == stays


def test_yogi_shrinks_entries_without_gradient():
  rate, l1, params = 0.01, 1e-3, jnp.array([0.5, 0.25])
  history, _ = run(
    training.proximal_yogi(rate, l1=l1), params, [jnp.zeros(2)] * 3
  )
  steps = np.arange(1, 4)
  scales = rate * np.sqrt(1 - 0.999**steps) / (1 - 0.9**steps) / (1e-3 + 1e-3)
  expected = np.asarray(params) - l1 * np.cumsum(scales)[:, None]
  np.testing.assert_allclose(history, expected, rtol=1e-5)


def test_yogi_projects_without_l1():
  params = jnp.array([-1.0, 1e-4])
  history, _ = run(
    training.proximal_yogi(0.1, l1=0.0), params, [jnp.array([0.0, 1.0])]
  )
  np.testing.assert_array_equal(history[-1], [0.0, 0.0])


def test_more_l1_leaves_fewer_entries():
  key = jax.random.key(0)
  target = jax.random.normal(key, (200,)) * 0.1

  def num_nonzeros(l1):
    params = jnp.abs(target) + 0.01
    transformation = training.proximal_yogi(0.01, l1=l1)
    state = transformation.init(params)
    for _ in range(60):
      updates, state = transformation.update(params - target, state, params)
      params = optax.apply_updates(params, updates)
    assert float(params.min()) >= 0
    return int(jnp.count_nonzero(params))

  counts = [num_nonzeros(l1) for l1 in (0.0, 0.05, 0.1, 0.2, 1.0)]
  assert counts == sorted(counts, reverse=True)
  assert counts[0] > counts[2] > counts[-1] == 0


@pytest.mark.parametrize("nonnegative", [True, False])
def test_l1_step_is_the_prox_of_the_sum(nonnegative):
  key_p, key_g = jax.random.split(jax.random.key(1))
  params = jax.random.normal(key_p, (5, 3))
  gradient = jax.random.normal(key_g, (5, 3))
  transformation = optax.chain(
    optax.sgd(0.5), training.proximal_l1(0.5, l1=0.4, nonnegative=nonnegative)
  )
  (result,), _ = run(transformation, params, [gradient])
  operator = (
    prox.nonnegative_soft_threshold if nonnegative else prox.soft_threshold
  )
  expected = operator(params - 0.5 * gradient, 0.2)
  np.testing.assert_allclose(result, expected, atol=1e-6)
  np.testing.assert_array_equal(result == 0, expected == 0)


@pytest.mark.parametrize("nonnegative", [True, False])
def test_l1_solves_the_separable_lasso(nonnegative):
  # The minimiser of (x - b)^2 / 2 + l1 |x| is the soft threshold of b.
  target, l1 = jnp.array([2.0, -2.0, 0.3, -0.3]), 0.5
  transformation = optax.chain(
    optax.sgd(0.3), training.proximal_l1(0.3, l1=l1, nonnegative=nonnegative)
  )
  params = jnp.ones(4)
  state = transformation.init(params)
  for _ in range(100):
    updates, state = transformation.update(params - target, state, params)
    params = optax.apply_updates(params, updates)
  second = 0.0 if nonnegative else -1.5
  np.testing.assert_allclose(params, [1.5, second, 0.0, 0.0], atol=1e-6)


@hypothesis.given(
  p=st.floats(0, 1e4, width=32),
  u=st.floats(-1e4, 1e4, width=32),
  l1=st.sampled_from([0.0, 1e-3, 1.0]),
)
def test_l1_never_leaves_rounding_below_zero(p, u, l1):
  params, updates = jnp.float32(p), jnp.float32(u)
  moved, _ = training.proximal_l1(0.1, l1=l1).update(
    updates, optax.EmptyState(), params
  )
  result = float(optax.apply_updates(params, moved))
  assert result >= 0
  if p + u <= 0:
    assert result == 0


def halving(count):
  return 0.5 ** count.astype(jnp.float32)


def test_l1_follows_a_schedule():
  transformation = training.proximal_l1(halving, l1=1.0)
  history, state = run(transformation, jnp.array([3.0]), [jnp.zeros(1)] * 3)
  np.testing.assert_array_equal(np.ravel(history), [2.0, 1.5, 1.25])
  assert int(optax.tree.get(state, "count")) == 3


def test_yogi_follows_a_schedule():
  gradients = jnp.array([[0.01], [-0.02], [0.03]])
  scheduled, _ = run(
    training.proximal_yogi(halving, l1=0.0), jnp.array([5.0]), gradients
  )
  constant, _ = run(
    training.proximal_yogi(1.0, l1=0.0), jnp.array([5.0]), gradients
  )
  moves, expected = np.diff(np.ravel([scheduled, constant]).reshape(2, 3))
  np.testing.assert_allclose(moves, expected * [0.5, 0.25], rtol=1e-4)


def test_l1_with_a_number_has_no_state():
  state = training.proximal_l1(0.1, l1=0.1).init(jnp.ones(3))
  assert not jax.tree.leaves(state)


def test_l1_takes_injected_learning_rates():
  transformation = optax.inject_hyperparams(
    lambda learning_rate: training.proximal_l1(learning_rate, l1=1.0)
  )(learning_rate=0.5)
  (result,), _ = run(transformation, jnp.array([2.0]), [jnp.zeros(1)])
  np.testing.assert_array_equal(result, [1.5])


TRANSFORMATIONS = {
  "l1": lambda: training.proximal_l1(0.1, l1=0.1),
  "l1_schedule": lambda: training.proximal_l1(halving, l1=0.1),
  "yogi": lambda: training.proximal_yogi(0.1, l1=0.1),
  "yogi_schedule": lambda: training.proximal_yogi(halving, l1=0.1),
}
transformations = pytest.mark.parametrize("name", TRANSFORMATIONS)


@transformations
def test_needs_the_parameters(name):
  transformation = TRANSFORMATIONS[name]()
  state = transformation.init(jnp.ones(2))
  with pytest.raises(ValueError, match=r"update\(updates, state, params\)"):
    transformation.update(jnp.ones(2), state)


@transformations
def test_keeps_structure_and_types(name):
  params = {
    "a": jnp.ones((2, 3), jnp.bfloat16),
    "b": [jnp.ones(()), jnp.ones((0, 4))],
  }
  gradients = jax.tree.map(jnp.ones_like, params)
  history, state = run(TRANSFORMATIONS[name](), params, [gradients] * 2)
  chex.assert_trees_all_equal_shapes_and_dtypes(history[-1], params)
  chex.assert_tree_all_finite(state)


@transformations
def test_traces_once(name):
  chex.clear_trace_counter()
  transformation = TRANSFORMATIONS[name]()
  params = jnp.ones(3)

  @jax.jit
  @chex.assert_max_traces(n=1)
  def step(gradient, state, params):
    updates, state = transformation.update(gradient, state, params)
    return optax.apply_updates(params, updates), state

  eager, _ = run(transformation, params, [jnp.ones(3)] * 3)
  state = transformation.init(params)
  for _ in range(3):
    params, state = step(jnp.ones(3), state, params)
  np.testing.assert_allclose(params, eager[-1], rtol=1e-5)


@transformations
def test_moves_its_own_part_of_the_parameters_only(name):
  params = {"transform": jnp.full(3, -1.0), "anchors": jnp.full(3, -1.0)}
  transformation = optax.partition(
    {"sparse": TRANSFORMATIONS[name](), "dense": optax.sgd(1.0)},
    {"transform": "sparse", "anchors": "dense"},
  )
  zeros = jax.tree.map(jnp.zeros_like, params)
  (result,), _ = run(transformation, params, [zeros])
  np.testing.assert_array_equal(result["transform"], np.zeros(3))
  np.testing.assert_array_equal(result["anchors"], np.full(3, -1.0))


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (lambda: training.proximal_l1(0.1, l1=-1.0), "`l1` must be non-negative"),
    (lambda: training.proximal_yogi(0.1, l1=-2.0), "got -2.0"),
    (lambda: training.proximal_yogi(0.1, l1=0.0, b1=1.5), "`b1` must be betw"),
    (lambda: training.proximal_yogi(0.1, l1=0.0, b2=-1.0), "`b2` must be betw"),
    (lambda: training.proximal_yogi(0.1, l1=0.0, b1=1.0), "`b1` must be less"),
    (lambda: training.proximal_yogi(0.1, l1=0.0, b2=1), "`b2` must be less"),
  ],
)
def test_refuses_options(make, message):
  with pytest.raises(ValueError, match=message):
    make()
