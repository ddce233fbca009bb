"""Golden cases of KD codes through the layer, computed by hand.

Chen et al., ICML 2018. The laws of all layers are in conformance_test.py.
"""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from code_layers import call, codes, fill, gradients, moments
from flax import nnx

from anchor_codes import nn
from anchor_codes.ops import codes as code_ops
from anchor_codes.ops import folding, metrics

CODEBOOK = [[1.0, 0.0], [0.0, 1.0], [2.0, 2.0]]
UPSTREAM = jnp.array([[1.0, -1.0]])


def _make(logits, codebooks, *, projection=None, **options):
  """Returns a layer with parameters set by hand."""
  num_embeddings, code_length, codebook_size = np.shape(logits)
  code_features = features = np.shape(codebooks)[2]
  if options.get("composition") == "concat":
    features *= code_length
  params = {"logits": logits, "codebooks": codebooks}
  if projection is not None:
    features = np.shape(projection)[1]
    params["projection"] = projection

  def make():
    return nn.KDEmbed(
      num_embeddings,
      features,
      code_length=code_length,
      codebook_size=codebook_size,
      code_features=code_features,
      rngs=nnx.Rngs(0),
      **{"logit_norm": False, **options},
    )

  return fill(make, **params)


def _normal(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(
  ("temperature", "expected"),
  [
    (1.0, [0.323091, -0.378811, 0.055720]),
    (2.0, [0.173488, -0.194991, 0.021503]),
    (0.5, [0.395024, -0.456325, 0.061301]),
  ],
)
@pytest.mark.parametrize("composition", ["sum", "concat", "linear"])
def test_straight_through_of_one_token(composition, temperature, expected):
  layer = _make(
    [[[1.0, 2.0, 0.5]]],
    [CODEBOOK],
    composition=composition,
    temperature=temperature,
    projection=np.eye(2, dtype=np.float32) if composition == "linear" else None,
  )
  ids = jnp.array([0])
  assert call(layer, ids).tolist() == [[0.0, 1.0]]
  task, _ = gradients(layer, ids, UPSTREAM)
  assert task["codebooks"][0].tolist() == [[0, 0], [1, -1], [0, 0]]
  np.testing.assert_allclose(task["logits"][0, 0], expected, atol=1e-6)


def test_positions_add_up_or_stand_side_by_side():
  logits = [[[0.0, 1.0], [1.0, 0.0]], [[1.0, 0.0], [1.0, 0.0]]]
  codebooks = [[[1.0], [2.0]], [[30.0], [40.0]]]
  ids = jnp.array([0, 1])
  added = _make(logits, codebooks, composition="sum")
  assert call(added, ids).tolist() == [[32.0], [31.0]]
  aligned = _make(logits, codebooks, composition="concat")
  assert call(aligned, ids).tolist() == [[2.0, 30.0], [1.0, 30.0]]
  shared = _make(logits, codebooks[:1], shared_codebook=True)
  assert call(shared, ids).tolist() == [[3.0], [2.0]]


def test_logits_are_normalised_per_entry_over_tokens():
  layer = _make([[[10.0, 1.0]], [[12.0, 2.0]]], [[[5.0], [7.0]]])
  ids = jnp.array([0, 1])
  assert call(layer, ids)[:, 0].tolist() == [5, 5]  # Entry 0 always wins.
  layer = _make(
    [[[10.0, 1.0]], [[12.0, 2.0]]], [[[5.0], [7.0]]], logit_norm=True
  )
  assert call(layer, ids)[:, 0].tolist() == [7, 5]
  np.testing.assert_allclose(
    moments(layer), [[0.11, 0.015], [1.0, 0.9925]], rtol=1e-6
  )


def test_codes_out_of_training_use_the_stored_moments():
  generator = np.random.default_rng(0)
  logits = generator.normal(size=(30, 4, 5)).astype(np.float32)
  mean = generator.normal(size=5).astype(np.float32)
  variance = generator.uniform(0.01, 4, size=5).astype(np.float32)
  layer = _make(logits, np.ones((4, 5, 2), np.float32), logit_norm=True)
  layer.norm.mean[...] = jnp.asarray(mean)
  layer.norm.variance[...] = jnp.asarray(variance)
  expected = np.argmax((logits - mean) / np.sqrt(variance + 1e-3), axis=-1)
  assert (expected != logits.argmax(axis=-1)).any()
  np.testing.assert_array_equal(codes(layer), expected)
  np.testing.assert_array_equal(layer.to_table().codes, expected)
  layer.eval()
  decoded = code_ops.decode_codes(codes(layer), layer.codebooks[...], "sum")
  np.testing.assert_array_equal(call(layer, jnp.arange(30)), decoded)


def test_moments_start_as_those_of_a_standard_normal():
  assert moments(SimpleNamespace(norm=nn.CentroidNorm(2))) == [[0, 0], [1, 1]]
  zeros = np.zeros((2, 2, 2), np.float32)
  assert _make(zeros, zeros).norm is None


def test_moments_move_in_training_alone():
  layer = _make(
    np.ones((3, 2, 2), np.float32),
    np.ones((2, 2, 4), np.float32),
    logit_norm=True,
  )
  start, ids = moments(layer), jnp.array([0, 2])
  codes(layer)
  call(layer, jnp.ones(4), "attend")
  layer.to_table()
  call(layer, ids, "auxiliary_loss")
  layer.eval()
  call(layer, ids)
  assert moments(layer) == start == [[0, 0], [1, 1]]
  layer.train()
  call(layer, ids)
  np.testing.assert_allclose(
    moments(layer), [[0.01, 0.01], [0.99, 0.99]], rtol=1e-6
  )


PROBS = jnp.array([0.1, 0.6, 0.3])
MANY = jnp.zeros(20_000, jnp.int32)


def _make_noisy(*, params=0, codes=0):
  """Returns a layer that draws one of three digits, as a one-hot vector."""
  layer = nn.KDEmbed(
    1,
    3,
    code_length=1,
    codebook_size=3,
    relaxation="gumbel",
    logit_norm=False,
    rngs=nnx.Rngs(params=params, codes=codes),
  )
  layer.logits[...] = jnp.log(PROBS)[None, None, :]
  layer.codebooks[...] = jnp.eye(3)[None]
  return layer


def test_gumbel_draws_from_the_softmax_in_training_alone():
  layer = _make_noisy()
  first, second = np.asarray(call(layer, MANY)), np.asarray(call(layer, MANY))
  assert (first != second).any()
  for draws in (first, second):
    np.testing.assert_allclose(draws.mean(axis=0), PROBS, atol=0.02)
  layer.eval()
  for _ in range(2):
    np.testing.assert_array_equal(call(layer, MANY), np.eye(3)[[1] * 20_000])
  assert codes(layer).tolist() == [[1]]


def test_gumbel_noise_comes_from_its_own_stream():
  first, same, other = (
    np.asarray(call(_make_noisy(params=params, codes=codes), MANY))
    for params, codes in ((0, 0), (1, 0), (0, 1))
  )
  np.testing.assert_array_equal(first, same)
  assert (first != other).any()


def test_a_linear_composition_folds_into_its_codebooks():
  layer = _make(
    _normal(60, 3, 4),
    _normal(3, 4, 64, seed=1),
    composition="linear",
    projection=_normal(64, 20, seed=2),
  )
  table = call(layer, jnp.arange(60))
  folded = folding.fold_linear(layer.codebooks[...], layer.projection[...])
  np.testing.assert_allclose(
    code_ops.decode_codes(codes(layer), folded, "sum"),
    table,
    rtol=1e-4,
    atol=1e-4,
  )
  # One digit of each position is one too many: their columns add up to ones.
  assert np.linalg.matrix_rank(np.asarray(table)) == 3 * 4 - 3 + 1


@pytest.mark.parametrize(
  ("codebook_size", "code_length", "expected"),
  [(8, 4, 0.3740), (2, 16, 0.9274)],
)
def test_codes_at_the_start_are_as_good_as_uniform_ones(
  codebook_size, code_length, expected
):
  layer = nn.KDEmbed(
    10_000,
    2,
    code_length=code_length,
    codebook_size=codebook_size,
    rngs=nnx.Rngs(0),
  )
  unique = metrics.unique_fraction(codes(layer))
  np.testing.assert_allclose(unique, expected, atol=0.01)


def test_identity_codes_are_an_ordinary_embedding():
  table = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
  layer = _make(np.eye(5, dtype=np.float32)[:, None], table[None])
  embed = nnx.Embed(5, 3, rngs=nnx.Rngs(0))
  embed.embedding[...] = jnp.asarray(table)
  ids = jnp.array([[3, 0], [3, 4]])
  np.testing.assert_array_equal(call(layer, ids), embed(ids))
  query = jnp.ones((2, 3))
  np.testing.assert_allclose(layer.attend(query), embed.attend(query), 1e-6)
  cotangent = jnp.arange(12.0).reshape(2, 2, 3)
  ours, _ = gradients(layer, ids, cotangent)

  @jax.jit
  @jax.grad
  def gradient(table):
    return jnp.sum(table[ids] * cotangent)

  theirs = gradient(embed.embedding[...])
  np.testing.assert_array_equal(ours["codebooks"][0], theirs)


def test_thirty_two_digits_of_thirty_two_are_twenty_bytes():
  table = _make(np.zeros((11, 32, 32)), np.zeros((32, 32, 4))).to_table()
  assert table.bits_per_row == 160
  assert table.nbytes == 11 * 20 + 4 * 32 * 32 * 4
