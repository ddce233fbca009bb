"""Tests of the LSTM layer, whose backward pass is written by hand."""

import doctest
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.extend.core import jaxprs_in_params
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.test_util import check_grads

from experiments.models import language_model, lstm

# Steps, batch, features and hidden units.
SIZES = ((1, 1, 1, 1), (5, 3, 2, 4), (7, 4, 6, 3), (0, 2, 3, 2), (3, 0, 2, 2))
NAMES = ("input_kernel", "hidden_kernel", "bias")


def arguments(sizes, dtype=np.float32, *, seed=0):
  time, batch, features, hidden = sizes
  rng = np.random.default_rng(seed)
  draw = lambda *shape: jnp.asarray(rng.normal(size=shape), dtype)
  return (
    draw(time, batch, features),
    (draw(batch, hidden), draw(batch, hidden)),
    {
      "input_kernel": draw(features, 4 * hidden),
      "hidden_kernel": draw(hidden, 4 * hidden),
      "bias": draw(4 * hidden),
    },
  )


def ours(inputs, state, weights):
  return lstm.lstm(inputs, state, **weights)


def plain(inputs, state, weights):
  """The same layer, left to automatic differentiation."""

  def step(state, term):
    hidden, memory = state
    gates = term + hidden @ weights["hidden_kernel"]
    write, forget, candidate, read = jnp.split(gates, 4, axis=-1)
    memory = jax.nn.sigmoid(forget) * memory
    memory += jax.nn.sigmoid(write) * jnp.tanh(candidate)
    hidden = jax.nn.sigmoid(read) * jnp.tanh(memory)
    return (hidden, memory), hidden

  bias = weights["bias"][None, None]
  return jax.lax.scan(step, state, inputs @ weights["input_kernel"] + bias)


def reference(inputs, state, weights):
  """The equations, step by step, in NumPy."""
  sigmoid = lambda x: 1 / (1 + np.exp(-x))
  hidden, memory = (np.asarray(part, np.float64) for part in state)
  w, u, b = (np.asarray(weights[name], np.float64) for name in NAMES)
  outputs = []
  for vectors in np.asarray(inputs, np.float64):
    i, f, g, o = np.split(vectors @ w + hidden @ u + b, 4, axis=-1)
    memory = sigmoid(f) * memory + sigmoid(i) * np.tanh(g)
    hidden = sigmoid(o) * np.tanh(memory)
    outputs.append(hidden)
  return (hidden, memory), np.reshape(outputs, (len(inputs), *hidden.shape))


@functools.partial(jax.jit, static_argnums=0)
def gradients(layer, args):
  """Gradients by all arguments, with random cotangents of all results."""
  results, pullback = jax.vjp(layer, *args)
  rng = np.random.default_rng(1)
  cotangents = jax.tree.map(
    lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype), results
  )
  return pullback(cotangents)


def test_examples():
  assert doctest.testmod(lstm).failed == 0


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("wrap", [lambda layer: layer, jax.jit])
def test_follows_the_equations(sizes, wrap):
  args = arguments(sizes)
  chex.assert_trees_all_close(
    wrap(ours)(*args), reference(*args), atol=1e-5, rtol=1e-5
  )


@pytest.mark.parametrize("sizes", SIZES)
def test_forward_pass_is_that_of_plain_jax(sizes):
  args = arguments(sizes)
  found, expected = (jax.jit(f)(*args) for f in (ours, plain))
  chex.assert_trees_all_close(found, expected, atol=1e-6)


