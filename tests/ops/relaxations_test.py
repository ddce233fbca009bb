"""Tests of relaxations."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from anchor_codes.ops import codes, compositions, losses, relaxations, scores

# One token of Chen et al., ICML 2018: three entries of two features.
LOGITS = jnp.array([[1.0, 2.0, 0.5]])
CODEBOOK = jnp.array([[[1.0, 0.0], [0.0, 1.0], [2.0, 2.0]]])
COTANGENT = jnp.array([[1.0, -1.0]])

B, D, K, W, F = 5, 4, 6, 3, 7


def _normal(seed, *shape, dtype=jnp.float32):
  return jnp.asarray(reference.normal(seed, *shape), dtype)


def _oracle(logits, temperature):
  """The stop_gradient form of `softmax_codes`."""
  soft = jax.nn.softmax(logits / temperature)
  best = jnp.argmax(logits, axis=-1)
  hard = jax.nn.one_hot(best, logits.shape[-1], dtype=logits.dtype)
  stop = jax.lax.stop_gradient
  return stop(hard) + (soft - stop(soft))


def _oracle_lookup(logits, codebooks, temperature):
  hard = _oracle(logits, temperature)
  codebooks = jnp.broadcast_to(codebooks, (D, *codebooks.shape[1:]))
  return jnp.einsum("...dk,dkw->...dw", hard, codebooks)


# Compiled, because op by op JAX would compile each primitive.
@functools.partial(jax.jit, static_argnums=0)
def _pull(function, cotangent, *args):
  value, pull = jax.vjp(function, *args)
  return value, pull(cotangent)


# --- straight_through ---


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("shape", [(), (3,), (2, 0), (2, 3)])
def test_straight_through_returns_hard_and_differentiates_soft(shape, dtype):
  hard, soft, cotangent = (_normal(i, *shape, dtype=dtype) for i in range(3))
  value, gradients = _pull(relaxations.straight_through, cotangent, hard, soft)
  chex.assert_trees_all_equal(value, hard)
  chex.assert_trees_all_equal(gradients, (jnp.zeros_like(hard), cotangent))


def test_straight_through_agrees_with_stop_gradient():
  def oracle(x):
    hard = jax.lax.stop_gradient(jnp.round(x))
    return jnp.sum(jnp.sin(hard + (x - jax.lax.stop_gradient(x))))

  def ours(x):
    return jnp.sum(jnp.sin(relaxations.straight_through(jnp.round(x), x)))

  x = 3 * _normal(0, 9)
  actual, expected = (jax.jit(jax.grad(f))(x) for f in (ours, oracle))
  chex.assert_trees_all_close(actual, expected)


def test_straight_through_allows_reverse_over_reverse():
  def square(x):
    return relaxations.straight_through(jnp.round(x), x) ** 2

  assert jax.jit(jax.grad(jax.grad(square)))(1.8) == 2


@pytest.mark.parametrize(
  ("hard", "message"),
  [(jnp.ones(2), "shape"), (jnp.ones(3, jnp.int32), "int32 != float32")],
)
def test_straight_through_refuses_unequal_arrays(hard, message):
  with pytest.raises(AssertionError, match=message):
    relaxations.straight_through(hard, jnp.ones(3))


def test_forward_mode_is_refused():
  with pytest.raises(TypeError, match="forward-mode"):
    jax.jvp(lambda z: relaxations.softmax_codes(z, 1.0), (LOGITS,), (LOGITS,))


# --- Hand-computed cases ---


@pytest.mark.parametrize(
  ("temperature", "gradient", "entropy"),
  [
    (1.0, [0.323091, -0.378811, 0.055720], 0.905959),
    (2.0, [0.173488, -0.194991, 0.021503], 1.048130),
    (0.5, [0.395024, -0.456325, 0.061301], 0.524267),
  ],
)
def test_hand_computed_lookup(temperature, gradient, entropy):
  def lookup(z, c):
    return relaxations.straight_through_lookup(z, c, temperature)

  value, (to_logits, to_codebook) = _pull(lookup, COTANGENT, LOGITS, CODEBOOK)
  np.testing.assert_array_equal(value, [[0, 1]])
  np.testing.assert_allclose(to_logits, [gradient], atol=1e-6)
  np.testing.assert_array_equal(to_codebook, [[[0, 0], [1, -1], [0, 0]]])
  np.testing.assert_allclose(
    losses.code_entropy(LOGITS, temperature), entropy, atol=1e-6
  )


def test_hand_computed_dpq_softmax():
  query = jnp.array([[0.5, -0.25]])
  keys = jnp.array([[[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]])

  def lookup(query, keys):
    similarity = scores.dot_scores(query, keys)
    return relaxations.straight_through_lookup(similarity, CODEBOOK, 1.0)

  value, (to_query, to_keys) = _pull(lookup, COTANGENT, query, keys)
  np.testing.assert_array_equal(value, [[1, 0]])
  np.testing.assert_allclose(to_query, [[0.259013, -0.340098]], atol=1e-6)
  np.testing.assert_allclose(
    to_keys,
    [[[0.170049, -0.085025], [-0.129506, 0.064753], [-0.040543, 0.020271]]],
    atol=1e-6,
  )


def test_hand_computed_dpq_nearest():
  query = jnp.array([[0.2, 0.9]])
  codebook = jnp.array([[[0.0, 0.0], [1.0, 1.0]]])

  def lookup(query, codebook):
    similarity = scores.squared_distance_scores(query, codebook)
    return relaxations.nearest_lookup(query, codebook, similarity)

  value, gradients = _pull(lookup, COTANGENT, query, codebook)
  np.testing.assert_array_equal(value, [[1, 1]])
  np.testing.assert_array_equal(gradients[0], COTANGENT)
  np.testing.assert_array_equal(gradients[1], 0)

  def regularizer(query, codebook):
    similarity = scores.squared_distance_scores(query, codebook)
    chosen = codes.lookup_codes(codes.assign_codes(similarity), codebook)
    return losses.codebook_loss(query, chosen)

  run = jax.jit(jax.value_and_grad(regularizer, (0, 1)))
  value, gradients = run(query, codebook)
  np.testing.assert_allclose(value, 0.325, atol=1e-6)
  np.testing.assert_array_equal(gradients[0], 0)
  np.testing.assert_allclose(gradients[1], [[[0, 0], [0.8, 0.1]]], atol=1e-6)


# --- softmax_codes ---


def _gradient_of_codes(logits, temperature, cotangent):
  return _pull(relaxations.softmax_codes, cotangent, logits, temperature)


@given(
  logits=arrays(np.float32, (3, K), elements=st.floats(-20, 20, width=32)),
  cotangent=arrays(np.float32, (3, K), elements=st.floats(-2, 2, width=32)),
  temperature=st.floats(0.1, 10),
)
def test_codes_have_the_gradient_of_the_softmax(logits, cotangent, temperature):
  temperature = np.float32(temperature)
  hard, gradients = _gradient_of_codes(logits, temperature, cotangent)
  np.testing.assert_array_equal(hard, np.eye(K)[np.argmax(logits, axis=-1)])
  assert gradients[1] == 0
  for row in range(3):
    jacobian = reference.softmax_jacobian(logits[row], temperature)
    np.testing.assert_allclose(
      gradients[0][row], jacobian.T @ cotangent[row], rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize("shape", [(K,), (0, K), (2, 3, K), (3, 1)])
def test_codes_agree_with_the_stop_gradient_form(shape):
  logits, cotangent = _normal(0, *shape), _normal(1, *shape)
  actual, expected = (
    _pull(lambda z, f=f: f(z, 0.7), cotangent, logits)
    for f in (relaxations.softmax_codes, _oracle)
  )
  chex.assert_trees_all_close(actual, expected, atol=1e-6)


def test_codes_of_bfloat16_are_exactly_one_hot():
  logits = _normal(0, 64, K, dtype=jnp.bfloat16)
  cotangent = _normal(1, 64, K, dtype=jnp.bfloat16)
  hard, (gradient,) = _pull(
    lambda z: relaxations.softmax_codes(z, jnp.float32(0.5)), cotangent, logits
  )
  assert hard.dtype == gradient.dtype == jnp.bfloat16
  np.testing.assert_array_equal(
    hard.astype(jnp.float32), np.eye(K)[np.argmax(logits, axis=-1)]
  )
  _, (exact,) = _pull(
    lambda z: relaxations.softmax_codes(z, 0.5),
    cotangent.astype(jnp.float32),
    logits.astype(jnp.float32),
  )
  chex.assert_trees_all_equal(gradient, exact.astype(jnp.bfloat16))


@pytest.mark.parametrize("temperature", [1e-30, 1e-6, 1e6])
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e30])
def test_extreme_values_have_finite_gradients(temperature, scale):
  logits = np.float32(scale) * np.asarray(_normal(0, 4, K))
  cotangent = _normal(1, 4, K)
  _, gradients = _gradient_of_codes(logits, np.float32(temperature), cotangent)
  chex.assert_tree_all_finite(gradients)


def test_nan_logits_have_nan_gradients():
  logits = jnp.array([1.0, jnp.nan, 3.0])
  hard, gradient = jax.jit(
    jax.value_and_grad(lambda z: relaxations.softmax_codes(z, 1.0)[1])
  )(logits)
  assert hard == 1
  assert bool(jnp.all(jnp.isnan(gradient)))


def test_codes_under_vmap_over_temperatures():
  logits = _normal(0, K)
  temperatures = jnp.array([0.5, 1.0, 2.0])
  gradient = jax.jit(jax.grad(lambda z, t: relaxations.softmax_codes(z, t)[0]))
  mapped = jax.vmap(gradient, in_axes=(None, 0))(logits, temperatures)
  looped = np.stack([gradient(logits, t) for t in temperatures])
  chex.assert_trees_all_close(mapped, looped, rtol=1e-5)


@pytest.mark.parametrize("temperature", [0, 0.0, -1.0, np.float32(0), np.nan])
@pytest.mark.parametrize(
  "call",
  [
    lambda t: relaxations.softmax_codes(LOGITS, t),
    lambda t: relaxations.gumbel_codes(jax.random.key(0), LOGITS, t),
    lambda t: relaxations.straight_through_lookup(LOGITS, CODEBOOK, t),
    lambda t: losses.code_entropy(LOGITS, t),
  ],
)
def test_temperatures_that_are_not_positive_are_refused(call, temperature):
  message = f"`temperature` must be positive, got {temperature}"
  with pytest.raises(ValueError, match=message):
    call(temperature)


def test_temperatures_are_scalars():
  with pytest.raises(AssertionError, match="rank"):
    relaxations.softmax_codes(LOGITS, jnp.ones(3))


# --- Gumbel ---

gumbel_codes = jax.jit(relaxations.gumbel_codes)


def test_gumbel_codes_sample_the_softmax():
  logits = jnp.array([0.0, 1.0, -1.0, 0.5])
  many = jnp.broadcast_to(logits, (200_000, 4))
  for temperature in (0.1, 1.0):
    samples = np.asarray(gumbel_codes(jax.random.key(0), many, temperature))
    np.testing.assert_array_equal(samples.sum(axis=-1), 1)
    np.testing.assert_allclose(
      samples.mean(axis=0), reference.softmax(logits), atol=0.005
    )


def test_gumbel_codes_have_the_gradient_of_the_perturbed_softmax():
  key, logits, cotangent = jax.random.key(3), _normal(0, 8, K), _normal(1, 8, K)
  noise = relaxations.perturb_logits(key, logits) - logits
  hard, (gradient,) = _pull(
    lambda z: relaxations.gumbel_codes(key, z, 0.5), cotangent, logits
  )
  best = np.argmax(logits + noise, axis=-1)
  np.testing.assert_array_equal(hard, np.eye(K)[best])
  _, (expected,) = _pull(
    lambda z: jax.nn.softmax((z + noise) / 0.5), cotangent, logits
  )
  np.testing.assert_allclose(gradient, expected, atol=1e-5)


def test_gumbel_codes_depend_on_the_key_alone():
  logits = _normal(0, 50, K)
  first, again, other = (
    gumbel_codes(jax.random.key(seed), logits, 1.0) for seed in (0, 0, 1)
  )
  chex.assert_trees_all_equal(first, again)
  assert bool(jnp.any(first != other))


def test_noise_is_not_rounded_to_the_type_of_the_logits():
  logits = _normal(0, 9, K, dtype=jnp.bfloat16)
  key = jax.random.key(0)
  perturbed = relaxations.perturb_logits(key, logits)
  assert perturbed.dtype == jnp.float32
  chex.assert_trees_all_equal(
    perturbed, relaxations.perturb_logits(key, logits.astype(jnp.float32))
  )


def test_gumbel_codes_keep_the_type():
  logits = _normal(0, 9, K, dtype=jnp.bfloat16)
  samples = gumbel_codes(jax.random.key(0), logits, 1.0)
  assert samples.dtype == jnp.bfloat16
  np.testing.assert_array_equal(
    np.sort(np.float32(samples), axis=-1)[:, -2:], [[0, 1]] * 9
  )


# --- straight_through_lookup and straight_through_decode ---


@pytest.mark.parametrize("positions", [1, D])
@pytest.mark.parametrize("batch", [(), (B,), (2, 3)])
def test_lookup_agrees_with_the_loop(batch, positions):
  logits, codebooks = _normal(0, *batch, D, K), _normal(1, positions, K, W)
  cotangent = _normal(2, *batch, D, W)

  def lookup(logits, codebooks):
    return relaxations.straight_through_lookup(logits, codebooks, 0.7)

  value, gradients = _pull(lookup, cotangent, logits, codebooks)
  expected = reference.straight_through_lookup(
    *(np.asarray(x, np.float64) for x in (logits, codebooks, cotangent)), 0.7
  )
  np.testing.assert_array_equal(value, expected[0].astype(np.float32))
  chex.assert_trees_all_close(gradients, expected[1:], atol=1e-4)


@pytest.mark.parametrize("positions", [1, D])
def test_lookup_equals_one_hot_codes_times_codebooks(positions):
  logits, codebooks = _normal(0, B, D, K), _normal(1, positions, K, W)
  cotangent, temperature = _normal(2, B, D, W), jnp.float32(0.5)

  def product(logits, codebooks, temperature):
    hard = relaxations.softmax_codes(logits, temperature)
    books = jnp.broadcast_to(codebooks, (D, K, W))
    return jnp.einsum("bdk,dkw->bdw", hard, books)

  results = [
    _pull(f, cotangent, logits, codebooks, temperature)
    for f in (relaxations.straight_through_lookup, product, _oracle_lookup)
  ]
  chex.assert_trees_all_close(results[0], results[1], atol=1e-5)
  # The oracle alone differentiates the temperature.
  value, gradients = results[2]
  chex.assert_trees_all_close(
    results[0], (value, (*gradients[:2], jnp.float32(0))), atol=1e-5
  )


@pytest.mark.parametrize("positions", [1, D])
@pytest.mark.parametrize("composition", ["sum", "concat", "linear"])
def test_decode_equals_composing_the_lookup(composition, positions):
  width = {"sum": W, "concat": D * W, "linear": F}[composition]
  options = {"bias": _normal(3, width)}
  if composition == "linear":
    options["projection"] = _normal(4, W, F)
  logits, codebooks = _normal(0, B, D, K), _normal(1, positions, K, W)

  def fused(logits, codebooks, options):
    return relaxations.straight_through_decode(
      logits, codebooks, 0.7, composition, **options
    )

  def composed(logits, codebooks, options):
    vectors = relaxations.straight_through_lookup(logits, codebooks, 0.7)
    return compositions.compose(vectors, composition, **options)

  actual, expected = (
    _pull(f, _normal(5, B, width), logits, codebooks, options)
    for f in (fused, composed)
  )
  chex.assert_trees_all_close(actual, expected, atol=1e-4)


def test_decode_is_what_the_codes_decode_to():
  logits, codebooks = _normal(0, B, D, K), _normal(1, D, K, W)
  trained = relaxations.straight_through_decode(logits, codebooks, 1.0, "sum")
  digits = codes.assign_codes(logits)
  stored = codes.decode_codes(digits, codebooks, "sum")
  chex.assert_trees_all_equal(trained, stored)


def test_decode_checks_its_options():
  logits, codebooks = _normal(0, B, D, K), _normal(1, D, K, W)
  decode = functools.partial(
    relaxations.straight_through_decode, logits, codebooks, 1.0
  )
  with pytest.raises(ValueError, match="`composition` must be one of"):
    decode("mean")
  with pytest.raises(ValueError, match="`projection` must be given"):
    decode("linear")


@pytest.mark.parametrize("shape", [(D, K + 1, W), (D - 1, K, W), (K, W)])
def test_codebooks_of_another_shape_are_refused(shape):
  with pytest.raises(AssertionError):
    relaxations.straight_through_lookup(
      _normal(0, B, D, K), _normal(1, *shape), 1.0
    )


@pytest.mark.parametrize("logits_dtype", [jnp.float32, jnp.bfloat16])
def test_lookup_of_bfloat16_is_exact(logits_dtype):
  logits = _normal(0, B, D, K, dtype=logits_dtype)
  codebooks = _normal(1, D, K, W, dtype=jnp.bfloat16)
  value, gradients = _pull(
    lambda z, c: relaxations.straight_through_lookup(z, c, jnp.float32(1)),
    jnp.ones((B, D, W), jnp.bfloat16),
    logits,
    codebooks,
  )
  chex.assert_trees_all_equal(
    value, codes.lookup_codes(codes.assign_codes(logits), codebooks)
  )
  chex.assert_trees_all_equal_dtypes(gradients, (logits, codebooks))


def test_gradients_of_bfloat16_logits_are_rounded_once():
  logits = _normal(0, B, D, K, dtype=jnp.bfloat16)
  codebooks, cotangent = _normal(1, D, K, W), _normal(2, B, D, W)
  rounded, exact = (
    _pull(
      lambda z: relaxations.straight_through_lookup(z, codebooks, 0.5),
      cotangent,
      logits.astype(dtype),
    )[1][0]
    for dtype in (jnp.bfloat16, jnp.float32)
  )
  chex.assert_trees_all_equal(rounded, exact.astype(jnp.bfloat16))


def test_one_entry_is_constant_and_has_no_gradient():
  logits, codebooks = _normal(0, B, D, 1), _normal(1, D, 1, W)
  value, (gradient, _) = _pull(
    lambda z, c: relaxations.straight_through_lookup(z, c, 1.0),
    _normal(2, B, D, W),
    logits,
    codebooks,
  )
  np.testing.assert_array_equal(gradient, 0)
  chex.assert_trees_all_equal(
    value, jnp.broadcast_to(codebooks[:, 0], (B, D, W))
  )


def test_one_position_of_all_symbols_is_a_plain_embedding():
  """K = V, D = 1 and confident identity codes: values and gradients."""
  table, ids = _normal(0, 6, W), jnp.array([3, 0, 3])
  cotangent = _normal(1, 3, W)
  logits = 100 * jnp.eye(6)[ids][:, None, :]
  value, (_, gradient) = _pull(
    lambda z, c: relaxations.straight_through_decode(z, c, 1.0, "sum"),
    cotangent,
    logits,
    table[None],
  )
  plain, (plain_gradient,) = _pull(lambda t: t[ids], cotangent, table)
  chex.assert_trees_all_equal(value, plain)
  np.testing.assert_allclose(gradient[0], plain_gradient, rtol=1e-6)


def test_lookup_under_vmap_is_the_loop():
  logits, codebooks = _normal(0, B, D, K), _normal(1, D, K, W)

  def gradients(logits, codebooks):
    def loss(z, c):
      return jnp.sum(jnp.sin(relaxations.straight_through_lookup(z, c, 1.0)))

    return jax.grad(loss, (0, 1))(logits, codebooks)

  mapped = jax.jit(jax.vmap(gradients, in_axes=(0, None)))(logits, codebooks)
  one = jax.jit(gradients)
  looped = [one(row, codebooks) for row in logits]
  stacked = jax.tree.map(lambda *rows: np.stack(rows), *looped)
  chex.assert_trees_all_close(mapped, stacked, atol=1e-6)


def _product_lookup(logits, codebooks, temperature):
  hard = relaxations.softmax_codes(logits, temperature)
  return jnp.einsum("dk,dkw->dw", hard, codebooks)


@pytest.mark.parametrize(
  "lookup", [relaxations.straight_through_lookup, _product_lookup]
)
def test_second_derivatives_are_those_of_the_estimator(lookup):
  logits, codebooks = _normal(0, D, K), _normal(1, D, K, W)

  def penalty(lookup, logits):
    """Squared gradient of a loss, as for a gradient penalty."""

    def loss(logits):
      return jnp.sum(jnp.square(lookup(logits, codebooks, 1.0)))

    return jnp.sum(jnp.square(jax.grad(loss)(logits)))

  actual, expected = (
    jax.jit(jax.grad(functools.partial(penalty, lookup)))(logits)
    for lookup in (lookup, _oracle_lookup)
  )
  np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-4)


def test_training_in_a_scan_with_a_schedule_is_traced_once():
  target = _normal(2, B, W)

  @jax.jit
  @chex.assert_max_traces(n=1)
  def train(logits, codebooks, temperatures):
    def loss(params, temperature):
      output = relaxations.straight_through_decode(*params, temperature, "sum")
      return jnp.mean(jnp.square(output - target))

    def step(params, temperature):
      value, gradient = jax.value_and_grad(loss)(params, temperature)
      return jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient), value

    return jax.lax.scan(step, (logits, codebooks), temperatures)[1]

  logits, codebooks = _normal(0, B, D, K), _normal(1, D, K, W)
  for last in (0.1, 1.0, 3.0):
    values = train(logits, codebooks, jnp.linspace(1.0, last, 50))
  assert values[-1] < 0.2 * values[0]


# --- nearest_lookup ---


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_nearest_is_exact_and_passes_the_gradient(dtype):
  queries = _normal(0, B, D, W, dtype=dtype)
  codebooks = _normal(1, 1, K, W, dtype=dtype)
  cotangent = _normal(2, B, D, W, dtype=dtype)
  similarity = scores.squared_distance_scores(queries, codebooks)
  value, gradients = _pull(
    relaxations.nearest_lookup, cotangent, queries, codebooks, similarity
  )
  distances = reference.squared_distances(
    np.asarray(queries, np.float64).reshape(-1, W),
    np.asarray(codebooks, np.float64)[0],
  )
  nearest = np.argmin(distances, axis=1).reshape(B, D)
  np.testing.assert_array_equal(
    np.asarray(value), np.asarray(codebooks)[0][nearest]
  )
  chex.assert_trees_all_equal(
    gradients,
    (cotangent, jnp.zeros_like(codebooks), jnp.zeros_like(similarity)),
  )


def test_nearest_refuses_scores_of_other_codebooks():
  with pytest.raises(AssertionError):
    relaxations.nearest_lookup(
      jnp.ones((D, W)), jnp.ones((D, K, W)), jnp.ones((D, K + 1))
    )
