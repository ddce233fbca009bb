"""Golden cases of differentiable product quantisation, computed by hand.

Chen et al., ICML 2020. The laws of all layers are in conformance_test.py.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from code_layers import call, codes, fill, gradients, moments
from flax import nnx

from anchor_codes import nn

UPSTREAM = jnp.array([[1.0, -1.0]])
IDS = jnp.array([0])


def _make(queries, codebooks, keys=None, **options):
  """Returns a layer with parameters set by hand."""
  num_embeddings, features = np.shape(queries)
  _, codebook_size, width = np.shape(codebooks)

  def make():
    return nn.DPQEmbed(
      num_embeddings,
      features,
      code_length=features // width,
      codebook_size=codebook_size,
      relaxation="nearest" if keys is None else "softmax",
      rngs=nnx.Rngs(0),
      **{"score_norm": False, **options},
    )

  params = {"queries": queries, "codebooks": codebooks}
  return fill(make, **params, **({} if keys is None else {"keys": keys}))


def _normal(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_softmax_through_the_inner_product():
  layer = _make(
    [[0.5, -0.25]],
    [[[1.0, 0.0], [0.0, 1.0], [2.0, 2.0]]],
    [[[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]],
  )
  assert call(layer, IDS).tolist() == [[1.0, 0.0]]
  assert codes(layer).tolist() == [[0]]
  task, auxiliary = gradients(layer, IDS, UPSTREAM)
  np.testing.assert_allclose(
    task["queries"], [[0.259013, -0.340098]], atol=1e-6
  )
  expected = [
    [0.170049, -0.085025],
    [-0.129506, 0.064753],
    [-0.040543, 0.020271],
  ]
  np.testing.assert_allclose(task["keys"][0], expected, atol=1e-6)
  assert task["codebooks"][0].tolist() == [[1, -1], [0, 0], [0, 0]]
  assert call(layer, IDS, "auxiliary_loss") == 0
  assert not any(np.any(leaf) for leaf in jax.tree.leaves(auxiliary))


def test_nearest_passes_the_gradient_to_the_query():
  layer = _make([[0.2, 0.9]], [[[0.0, 0.0], [1.0, 1.0]]])
  assert call(layer, IDS).tolist() == [[1.0, 1.0]]
  assert codes(layer).tolist() == [[1]]
  np.testing.assert_allclose(
    call(layer, IDS, "auxiliary_loss"), 0.325, rtol=1e-6
  )
  task, auxiliary = gradients(layer, IDS, UPSTREAM)
  np.testing.assert_array_equal(task["queries"], UPSTREAM)
  assert not np.any(task["codebooks"])
  assert not np.any(auxiliary["queries"])
  np.testing.assert_allclose(
    auxiliary["codebooks"][0], [[0, 0], [0.8, 0.1]], rtol=1e-6
  )


@pytest.mark.parametrize("score_norm", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_auxiliary_gradient_reaches_codebooks_alone(shared, score_norm):
  positions = 1 if shared else 3
  queries, codebooks = _normal(7, 6), _normal(positions, 4, 2, seed=1)
  layer = _make(
    queries, codebooks, shared_codebook=shared, score_norm=score_norm
  )
  ids = jnp.array([[0, 3], [3, 6]])
  task, auxiliary = gradients(layer, ids, jnp.ones((2, 2, 6)))
  np.testing.assert_array_equal(
    task["queries"], np.repeat([1, 0, 0, 2, 0, 0, 1], 6).reshape(7, 6)
  )
  assert not np.any(task["codebooks"])
  assert not np.any(auxiliary["queries"])
  # Twice the sum of the differences of those that chose an entry, over all.
  chosen = np.asarray(call(layer, ids)).reshape(4, 3, 2)
  parts = queries[np.ravel(ids)].reshape(4, 3, 2)
  expected = np.zeros_like(codebooks)
  for n, j in np.ndindex(4, 3):
    book = codebooks[j % positions]
    entry = np.flatnonzero((book == chosen[n, j]).all(axis=1))[0]
    expected[j % positions, entry] += 2 * (chosen[n, j] - parts[n, j]) / 24
  np.testing.assert_allclose(auxiliary["codebooks"], expected, 1e-5, 1e-6)


def test_scores_are_normalised_per_entry_over_tokens():
  # With these keys, the scores are the queries.
  parameters = (
    [[10.0, 1.0], [12.0, 2.0]],
    [[[1.0, 0.0], [0.0, 1.0]]],
    [[[1.0, 0.0], [0.0, 1.0]]],
  )
  ids = jnp.array([0, 1])
  assert call(_make(*parameters), ids).tolist() == [[1, 0], [1, 0]]
  layer = _make(*parameters, score_norm=True)
  assert call(layer, ids).tolist() == [[0, 1], [1, 0]]
  np.testing.assert_allclose(
    moments(layer), [[0.11, 0.015], [1.0, 0.9925]], rtol=1e-6
  )


def test_normalisation_pools_the_positions():
  # One token, two positions: the moments are those of the positions.
  eye = [[[1.0, 0.0], [0.0, 1.0]]]
  layer = _make(
    [[10.0, 1.0, 12.0, 2.0]],
    eye,
    eye,
    shared_codebook=True,
    score_norm=True,
  )
  assert call(layer, IDS).tolist() == [[0, 1, 1, 0]]
  np.testing.assert_allclose(
    moments(layer), [[0.11, 0.015], [1.0, 0.9925]], rtol=1e-6
  )


@pytest.mark.parametrize("relaxation", ["softmax", "nearest"])
def test_codes_out_of_training_use_the_stored_moments(relaxation):
  queries, codebooks = _normal(30, 8), _normal(4, 5, 2, seed=1)
  keys = _normal(4, 5, 2, seed=2) if relaxation == "softmax" else None
  layer = _make(queries, codebooks, keys, score_norm=True)
  mean, variance = _normal(5, seed=3), _normal(5, seed=4) ** 2
  layer.norm.mean[...] = jnp.asarray(mean)
  layer.norm.variance[...] = jnp.asarray(variance)
  parts = queries.reshape(30, 4, 2)
  if keys is None:
    distances = np.square(parts[:, :, None] - codebooks[None]).sum(axis=-1)
    scores = -distances
  else:
    scores = np.einsum("njw,jkw->njk", parts, keys)
  expected = np.argmax((scores - mean) / np.sqrt(variance + 1e-3), axis=-1)
  assert (expected != scores.argmax(axis=-1)).any()
  np.testing.assert_array_equal(codes(layer), expected)
  np.testing.assert_array_equal(layer.to_table().codes, expected)
  layer.eval()
  decoded = np.stack([codebooks[j, expected[:, j]] for j in range(4)], axis=1)
  np.testing.assert_array_equal(
    call(layer, jnp.arange(30)), decoded.reshape(30, 8)
  )


@pytest.mark.parametrize("relaxation", ["softmax", "nearest"])
def test_moments_move_in_training_alone(relaxation):
  keys = np.ones((2, 2, 2), np.float32) if relaxation == "softmax" else None
  codebooks = np.zeros((2, 2, 2), np.float32)
  layer = _make(np.ones((3, 4), np.float32), codebooks, keys, score_norm=True)
  start, ids = moments(layer), jnp.array([0, 2])
  call(layer, ids, "auxiliary_loss")
  codes(layer)
  call(layer, jnp.ones(4), "attend")
  layer.to_table()
  layer.eval()
  call(layer, ids)
  assert moments(layer) == start == [[0, 0], [1, 1]]
  layer.train()
  call(layer, ids)
  score = 2 if relaxation == "softmax" else -2
  np.testing.assert_allclose(
    moments(layer), [[0.01 * score] * 2, [0.99] * 2], rtol=1e-5
  )


@pytest.mark.parametrize("score_norm", [False, True])
def test_equal_keys_choose_the_first_value_and_teach_no_query(score_norm):
  codebooks = _normal(2, 2, 3)
  keys = np.repeat(_normal(2, 1, 3, seed=1), 2, axis=1)
  layer = _make(_normal(4, 6, seed=2), codebooks, keys, score_norm=score_norm)
  ids = jnp.arange(4)
  expected = np.tile(codebooks[:, 0].ravel(), (4, 1))
  np.testing.assert_array_equal(call(layer, ids), expected)
  task, _ = gradients(layer, ids, jnp.asarray(_normal(4, 6, seed=3)))
  np.testing.assert_allclose(task["queries"], 0, atol=1e-6)
  assert np.any(task["keys"])


def test_queries_at_the_entries_are_stored_exactly():
  codebooks = _normal(3, 4, 2)
  digits = np.random.default_rng(1).integers(0, 4, (9, 3))
  queries = np.stack([codebooks[j, digits[:, j]] for j in range(3)], axis=1)
  layer = _make(queries.reshape(9, 6), codebooks)
  np.testing.assert_array_equal(codes(layer), digits)
  ids, expected = jnp.arange(9), queries.reshape(9, 6)
  np.testing.assert_array_equal(call(layer, ids), expected)
  np.testing.assert_array_equal(layer.to_table().to_dense(), expected)
  loss = call(layer, ids, "auxiliary_loss")
  np.testing.assert_allclose(loss, 0, atol=1e-12)


def test_an_id_outside_does_not_count_for_the_loss():
  layer = _make(_normal(7, 6), _normal(3, 4, 2, seed=1), score_norm=True)
  padded, plain = (
    call(layer, ids, "auxiliary_loss") for ids in ([1, 7, 2, -1], [1, 2])
  )
  np.testing.assert_allclose(padded, plain, rtol=1e-6)


def test_bytes_of_the_file_are_those_of_the_paper():
  # 16 values at 50 positions for 10,000 symbols of 1,500 features, shared:
  # 251,920 bytes, 238.17 times smaller.
  zeros = np.zeros((1, 16, 30))
  layer = _make(np.zeros((100, 1500)), zeros, zeros, shared_codebook=True)
  table = layer.to_table()
  assert table.bits_per_row == 200
  assert table.nbytes + 9_900 * 25 == 251_920


def test_numbers_besides_the_rows_are_those_of_the_paper():
  # Keys and values of 128 x 650, and two moments of each of 128 entries.
  def make():
    return nn.DPQEmbed(
      1, 650, code_length=50, codebook_size=128, rngs=nnx.Rngs(0)
    )

  shared = nnx.state(nnx.eval_shape(make), nnx.Not(nn.is_row))
  assert sum(leaf.size for leaf in jax.tree.leaves(shared)) == 166_656
