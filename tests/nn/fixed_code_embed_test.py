"""Tests of given codes; the laws of all layers are in conformance_test.py."""

import jax
import jax.numpy as jnp
import layers
import numpy as np
import pytest
from flax import nnx

from anchor_codes import linen, nn, tables

CODES = np.array([[0, 3], [1, 1], [0, 3], [2, 0]])
OPTIONS = {"code_length": 2, "codebook_size": 4}


def _make(num_embeddings=4, **options):
  options = {**OPTIONS, "rngs": nnx.Rngs(layers.QUICK_KEY), **options}
  return nn.FixedCodeEmbed(num_embeddings, 6, **options)


def test_given_codes_choose_the_vectors():
  layer = _make(given_codes=CODES)
  assert layer.codes().dtype == np.uint8
  np.testing.assert_array_equal(layer.codes(), CODES)
  books = np.asarray(layer.codebooks[...])
  expected = books[0, CODES[:, 0]] + books[1, CODES[:, 1]]
  np.testing.assert_allclose(layer(np.arange(4)), expected, rtol=1e-6)
  table = layer.to_table()
  assert isinstance(table, tables.CodeTable)
  np.testing.assert_array_equal(table.codes, CODES)


def test_codes_are_drawn_by_the_stream_of_the_start():
  first, second, other = (
    _make(50, rngs=nnx.Rngs(params=seed)).codes() for seed in (0, 0, 1)
  )
  np.testing.assert_array_equal(first, second)
  assert np.any(np.asarray(first) != np.asarray(other))


@pytest.mark.parametrize(
  ("options", "text"),
  [
    ({"given_codes": CODES / 2}, "`given_codes` must be integers, got float"),
    (
      {"given_codes": CODES[:3]},
      r"`given_codes` must have shape \(4, 2\), got",
    ),
    (
      {"given_codes": CODES + 1},
      r"must lie in \[0, 4\), got 4 at position \(0",
    ),
    ({"given_codes": -CODES}, r"must lie in \[0, 4\), got -3 at position"),
  ],
)
def test_bad_codes_are_refused(options, text):
  with pytest.raises(ValueError, match=text):
    _make(**options)
  twin = linen.FixedCodeEmbed(4, 6, **OPTIONS, **options)
  with pytest.raises(ValueError, match=text):
    twin.init(jax.random.key(0), 1)


def test_the_twin_takes_codes_and_can_be_compiled():
  twin = linen.FixedCodeEmbed(4, 6, **OPTIONS, given_codes=CODES)
  variables = jax.jit(twin.init)(layers.QUICK_KEY, np.arange(4))
  np.testing.assert_array_equal(variables["codes"]["digits"], CODES)
  vectors = jax.jit(twin.apply)(variables, np.arange(4))
  np.testing.assert_array_equal(vectors[0], vectors[2])
  found = twin.apply(variables, method="codes")
  np.testing.assert_array_equal(found, CODES)


def test_there_is_nothing_to_train_by_row():
  layer = _make()
  assert not jax.tree.leaves(nnx.state(layer, nn.is_row))
  names = list(nnx.to_pure_dict(nnx.state(layer, nnx.Param)))
  assert names == ["codebooks"]
  with pytest.raises(ValueError, match="FixedCodeEmbed has no rows to select"):
    layer.select(jnp.array([1]))


def test_clusters_take_the_place_of_half_the_digits():
  layer = _make(300, code_length=4, codebook_size=8)
  before = np.asarray(layer(np.arange(300)))
  change = layer.recluster(jax.random.key(0))
  after = np.asarray(layer(np.arange(300)))
  np.testing.assert_allclose(change, np.mean((after - before) ** 2), rtol=1e-4)
  assert 0 < change < np.var(before)
  assert not np.any(layer.codebooks[...][2:])
  assert layer.codes().dtype == np.uint8


@pytest.mark.parametrize(
  ("options", "text"),
  [
    ({"composition": "concat"}, "`composition` must be 'sum' to cluster"),
    ({"code_length": 1}, "`code_length` must be at least 2, got 1"),
    ({"shared_codebook": True}, "`shared_codebook` must be False to cluster"),
  ],
)
def test_what_cannot_be_clustered(options, text):
  with pytest.raises(ValueError, match=text):
    _make(**options).recluster(jax.random.key(0))
