"""What the options of KD codes do: norms, schedules, dropout, entropy.

Chen et al., ICML 2018. The laws of all layers are in conformance_test.py.
"""

import functools

import jax
import jax.numpy as jnp
import layers
import numpy as np
import pytest
from code_layers import call, codes, gradients
from flax import nnx

from anchor_codes import linen, nn, training
from anchor_codes.ops import losses, relaxations, revival

V, F = 30, 6
IDS = np.arange(V)


def make(**options):
  options = {"code_length": 3, "codebook_size": 4, **options}
  return nn.KDEmbed(V, F, **options, rngs=quick_rngs())


def quick_rngs():
  return nnx.Rngs(params=layers.QUICK_KEY, codes=7)


def normal(*shape, seed=0):
  return np.random.default_rng(seed).standard_normal(shape, np.float32)


def move(norm, width, seed):
  norm.mean[...] = jnp.asarray(normal(width, seed=seed))
  norm.variance[...] = jnp.asarray(np.exp(normal(width, seed=seed + 1)))


def make_normalized(composition, **options):
  """Returns a layer out of training whose norms are far from the start."""
  if composition in ("linear", "lstm"):
    options["code_features"] = 16
  layer = make(composition=composition, output_norm=True, scale=1.0, **options)
  move(layer.outer_norm.norm, F, seed=0)
  layer.outer_norm.scale[...] = jnp.asarray(normal(F, seed=2))
  layer.outer_norm.bias[...] = jnp.asarray(normal(F, seed=3))
  if layer.inner_norm is not None:
    move(layer.inner_norm, 16, seed=4)
  layer.eval()
  return layer


@pytest.mark.parametrize(
  ("composition", "shared"),
  [
    ("sum", True),
    ("concat", False),
    ("concat", True),
    ("linear", False),
    ("mlp", True),
    ("lstm", False),
  ],
)
def test_a_table_has_its_norms_in_it(composition, shared):
  layer = make_normalized(composition, shared_codebook=shared)
  vectors, table = np.asarray(call(layer, IDS)), layer.to_table()
  np.testing.assert_allclose(table.to_dense(), vectors, rtol=1e-5, atol=1e-5)
  query = normal(2, F)
  scores = call(layer, query, "attend")
  np.testing.assert_allclose(scores, query @ vectors.T, rtol=1e-4, atol=1e-4)
  # Each position of a concatenation has features of its own to scale.
  positions = 1 if shared and composition != "concat" else 3
  assert len(table.codebooks) == positions


def test_a_normalised_linear_layer_is_of_low_rank():
  # Columns of a block of one-hot codes add up to ones: K D - D + 1 = 10.
  layer = nn.KDEmbed(
    60,
    20,
    code_length=3,
    codebook_size=4,
    composition="linear",
    code_features=64,
    output_norm=True,
    rngs=quick_rngs(),
  )
  move(layer.outer_norm.norm, 20, seed=0)
  move(layer.inner_norm, 64, seed=2)
  layer.eval()
  vectors, table = np.asarray(call(layer, np.arange(60))), layer.to_table()
  assert table.composition == "sum"  # Narrower than the code vectors.
  np.testing.assert_allclose(table.to_dense(), vectors, rtol=1e-5, atol=1e-5)
  spread = vectors - table.bias
  assert np.linalg.matrix_rank(spread, tol=1e-4) <= 10


def test_vectors_of_a_training_batch_are_normalised():
  layer = make(output_norm=True, scale=0.3)
  vectors = np.asarray(call(layer, IDS))
  np.testing.assert_allclose(vectors.mean(axis=0), 0, atol=1e-5)
  np.testing.assert_allclose(vectors.std(axis=0), 0.3, rtol=0.05)
  assert layer.bias is None
  assert np.abs(layer.outer_norm.norm.mean[...]).max() > 0


def test_decoding_a_batch_is_looking_it_up():
  layer = make(output_norm=True, composition="linear")
  logits = call(layer, IDS, "batch_logits")
  moments = layer.outer_norm.norm.mean[...]
  decoded = call(layer, logits, "decode")
  np.testing.assert_array_equal(layer.outer_norm.norm.mean[...], moments)
  np.testing.assert_array_equal(layer.norm.mean[...], 0)
  np.testing.assert_allclose(decoded, call(layer, IDS), rtol=1e-5, atol=1e-6)


def test_decoding_gives_a_gradient_to_the_logits():
  layer = make(composition="mlp", hidden=5, num_layers=2)
  cotangent = jnp.asarray(normal(4, F))
  loss = lambda logits: jnp.sum(layer.decode(logits) * cotangent)
  gradient = jax.jit(jax.grad(loss))(jnp.asarray(normal(4, 3, 4)))
  assert (np.abs(gradient).max(axis=(1, 2)) > 0).all()


def test_a_schedule_sets_the_temperature_of_each_training_lookup():
  schedule = training.temperature_schedule(
    "exponential", initial=2.0, decay_rate=0.25, decay_steps=2, lowest=0.6
  )
  layer, cotangent = make(temperature=schedule), jnp.asarray(normal(V, F))
  for temperature in (2.0, 2.0, 0.6):
    fixed, _ = gradients(make(temperature=temperature), IDS, cotangent)
    moving, _ = gradients(layer, IDS, cotangent)
    np.testing.assert_allclose(
      moving["logits"], fixed["logits"], rtol=1e-4, atol=1e-7
    )
    call(layer, IDS)
  assert layer.tempering.count[...] == 3
  layer.eval()
  call(layer, IDS)
  assert layer.tempering.count[...] == 3