@pytest.mark.parametrize("sizes", SIZES)
def test_gradients_are_exact_in_float64(sizes):
  with jax.enable_x64(True):
    args = arguments(sizes, np.float64)
    found, expected = gradients(ours, args), gradients(plain, args)
    chex.assert_trees_all_equal_dtypes(found, expected)
    chex.assert_trees_all_close(found, expected, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("sizes", SIZES[1:3])
def test_gradients_are_those_of_plain_jax_in_float32(sizes):
  args = arguments(sizes)
  found, expected = gradients(ours, args), gradients(plain, args)
  chex.assert_trees_all_equal_shapes_and_dtypes(found, args)
  chex.assert_trees_all_close(found, expected, atol=1e-5, rtol=1e-5)


def test_gradients_are_those_of_differences():
  with jax.enable_x64(True):
    args = arguments((4, 2, 3, 2), np.float64)
    check_grads(
      jax.jit(ours), args, order=1, modes=["rev"], atol=1e-6, rtol=1e-6
    )


def test_one_result_alone_has_a_gradient():
  args = arguments((4, 2, 3, 2))
  for pick in (lambda r: r[1][-1].sum(), lambda r: r[0][1].sum()):
    found, expected = (
      jax.jit(jax.grad(lambda args, f=f, pick=pick: pick(f(*args))))(args)
      for f in (ours, plain)
    )
    chex.assert_trees_all_close(found, expected, atol=1e-6, rtol=1e-5)


def test_saturated_gates_have_finite_gradients():
  inputs, state, weights = arguments((6, 2, 3, 2))
  scaled = jax.tree.map(lambda w: 1e4 * w, weights)
  found = gradients(ours, (inputs, state, scaled))
  chex.assert_tree_all_finite(found)


def test_parts_of_a_text_are_the_whole():
  inputs, state, weights = arguments((6, 2, 3, 4))
  last, outputs = ours(inputs, state, weights)
  middle, first_half = ours(inputs[:2], state, weights)
  end, second_half = ours(inputs[2:], middle, weights)
  chex.assert_trees_all_close(end, last, atol=1e-6)
  halves = jnp.concatenate([first_half, second_half])
  chex.assert_trees_all_close(halves, outputs, atol=1e-6)


def test_traces_once():
  @jax.jit
  @chex.assert_max_traces(n=1)
  def gradient(*args):
    return gradients(ours, args)

  for seed in range(3):
    jax.block_until_ready(gradient(*arguments((3, 2, 3, 2), seed=seed)))
  chex.clear_trace_counter()


def test_runs_in_a_scan_of_steps():
  inputs, state, weights = arguments((4, 2, 3, 2))

  def train(layer):
    def step(carry, batch):
      weights, state = carry

      def loss(weights):
        new_state, outputs = layer(batch, state, weights)
        return jnp.sum(outputs**2), new_state

      grads, new_state = jax.grad(loss, has_aux=True)(weights)
      weights = jax.tree.map(lambda w, g: w - 0.1 * g, weights, grads)
      return (weights, new_state), None

    batches = jnp.stack([inputs, 2 * inputs, -inputs])
    return jax.lax.scan(step, (weights, state), batches)[0]

  found, expected = (jax.jit(lambda f=f: train(f))() for f in (ours, plain))
  chex.assert_trees_all_close(found, expected, atol=1e-5, rtol=1e-5)


def test_vmap_is_a_loop():
  first, second = (arguments((3, 2, 3, 2), seed=seed) for seed in (0, 1))
  stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), first, second)
  found = jax.jit(jax.vmap(lambda *args: gradients(ours, args)))(*stacked)
  expected = [gradients(ours, args) for args in (first, second)]
  for number in range(2):
    part = jax.tree.map(lambda leaf, n=number: leaf[n], found)
    chex.assert_trees_all_close(part, expected[number], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("number", [2, 4])
def test_devices_may_split_the_batch(number):
  mesh = Mesh(np.array(jax.devices()[:number]), ("data",))
  args = arguments((3, 8, 3, 2))

  def loss(inputs, state, weights):
    last, outputs = ours(inputs, state, weights)
    return jnp.sum(outputs**2) + jnp.sum(last[1])

  gradient = jax.grad(loss, argnums=(0, 2))

  def shared(inputs, state, weights):
    # All devices have the same weights: the gradients add up.
    vary = lambda w: jax.lax.pcast(w, "data", to="varying")
    return loss(inputs, state, jax.tree.map(vary, weights))

  split = jax.jit(
    jax.shard_map(
      jax.grad(shared, argnums=(0, 2)),
      mesh=mesh,
      in_specs=(P(None, "data"), P("data"), P()),
      out_specs=(P(None, "data"), P()),
    )
  )
  expected = jax.jit(gradient)(*args)
  chex.assert_trees_all_close(split(*args), expected, atol=1e-5, rtol=1e-5)


def count_products(jaxpr, *, in_scan=False):
  """Counts the products of matrices outside and inside of scans."""
  counts = np.zeros(2, int)
  for equation in jaxpr.eqns:
    inside = in_scan or equation.primitive.name == "scan"
    if equation.primitive.name == "dot_general":
      counts[int(in_scan)] += 1
    for part in jaxprs_in_params(equation.params):
      counts += count_products(part, in_scan=inside)
  return counts


def test_steps_take_one_product_each():
  args = arguments((3, 2, 3, 2))
  of = lambda f: count_products(
    jax.make_jaxpr(lambda *args: gradients(f, args))(*args).jaxpr
  )
  # Outside: inputs by W, and the gradients by U, by W and by the inputs.
  # Inside: one forwards, one backwards.
  assert of(ours).tolist() == [4, 2]
  assert of(plain).tolist() == [3, 3]


@pytest.mark.parametrize("number", [2, 4])
def test_jit_may_split_the_batch(number):
  mesh = Mesh(np.array(jax.devices()[:number]), ("data",))
  place = lambda *specs: NamedSharding(mesh, P(*specs))
  inputs, state, weights = args = arguments((3, 8, 3, 2))
  split = (
    jax.device_put(inputs, place(None, "data")),
    jax.device_put(state, place("data")),
    jax.device_put(weights, place()),
  )
  found = jax.jit(lambda *args: gradients(ours, args))(*split)
  expected = gradients(ours, args)
  chex.assert_trees_all_close(found, expected, atol=1e-5, rtol=1e-5)


def test_there_is_no_forward_mode():
  args = arguments((3, 2, 3, 2))
  with pytest.raises(TypeError, match="custom_vjp"):
    jax.jvp(ours, args, args)


@pytest.mark.parametrize(
  ("name", "shape"),
  [("input_kernel", (3, 7)), ("hidden_kernel", (2, 7))],
)
def test_kernels_have_four_blocks(name, shape):
  inputs, state, weights = arguments((3, 2, 3, 2))
  with pytest.raises(AssertionError, match="shape"):
    ours(inputs, state, weights | {name: jnp.zeros(shape)})


def test_inputs_have_a_time_axis():
  inputs, state, weights = arguments((3, 2, 3, 2))
  with pytest.raises(AssertionError, match="rank"):
    ours(inputs[0], state, weights)


def test_layer_has_the_parameters_of_the_function():
  layer = language_model.LSTMLayer(3, 2, scale=0.1, rngs=nnx.Rngs(0))
  params = nnx.to_pure_dict(nnx.state(layer, nnx.Param))
  assert sorted(params) == sorted(NAMES)
  inputs, state, _ = arguments((4, 2, 3, 2))
  expected = lstm.lstm(inputs, state, **params)
  chex.assert_trees_all_equal(layer(inputs, state), expected)
