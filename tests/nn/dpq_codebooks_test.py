"""Tests of the start and the revival of codebooks, and of temperatures."""

import jax
import jax.numpy as jnp
import layers
import numpy as np
import pytest
from flax import nnx

from anchor_codes import linen, nn
from anchor_codes.ops import clustering, quantization, revival

VECTORS = np.random.default_rng(0).standard_normal((80, 6), np.float32)


def _make(**options):
  options = {"code_length": 3, "codebook_size": 8, **options}
  rngs = nnx.Rngs(layers.QUICK_KEY)
  return nn.DPQEmbed(80, 6, **options, rngs=rngs)


@pytest.mark.parametrize("shared", [True, False])
def test_the_start_is_product_quantisation(shared):
  layer = _make(
    relaxation="nearest", score_norm=False, shared_codebook=shared, tied=shared
  )
  layer.start_from(VECTORS, jax.random.key(3))
  books, expected = clustering.product_kmeans(
    jax.random.split(jax.random.key(3))[1],
    jnp.asarray(VECTORS),
    code_length=3,
    codebook_size=8,
    shared_codebook=shared,
  )
  np.testing.assert_array_equal(layer.codebooks[...], books)
  np.testing.assert_array_equal(layer.codes(), expected)
  np.testing.assert_array_equal(layer.queries[...], VECTORS)
  if not shared:
    np.testing.assert_array_equal(layer.keys[...], books)


@pytest.mark.parametrize("relaxation", ["softmax", "nearest"])
def test_the_start_sets_the_moments(relaxation):
  layer = _make(relaxation=relaxation)
  layer.start_from(VECTORS, jax.random.key(0), num_samples=40)
  keys = layer.codebooks if layer.keys is None else layer.keys
  expected = quantization.query_moments(
    layer.queries[...], keys[...], relaxation=relaxation
  )
  np.testing.assert_allclose(layer.norm.mean[...], expected.mean, rtol=1e-5)
  usage = revival.code_usage(layer.codes(), codebook_size=8)
  # Inner products leave some of the centroids to others.
  assert revival.dead_share(usage) < (0.1 if relaxation == "nearest" else 0.5)


def test_vectors_to_start_from_are_checked():
  layer = _make()
  with pytest.raises(ValueError, match=r"must have shape \(80, 6\), got \(3,"):
    layer.start_from(np.ones((3, 6)), jax.random.key(0))
  bad = np.where(np.arange(80)[:, None] == 7, np.nan, VECTORS)
  with pytest.raises(ValueError, match="`vectors` must be finite"):
    layer.start_from(bad, jax.random.key(0))


@pytest.mark.parametrize("tied", [True, False])
def test_dead_entries_are_revived_in_place(tied):
  layer = _make(relaxation="nearest", tied=tied)
  keys = layer.codebooks if tied else layer.keys
  layer.queries[...] = jnp.asarray(VECTORS)
  keys[...] = jnp.ones_like(keys[...])
  assert layer.revive(jax.random.key(0)) == 3 * 7
  for seed in range(1, 4):
    layer.revive(jax.random.key(seed))
  usage = revival.code_usage(layer.codes(), codebook_size=8)
  assert revival.dead_share(usage) < 0.1
  assert isinstance(layer.revive(jax.random.key(9)), int)


def test_codes_of_queries_that_are_not_finite_are_refused():
  layer = _make()
  layer.queries[...] = layer.queries[...].at[7, 2].set(jnp.nan)
  twin = linen.DPQEmbed(80, 6, code_length=3, codebook_size=8)
  variables = layers.variables_of(layer)
  for call in (
    layer.to_table,
    layer.codes,
    lambda: twin.apply(variables, method="to_table"),
  ):
    with pytest.raises(ValueError, match=r"`queries` must be finite, .* 7"):
      call()


@pytest.mark.parametrize(
  ("options", "text"),
  [
    ({"commitment_weight": 0.5}, "`commitment_weight` must be 0 for the relax"),
    ({"codebook_weight": -1.0}, "`codebook_weight` must be at least 0, got -1"),
  ],
)
def test_weights_are_checked(options, text):
  with pytest.raises(ValueError, match=text):
    _make(**options)
  twin = linen.DPQEmbed(80, 6, code_length=3, codebook_size=8, **options)
  with pytest.raises(ValueError, match=text):
    twin.init(jax.random.key(0), 1)


def test_a_schedule_counts_training_lookups():
  schedule = lambda count: 0.5 ** jnp.asarray(count, jnp.float32)
  layer = _make(temperature=schedule)
  run = jax.jit(lambda layer: (layer(np.arange(3)), nnx.state(layer))[1])
  for count in range(3):
    assert layer.tempering.count[...] == count
    nnx.update(layer, run(layer))
  layer.auxiliary_loss(np.arange(3))
  layer.eval()
  layer(np.arange(3))
  assert layer.tempering.count[...] == 3
  assert layer.tempering(deterministic=True) == 0.125


def test_a_temperature_is_checked():
  for bad in (0, -1.5):
    text = f"`temperature` must be positive, got {bad}"
    with pytest.raises(ValueError, match=text):
      nn.Temperature(bad)
    with pytest.raises(ValueError, match=text):
      linen.Temperature(bad).init({}, deterministic=True)
    with pytest.raises(ValueError, match=text):
      nn.Temperature(lambda _, bad=bad: bad)(deterministic=False)
  assert nn.Temperature(2.0).count is None


def test_the_twin_counts_where_it_may():
  twin = linen.Temperature(lambda count: 1.0 + count.astype(jnp.float32))
  variables = {"batch_stats": {"count": jnp.int32(3)}}
  options = {"mutable": ["batch_stats"]}
  value, moved = twin.apply(variables, deterministic=False, **options)
  assert (value, moved["batch_stats"]["count"]) == (4.0, 4)
  assert twin.apply(variables, deterministic=False) == 4.0
  for idle in (
    {"deterministic": True},
    {"deterministic": False, "track": False},
  ):
    _, kept = twin.apply(variables, **idle, **options)
    assert kept["batch_stats"]["count"] == 3
