"""Tests of the networks of compositions, against loops in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from anchor_codes import typing
from anchor_codes.ops import codes, compositions, networks, relaxations

L, K, W, H, F = 3, 5, 4, 6, 7  # Code length, codebook, widths, features.

# Compiled, because op by op JAX would compile each primitive.
_decode = jax.jit(codes.decode_codes, static_argnames="composition")
_mean_lstm = jax.jit(networks.mean_lstm)


def _normal(seed, *shape):
  return jnp.asarray(reference.normal(seed, *shape))


def random_digits(size):
  digits = np.random.default_rng(2).integers(0, K, (size, L), np.int32)
  return jnp.asarray(digits)


def make_network(composition, *, num_layers=2):
  shapes = typing.network_shapes(
    composition,
    code_features=W,
    hidden=W if composition == "mlp" else H,
    num_layers=num_layers,
  )
  return {n: _normal(i, *shape) for i, (n, shape) in enumerate(shapes.items())}


def arrays_of(composition, *, num_layers=2):
  """Returns what follows the codebooks of a composition."""
  inner = W if composition == "mlp" else H
  return {
    "projection": _normal(7, inner, F),
    "bias": _normal(8, F),
    "network": make_network(composition, num_layers=num_layers),
  }


def _sigmoid(x):
  return 1 / (1 + np.exp(-x))


def lstm_slowly(vectors, network):
  """Reads [code_length, width], one gate after the other."""
  kernels, biases, states = (
    np.float64(network[name]) for name in ("kernels", "biases", "states")
  )
  hidden, cell = states
  size, outputs = len(hidden), []
  for vector in np.float64(vectors):
    z = np.concatenate([vector, hidden]) @ kernels + biases
    enter, forget = _sigmoid(z[:size]), _sigmoid(z[size : 2 * size])
    new, leave = np.tanh(z[2 * size : 3 * size]), _sigmoid(z[3 * size :])
    cell = forget * cell + enter * new
    hidden = leave * np.tanh(cell)
    outputs.append(hidden)
  return np.mean(outputs, axis=0)


@pytest.mark.parametrize("batch", [(), (4,), (2, 3), (0,)])
def test_the_lstm_is_its_definition(batch):
  vectors, network = _normal(9, *batch, L, W), make_network("lstm")
  expected = np.zeros((*batch, H))
  for at in np.ndindex(*batch):
    expected[at] = lstm_slowly(vectors[at], network)
  means = _mean_lstm(vectors, network)
  np.testing.assert_allclose(means, expected, rtol=1e-5, atol=1e-6)


def test_the_lstm_reads_in_order():
  vectors, network = _normal(9, L, W), make_network("lstm")
  forth = _mean_lstm(vectors, network)
  back = _mean_lstm(np.asarray(vectors)[::-1], network)
  assert np.abs(forth - back).max() > 0.01


def test_nothing_is_added_to_the_forget_gate():
  # With closed input gates a cell halves at each step.
  network = {
    "kernels": jnp.zeros((2, 4)),
    "biases": jnp.array([-100.0, 0.0, 0.0, 100.0]),
    "states": jnp.array([[0.0], [1.0]]),
  }
  mean = _mean_lstm(jnp.ones((2, 1)), network)
  expected = (np.tanh(0.5) + np.tanh(0.25)) / 2
  np.testing.assert_allclose(mean, [expected], rtol=1e-6)


def test_the_first_state_and_cell_are_trained():
  def loss(network):
    return jnp.sum(networks.mean_lstm(_normal(9, L, W), network))

  gradient = jax.jit(jax.grad(loss))(make_network("lstm"))
  assert (np.abs(gradient["states"]) > 0).all()


@pytest.mark.parametrize("num_layers", [1, 2, 4])
def test_residual_layers_are_their_definition(num_layers):
  sums = _normal(9, 5, W)
  network = make_network("mlp", num_layers=num_layers)
  biases = np.float64(network["biases"])
  hidden = np.maximum(np.float64(sums) + biases[0], 0)
  for i in range(1, num_layers):
    inner = hidden @ np.float64(network["kernels"][i - 1]) + biases[i]
    hidden = hidden + np.maximum(inner, 0)
  np.testing.assert_allclose(
    networks.residual_layers(sums, network), hidden, rtol=1e-5, atol=1e-5
  )


def test_a_dense_layer_over_all_vectors_is_a_sum_of_code_vectors():
  books, weights = _normal(0, L, K, 2), _normal(1, L * 2, W)
  digits = random_digits(6)
  side_by_side = _decode(digits, books, "concat")
  folded = np.einsum("jkw,jwh->jkh", books, weights.reshape(L, 2, W))
  np.testing.assert_allclose(
    np.asarray(side_by_side) @ np.asarray(weights),
    codes.combine_codes(digits, jnp.asarray(folded), "mlp"),
    rtol=1e-5,
    atol=1e-5,
  )


@pytest.mark.parametrize("composition", ["mlp", "lstm"])
def test_composing_is_combining_and_finishing(composition):
  vectors, arrays = _normal(9, 2, L, W), arrays_of(composition)
  combined = compositions.combine(vectors, composition)
  composed = compositions.compose(vectors, composition, **arrays)
  assert composed.shape == (2, F)
  np.testing.assert_array_equal(
    composed, compositions.finish(combined, composition, **arrays)
  )


@pytest.mark.parametrize("composition", ["mlp", "lstm"])
def test_a_digit_out_of_range_is_nan(composition):
  digits = jnp.array([[0, 1, K], [0, 1, 2]])
  vectors = _decode(
    digits, _normal(9, L, K, W), composition, **arrays_of(composition)
  )
  np.testing.assert_array_equal(np.isnan(vectors).all(axis=1), [True, False])


@pytest.mark.parametrize("composition", ["mlp", "lstm"])
def test_half_precision_stays(composition):
  half = lambda tree: jax.tree.map(
    lambda a: jnp.asarray(np.asarray(a).astype(jnp.bfloat16)), tree
  )
  books, arrays = _normal(9, L, K, W), arrays_of(composition)
  digits = random_digits(6)
  vectors = _decode(digits, half(books), composition, **half(arrays))
  assert vectors.dtype == jnp.bfloat16
  exact = _decode(digits, books, composition, **arrays)
  np.testing.assert_allclose(np.float32(vectors), exact, rtol=0.1, atol=0.2)


@pytest.mark.parametrize("composition", ["mlp", "lstm"])
def test_the_estimator_is_that_of_soft_one_hot_codes(composition):
  logits, books = _normal(1, 4, L, K), _normal(9, L, K, W)
  arrays, cotangent = arrays_of(composition), _normal(3, 4, F)

  def ours(logits, books, arrays):
    vectors = relaxations.straight_through_decode(
      logits, books, 0.7, composition, **arrays
    )
    return jnp.sum(vectors * cotangent)

  def oracle(logits, books, arrays):
    choice = relaxations.softmax_codes(logits, 0.7)
    vectors = jnp.einsum("njk,jkw->njw", choice, books)
    composed = compositions.compose(vectors, composition, **arrays)
    return jnp.sum(composed * cotangent)

  gradients, expected = (
    jax.jit(jax.value_and_grad(f, (0, 1, 2)))(logits, books, arrays)
    for f in (ours, oracle)
  )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
    gradients,
    expected,
  )


@pytest.mark.parametrize(
  ("composition", "batch"), [("mlp", ()), ("lstm", (2, 3))]
)
def test_attend_goes_through_the_table_in_blocks(
  composition, batch, monkeypatch
):
  monkeypatch.setattr(codes, "_BLOCK", 4)  # 11 rows: a short block is left.
  digits = random_digits(11)
  books, arrays = _normal(9, L, K, W), arrays_of(composition)
  query = _normal(3, *batch, F)

  def blocks(books, arrays):
    return codes.attend_codes(query, digits, books, composition, **arrays)

  def whole(books, arrays):
    table = codes.decode_codes(digits, books, composition, **arrays)
    return query @ table.T

  def both(function):
    """Compiles the scores with their gradients: one program for each way."""

    def loss(*args):
      scores = function(*args)
      return jnp.sum(jnp.sin(scores)), scores

    run = jax.jit(jax.grad(loss, (0, 1), has_aux=True))
    gradients, scores = run(books, arrays)
    return scores, gradients

  equations = jax.make_jaxpr(blocks)(books, arrays).jaxpr.eqns
  largest = max(equation.outvars[0].aval.size for equation in equations)
  assert largest < 11 * L * W  # No array has the vectors of all rows.
  (scores, gradients), (table_scores, expected) = both(blocks), both(whole)
  assert scores.shape == (*batch, 11)
  np.testing.assert_allclose(scores, table_scores, rtol=1e-4, atol=1e-4)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3),
    gradients,
    expected,
  )


@pytest.mark.parametrize(
  ("composition", "network", "text"),
  [
    ("mlp", None, r"\['biases'\] for the composition 'mlp', got \[\]"),
    ("mlp", {"states": 0}, r"\['biases'\] .* got \['states'\]"),
    ("mlp", {"kernels": 0}, r"\['biases', 'kernels'\] .* got \['kernels'\]"),
    ("lstm", {"biases": 0}, r"\['biases', 'kernels', 'states'\] for"),
    ("linear", {"biases": 0}, r"\[\] for the composition 'linear', got"),
  ],
)
def test_a_network_must_have_its_arrays(composition, network, text):
  with pytest.raises(
    ValueError, match="`network` must have the arrays " + text
  ):
    compositions.compose(
      jnp.ones((2, 3)),
      composition,
      projection=jnp.ones((3, 2)),
      network=network,
    )


OPTIONS = {
  "sum": {},
  "concat": {},
  "linear": {"code_features": 48},
  "mlp": {"hidden": 48},
  "lstm": {"code_features": 24, "hidden": 48},
}


@pytest.mark.parametrize("code_length", [1, 16])
@pytest.mark.parametrize(
  ("composition", "num_layers"),
  [
    ("sum", 1),
    ("concat", 1),
    ("linear", 1),
    ("mlp", 1),
    ("mlp", 3),
    ("lstm", 1),
  ],
)
def test_vectors_start_about_as_wide_as_was_asked(
  composition, num_layers, code_length
):
  parameters = compositions.code_parameters(
    composition,
    features=32,
    code_length=code_length,
    codebook_size=64,
    num_layers=num_layers,
    scale=0.1,
    **OPTIONS[composition],
  )
  arrays = {
    name: np.float32(std) * _normal(i, *shape)
    for i, (name, (shape, std)) in enumerate(parameters.items())
  }
  named = {n: arrays.pop(n, None) for n in ("codebooks", "projection", "bias")}
  digits = np.random.default_rng(1).integers(0, 64, (300, code_length))
  vectors = _decode(
    digits.astype(np.int32),
    named["codebooks"],
    composition,
    projection=named["projection"],
    bias=named["bias"],
    network=arrays,
  )
  np.testing.assert_allclose(np.std(vectors), 0.1, rtol=0.25)


@pytest.mark.parametrize(("width", "hidden"), [(2, 32), (32, 2), (8, 8)])
def test_gates_of_an_lstm_start_with_a_spread_of_one(width, hidden):
  parameters = compositions.code_parameters(
    "lstm",
    features=8,
    code_length=4,
    codebook_size=5,
    code_features=width,
    hidden=hidden,
    scale=0.1,
  )
  # Its states start at zero: all inputs are those of the code vectors.
  inputs = width * parameters["codebooks"].std ** 2
  np.testing.assert_allclose(inputs * parameters["kernels"].std ** 2, 1)


@pytest.mark.parametrize(
  ("composition", "options", "expected"),
  [
    ("sum", {}, {"codebooks": (4, 5, 8)}),
    ("concat", {"shared_codebook": True}, {"codebooks": (1, 5, 2)}),
    (
      "mlp",
      {"hidden": 3},
      {
        "codebooks": (4, 5, 3),
        "projection": (3, 8),
        "bias": (8,),
        "biases": (1, 3),
      },
    ),
    (
      "lstm",
      {"code_features": 2, "hidden": 3, "has_bias": False},
      {
        "codebooks": (4, 5, 2),
        "projection": (3, 8),
        "kernels": (5, 12),
        "biases": (12,),
        "states": (2, 3),
      },
    ),
  ],
)
def test_the_arrays_of_a_composition(composition, options, expected):
  parameters = compositions.code_parameters(
    composition, features=8, code_length=4, codebook_size=5, **options
  )
  assert {n: shape for n, (shape, _) in parameters.items()} == expected