def test_a_number_counts_nothing():
  assert make(temperature=0.5).tempering.count is None


@pytest.mark.parametrize("logit_norm", [False, True])
def test_the_entropy_is_that_of_the_batch(logit_norm):
  layer = make(entropy_weight=0.7, temperature=0.5, logit_norm=logit_norm)
  loss = call(layer, IDS, "auxiliary_loss")
  logits = call(layer, IDS, "batch_logits")
  np.testing.assert_allclose(
    loss, 0.7 * losses.code_entropy(logits, 0.5), rtol=1e-6
  )
  if logit_norm:
    assert not layer.norm.mean[...].any()
  _, gradient = gradients(layer, IDS, jnp.zeros((V, F)))
  assert np.abs(gradient["logits"]).max() > 0
  assert not gradient["codebooks"].any()


def test_padding_has_no_entropy():
  layer = make(entropy_weight=1.0)
  ids = np.array([3, 5, 3, 7])
  padded = np.array([3, 5, 3, 7, -1, V, V + 9])
  np.testing.assert_allclose(
    call(layer, padded, "auxiliary_loss"),
    call(layer, ids, "auxiliary_loss"),
    rtol=1e-6,
  )


def test_without_a_weight_there_is_no_auxiliary_loss():
  assert make().auxiliary_loss(IDS) == 0


@pytest.mark.parametrize("composition", ["sum", "concat", "mlp"])
def test_digits_are_dropped_in_training_alone(composition):
  layer = make(code_dropout=0.5, composition=composition)
  first, second = np.asarray(call(layer, IDS)), np.asarray(call(layer, IDS))
  assert (first != second).any()
  layer.eval()
  np.testing.assert_array_equal(call(layer, IDS), call(layer, IDS))
  np.testing.assert_allclose(
    layer.to_table().to_dense(), call(layer, IDS), rtol=1e-5, atol=1e-6
  )


def test_the_mean_over_dropped_digits_is_the_vector():
  layer = make(code_dropout=0.25, logit_norm=False)
  many = np.zeros(20_000, np.int32)
  mean = np.asarray(call(layer, many)).mean(axis=0)
  layer.eval()
  np.testing.assert_allclose(mean, call(layer, many[:1])[0], atol=0.01)


def test_dropped_digits_get_no_gradient():
  layer = make(code_dropout=0.5, logit_norm=False, composition="concat")
  vectors = np.asarray(call(nnx.clone(layer), IDS)).reshape(V, 3, 2)
  task, _ = gradients(layer, IDS, jnp.ones((V, F)))
  is_dropped = (vectors == 0).all(axis=2)
  assert 0.2 < is_dropped.mean() < 0.8
  moved = np.abs(task["logits"]).max(axis=2) > 0
  np.testing.assert_array_equal(moved, ~is_dropped)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_that_are_not_finite_are_no_codes(value):
  layer = make()
  layer.logits[...] = layer.logits[...].at[jnp.array([2, 9]), 1, 0].set(value)
  text = "`logits` must be finite, .* for 2 of 30 symbols: ids 2, 9"
  for run in (layer.codes, layer.to_table):
    with pytest.raises(ValueError, match=text):
      run()
  call(layer, IDS)  # Training and scoring go on.
  call(layer, normal(F), "attend")
  twin = linen.KDEmbed(V, F, code_length=3, codebook_size=4)
  variables = {
    "params": nnx.to_pure_dict(nnx.state(layer, nnx.Param)),
    "batch_stats": nnx.to_pure_dict(nnx.state(layer, nnx.BatchStat)),
  }
  with pytest.raises(ValueError, match=text):
    twin.apply(variables, method="to_table")


def test_revived_entries_are_chosen(monkeypatch):
  # Op by op, JAX would compile each primitive.
  compiled = jax.jit(revival.revive_logits, static_argnames="num_symbols")
  monkeypatch.setattr(revival, "revive_logits", compiled)
  layer = make()
  logits = np.array(layer.logits[...])
  logits[:, :, 3] = -9
  layer.logits[...] = jnp.asarray(logits)
  layer.norm.variance[...] = jnp.full(4, 0.1)
  assert not (np.asarray(codes(layer)) == 3).any()
  assert layer.revive(jax.random.key(0)) == 3
  assert (np.asarray(codes(layer)) == 3).any(axis=0).all()
  assert layer.revive(jax.random.key(1)) == 0


def test_linen_decodes_drops_and_weighs_alike(monkeypatch):
  key = jax.random.key(3)  # One key for the streams of both.
  monkeypatch.setattr(
    relaxations.jax.random,
    "bernoulli",
    lambda _, rate, shape: jax.random.uniform(key, shape) < rate,
  )
  options = {
    "code_length": 3,
    "codebook_size": 4,
    "composition": "lstm",
    "code_features": 2,
    "hidden": 5,
    "code_dropout": 0.5,
    "entropy_weight": 0.3,
    "output_norm": True,
  }
  layer = make(**options)
  twin = linen.KDEmbed(V, F, **options)
  variables = {
    "params": nnx.to_pure_dict(nnx.state(layer, nnx.Param)),
    "batch_stats": nnx.to_pure_dict(nnx.state(layer, nnx.BatchStat)),
  }
  for method, inputs in [
    ("batch_logits", IDS),
    ("decode", normal(4, 3, 4)),
    ("auxiliary_loss", IDS),
  ]:
    run = jax.jit(
      functools.partial(twin.apply, method=method, rngs={"codes": key})
    )
    np.testing.assert_allclose(
      run(variables, inputs), call(layer, inputs, method), rtol=1e-5, atol=1e-6
    )
