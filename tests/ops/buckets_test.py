"""Tests of buckets that are found from the id alone, against slow loops."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.test_util import check_grads

from anchor_codes import nn
from anchor_codes.ops import buckets

NUM_EMBEDDINGS, FEATURES, NUM_BUCKETS = 23, 4, 5
BATCHES = [(), (2, 3), (0,)]
MASK = 2**32 - 1

OPTIONS = ("num_embeddings", "composition", "seed")
hash_lookup = jax.jit(buckets.hash_lookup, static_argnames=OPTIONS[::2])
hash_attend = jax.jit(buckets.hash_attend, static_argnames=OPTIONS[::2])
qr_lookup = jax.jit(buckets.qr_lookup, static_argnames=OPTIONS[:2])
qr_attend = jax.jit(buckets.qr_attend, static_argnames=OPTIONS[:2])


def _normal(*shape, seed=0):
  values = np.random.default_rng(seed).normal(size=shape)
  return jnp.asarray(values, jnp.float32)


BUCKETS = _normal(3, NUM_BUCKETS, FEATURES)
QUOTIENTS = _normal(5, FEATURES, seed=1)  # 5 x 5 pairs for 23 symbols.
REMAINDERS = _normal(NUM_BUCKETS, FEATURES, seed=2)


def _mix(word):
  """The 32-bit finaliser of MurmurHash3, on a Python integer."""
  word = ((word ^ word >> 16) * 0x85EBCA6B) & MASK
  word = ((word ^ word >> 13) * 0xC2B2AE35) & MASK
  return word ^ word >> 16


def _reference_hash(i, num_buckets, seed):
  low, high = i & MASK, i >> 32
  key = _mix((seed + 0x9E3779B9) & MASK)
  return _mix(low ^ _mix(high ^ key)) % num_buckets


def _reference_hash_table(seed):
  table = np.zeros((NUM_EMBEDDINGS, FEATURES))
  for i, h in np.ndindex(NUM_EMBEDDINGS, len(BUCKETS)):
    table[i] += BUCKETS[h, _reference_hash(i, NUM_BUCKETS, seed + h)]
  return table


def _reference_qr_table(composition):
  table = np.zeros((NUM_EMBEDDINGS, FEATURES))
  for i in range(NUM_EMBEDDINGS):
    left, right = QUOTIENTS[i // NUM_BUCKETS], REMAINDERS[i % NUM_BUCKETS]
    table[i] = left * right if composition == "product" else left + right
  return table


def _hash(seed):
  options = {"num_embeddings": NUM_EMBEDDINGS, "seed": seed}
  return (
    lambda ids: hash_lookup(BUCKETS, ids, **options),
    lambda query: hash_attend(BUCKETS, query, **options),
    _reference_hash_table(seed),
  )


def _qr(composition):
  options = {"num_embeddings": NUM_EMBEDDINGS, "composition": composition}
  return (
    lambda ids: qr_lookup(QUOTIENTS, REMAINDERS, ids, **options),
    lambda query: qr_attend(QUOTIENTS, REMAINDERS, query, **options),
    _reference_qr_table(composition),
  )


KINDS = {
  "hash": _hash(0),
  "hash_seed": _hash(41),
  "product": _qr("product"),
  "sum": _qr("sum"),
}


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("kind", KINDS)
def test_lookups_and_scores_agree_with_a_loop(kind, batch):
  lookup, attend, table = KINDS[kind]
  ids = np.random.default_rng(3).integers(0, NUM_EMBEDDINGS, batch)
  vectors = lookup(jnp.asarray(ids, jnp.int32))
  assert vectors.shape == (*batch, FEATURES)
  np.testing.assert_allclose(vectors, table[ids], rtol=1e-5, atol=1e-6)
  query = _normal(*batch, FEATURES, seed=4)
  scores = attend(query)
  assert scores.shape == (*batch, NUM_EMBEDDINGS)
  np.testing.assert_allclose(scores, query @ table.T, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_attend_is_the_lookup_of_all_times_the_query(kind):
  lookup, attend, _ = KINDS[kind]
  query = _normal(2, 3, FEATURES, seed=4)
  expected = query @ lookup(jnp.arange(NUM_EMBEDDINGS)).T
  np.testing.assert_allclose(attend(query), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [NUM_EMBEDDINGS, 24, 2**31 - 1, -1, -(2**31)])
def test_ids_outside_give_nan(kind, bad):
  lookup, _, table = KINDS[kind]
  vectors = lookup(jnp.array([bad, 22]))
  assert np.isnan(vectors[0]).all()
  np.testing.assert_allclose(vectors[1], table[22], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [jnp.uint8, jnp.int8, jnp.int16])
def test_ids_of_any_integer_type(kind, dtype):
  lookup, _, _ = KINDS[kind]
  ids = jnp.array([22, 0, 100])
  np.testing.assert_array_equal(lookup(ids.astype(dtype)), lookup(ids))


def test_ids_of_numpy_keep_all_their_bits():
  ids = np.array([2**40, 2**32 + 3, 3])
  hashed = buckets.hash_lookup(BUCKETS, ids, num_embeddings=NUM_EMBEDDINGS)
  split = buckets.qr_lookup(
    QUOTIENTS, REMAINDERS, ids, num_embeddings=NUM_EMBEDDINGS
  )
  for vectors in (hashed, split):
    assert np.isnan(vectors[:, 0]).tolist() == [True, True, False]


@pytest.mark.parametrize("kind", KINDS)
def test_ids_that_are_not_integers_are_refused(kind):
  lookup, _, _ = KINDS[kind]
  with pytest.raises(ValueError, match="ids must be integers, got float32"):
    lookup(jnp.ones(3))


@pytest.mark.parametrize("kind", KINDS)
def test_one_trace_for_repeated_calls(kind):
  lookup, attend, _ = KINDS[kind]
  chex.clear_trace_counter()
  for function, argument in (
    (lookup, jnp.arange(3)),
    (attend, _normal(3, FEATURES)),
  ):
    jitted = jax.jit(chex.assert_max_traces(function, n=1))
    for _ in range(3):
      jitted(argument)


def test_gradients():
  ids = jnp.array([[3, 3], [0, 22]])
  query = _normal(2, FEATURES, seed=4)
  size = {"num_embeddings": NUM_EMBEDDINGS}

  @jax.jit
  def everything(buckets_, quotients, remainders, query):
    product = {"composition": "product", **size}
    return (
      buckets.hash_lookup(buckets_, ids, **size),
      buckets.hash_attend(buckets_, query, **size),
      buckets.qr_lookup(quotients, remainders, ids, **product),
      buckets.qr_attend(quotients, remainders, query, **product),
      buckets.qr_lookup(quotients, remainders, ids, **size, composition="sum"),
    )

  arguments = (BUCKETS, QUOTIENTS, REMAINDERS, query)
  check_grads(
    everything, arguments, order=1, modes=["rev"], atol=2e-2, rtol=2e-2
  )


@pytest.mark.parametrize("kind", ["hash", "product", "sum"])
def test_types_do_not_have_to_agree(kind):
  _, attend, table = KINDS[kind]
  query = _normal(2, FEATURES, seed=4).astype(jnp.bfloat16)
  scores = attend(query)
  assert scores.dtype == jnp.bfloat16
  expected = np.asarray(query, np.float32) @ table.T
  error = np.abs(np.asarray(scores, np.float32) - expected)
  assert error.max() < 0.03 * np.abs(expected).max()
  narrow = BUCKETS.astype(jnp.bfloat16)
  ids = jnp.array([1, -1])
  vectors = hash_lookup(narrow, ids, num_embeddings=NUM_EMBEDDINGS)
  assert vectors.dtype == jnp.bfloat16


def test_symbols_share_parts_but_no_whole_vector():
  for composition in ("product", "sum"):
    lookup, _, _ = KINDS[composition]
    table = np.asarray(lookup(jnp.arange(NUM_EMBEDDINGS)))
    assert len(np.unique(table, axis=0)) == NUM_EMBEDDINGS


@pytest.mark.parametrize(
  ("num_embeddings", "num_quotients"), [(1, 1), (5, 1), (6, 2), (25, 5)]
)
def test_every_number_of_symbols_has_its_pairs(num_embeddings, num_quotients):
  options = {"num_embeddings": num_embeddings, "composition": "sum"}
  quotients = QUOTIENTS[:num_quotients]
  vectors = qr_lookup(
    quotients, REMAINDERS, jnp.arange(num_embeddings), **options
  )
  assert not np.isnan(vectors).any()
  scores = qr_attend(quotients, REMAINDERS, jnp.ones(FEATURES), **options)
  np.testing.assert_allclose(scores, vectors.sum(axis=-1), rtol=1e-4, atol=1e-5)


def test_too_few_quotients_are_refused():
  options = {"num_embeddings": 26, "composition": "sum"}
  with pytest.raises(AssertionError, match="6"):
    qr_lookup(QUOTIENTS, REMAINDERS, jnp.array([0]), **options)
  with pytest.raises(AssertionError, match="6"):
    qr_attend(QUOTIENTS, REMAINDERS, jnp.ones(FEATURES), **options)


def test_shapes_that_do_not_fit_are_refused():
  ids, size = jnp.array([0]), {"num_embeddings": NUM_EMBEDDINGS}
  with pytest.raises(AssertionError, match="shape"):
    buckets.qr_lookup(QUOTIENTS, REMAINDERS[:, 1:], ids, **size)
  with pytest.raises(AssertionError, match="rank"):
    buckets.hash_lookup(BUCKETS[0], ids, **size)
  with pytest.raises(AssertionError, match="rank"):
    buckets.hash_attend(BUCKETS[0], jnp.ones(FEATURES), **size)


def test_unknown_compositions_are_refused():
  text = "`composition` must be one of 'sum', 'product', got 'mean'"
  options = {"num_embeddings": NUM_EMBEDDINGS, "composition": "mean"}
  with pytest.raises(ValueError, match=text):
    buckets.qr_lookup(QUOTIENTS, REMAINDERS, jnp.array([0]), **options)
  with pytest.raises(ValueError, match=text):
    buckets.qr_attend(QUOTIENTS, REMAINDERS, jnp.ones(FEATURES), **options)
  with pytest.raises(ValueError, match=text):
    buckets.qr_scale("mean", 0.1)


@pytest.mark.parametrize("seed", [-1, 2**32 - 2, 0.5])
def test_seeds_out_of_range_are_refused(seed):
  with pytest.raises(ValueError, match="`seed` must be"):
    buckets.hash_lookup(
      BUCKETS, jnp.array([0]), num_embeddings=NUM_EMBEDDINGS, seed=seed
    )


@pytest.mark.parametrize("composition", ["product", "sum"])
@pytest.mark.parametrize("scale", [0.01, 2.0])
def test_qr_scale_keeps_its_promise(composition, scale):
  std = buckets.qr_scale(composition, scale)
  quotients, remainders = _normal(200, 50), _normal(200, 50, seed=1)
  table = qr_lookup(
    std * quotients,
    std * remainders,
    jnp.arange(40_000),
    num_embeddings=40_000,
    composition=composition,
  )
  np.testing.assert_allclose(np.std(table), scale, rtol=0.05)


def test_the_table_of_a_layer_hashes_as_the_layer_does():
  layer = nn.HashEmbed(
    100, 8, num_buckets=7, num_hashes=3, seed=3, rngs=nnx.Rngs(0)
  )
  table, ids = layer.to_table(), np.arange(100)
  np.testing.assert_allclose(table.lookup(ids), layer(ids), rtol=1e-6)
  np.testing.assert_allclose(
    table.attend(np.ones(8, np.float32)),
    layer.attend(jnp.ones(8)),
    rtol=1e-4,
    atol=1e-5,
  )


def test_ids_of_a_space_that_32_bits_do_not_hold_are_inside_of_it():
  ids = np.array([5, 2**33 + 5, 2**40, -1])
  for vectors in (
    buckets.hash_lookup(jnp.ones((2, 10, 1)), ids, num_embeddings=2**40),
    buckets.qr_lookup(
      jnp.ones((2**20, 1)), jnp.ones((2**20, 1)), ids, num_embeddings=2**40
    ),
  ):
    np.testing.assert_array_equal(
      np.isnan(vectors[:, 0]), [False, False, True, True]
    )
