"""Tests of bringing back codebook entries that no symbol chooses."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from anchor_codes.ops import normalization, quantization, revival
from anchor_codes.ops.entries import Entries

V, L, K, W = 600, 3, 16, 4


def _normal(*shape, seed=0):
  return np.random.default_rng(seed).standard_normal(shape, np.float32)


def _moments(size=K):
  return normalization.Moments(jnp.zeros(size), jnp.ones(size))


@functools.partial(jax.jit, static_argnums=2)
def _codes(queries, entries, relaxation):
  keys = entries.codebooks if entries.keys is None else entries.keys
  return quantization.query_codes(
    queries, keys, relaxation=relaxation, moments=entries.moments
  )


_usage = jax.jit(functools.partial(revival.code_usage, codebook_size=K))


def _share(codes, entries):
  books, size, _ = entries.codebooks.shape
  is_used = np.zeros((books, size), bool)
  is_used[np.arange(L) if books > 1 else 0, np.asarray(codes)] = True
  return 1 - is_used.mean()


@given(arrays(np.int32, (6, 2), elements=st.integers(-1, 4)))
def test_usage_counts_digits(codes):
  usage = revival.code_usage(jnp.asarray(codes), codebook_size=4)
  expected = [[np.sum(codes[:, j] == k) for k in range(4)] for j in range(2)]
  np.testing.assert_array_equal(usage, expected)
  share = revival.dead_share(usage)
  np.testing.assert_allclose(share, np.mean(np.array(expected) == 0))


def test_usage_is_weighted():
  codes = jnp.array([[0, 1], [2, 1], [2, 0]], jnp.uint8)
  usage = revival.code_usage(
    codes, codebook_size=3, weights=jnp.array([1.0, 5.0, 0.0])
  )
  np.testing.assert_array_equal(usage, [[1, 0, 5], [0, 6, 0]])


@pytest.mark.parametrize(
  ("relaxation", "tied", "books", "has_norm"),
  [
    # Whether values are tied changes them alone, not which keys move where.
    ("softmax", False, 1, False),
    ("softmax", False, L, True),
    ("nearest", False, 1, True),
    ("nearest", True, L, False),
  ],
)
def test_a_few_calls_revive_a_collapsed_table(
  relaxation, tied, books, has_norm
):
  # All keys are equal, and the first one takes it all.
  queries = jnp.asarray(0.5 + _normal(V, L * W))
  keys = jnp.asarray(np.full((books, K, W), 0.3, np.float32))
  values = keys if tied else jnp.asarray(_normal(books, K, W, seed=1))
  moments = _moments() if has_norm else None
  entries = Entries(values, None if tied else keys, moments)
  codes = _codes(queries, entries, relaxation)
  assert _share(codes, entries) == pytest.approx((K - 1) / K)
  for seed in range(4):
    if _share(codes, entries) < 0.01:
      break
    entries, num_revived = revival.revive_entries(
      jax.random.key(seed), queries, codes, entries, relaxation=relaxation
    )
    assert num_revived == (books * (K - 1) if seed == 0 else num_revived)
    codes = _codes(queries, entries, relaxation)
  assert _share(codes, entries) < 0.01


def test_values_hardly_change_what_is_embedded():
  queries = jnp.asarray(_normal(V, L * W))
  keys = np.full((L, K, W), 1e3, np.float32)
  keys[:, :2] = _normal(L, 2, W, seed=1)
  entries = Entries(jnp.asarray(_normal(L, K, W, seed=2)), jnp.asarray(keys))
  codes = _codes(queries, entries, "nearest")
  before = np.asarray(entries.codebooks)[np.arange(L), codes]
  entries, num_revived = revival.revive_entries(
    jax.random.key(0), queries, codes, entries, relaxation="nearest"
  )
  new_codes = _codes(queries, entries, "nearest")
  after = np.asarray(entries.codebooks)[np.arange(L), new_codes]
  assert num_revived == L * (K - 2)
  assert np.mean(np.asarray(new_codes) != np.asarray(codes)) > 0.5
  assert np.mean(np.all(before == after, axis=-1)) > 0.75


def test_nothing_happens_where_nothing_is_dead():
  queries = jnp.asarray(_normal(V, L * W))
  entries = Entries(jnp.asarray(_normal(1, K, W, seed=1)))
  codes = _codes(queries, entries, "nearest")
  assert _share(codes, entries) == 0
  revived = revival.revive_entries(
    jax.random.key(0), queries, codes, entries, relaxation="nearest"
  )
  assert revived.num_revived == 0
  np.testing.assert_array_equal(revived.entries.codebooks, entries.codebooks)


def test_entries_in_use_stay_and_moments_are_those_of_the_table():
  queries = jnp.asarray(_normal(V, L * W))
  books = _normal(L, K, W, seed=1)
  books[:, 5:] = 1e3
  entries = Entries(jnp.asarray(books), None, _moments())
  codes = _codes(queries, entries._replace(moments=None), "nearest")
  new, num_revived = revival.revive_entries(
    jax.random.key(0), queries, codes, entries, relaxation="nearest"
  )
  assert num_revived == L * (K - 5)
  moved = np.asarray(new.codebooks)
  np.testing.assert_array_equal(moved[:, :5], books[:, :5])
  assert np.abs(moved[:, 5:]).max() < 10
  expected = jax.jit(quantization.query_moments, static_argnames="relaxation")(
    queries, new.codebooks, relaxation="nearest"
  )
  np.testing.assert_allclose(new.moments, expected, rtol=1e-5)


def test_entries_keep_their_types():
  queries = jnp.asarray(_normal(50, L * W), jnp.bfloat16)
  entries = Entries(jnp.ones((L, 4, W), jnp.bfloat16), None, _moments(4))
  codes = jnp.zeros((50, L), jnp.uint8)
  new, _ = revival.revive_entries(
    jax.random.key(0), queries, codes, entries, relaxation="nearest"
  )
  assert new.codebooks.dtype == jnp.bfloat16
  assert new.moments.mean.dtype == jnp.float32


def test_an_unknown_relaxation_is_refused():
  with pytest.raises(ValueError, match="`relaxation` must be one of"):
    revival.revive_entries(
      jax.random.key(0),
      jnp.ones((2, 2)),
      jnp.zeros((2, 1), jnp.uint8),
      Entries(jnp.ones((1, 2, 2))),
      relaxation="gumbel",
    )


def _revive(queries, keys, codes, relaxation, *, has_norm=False, **options):
  """Returns the keys that have moved, and where, and how many they are."""
  size = keys.shape[1]
  entries = Entries(
    jnp.asarray(keys), None, _moments(size) if has_norm else None
  )
  new, num_revived = revival.revive_entries(
    jax.random.key(0),
    jnp.asarray(queries),
    jnp.asarray(codes),
    entries,
    relaxation=relaxation,
    **options,
  )
  moved = np.asarray(new.codebooks)
  where = (moved != keys).any(axis=-1)
  assert where.sum() == num_revived > 0
  return moved, where, new


def _directions(vectors):
  return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def test_keys_of_one_codebook_move_away_from_the_weighted_mean():
  queries = 0.5 + _normal(60, L * W)
  weights = np.random.default_rng(1).uniform(0, 2, 60).astype(np.float32)
  keys = np.asarray(_normal(1, K, W, seed=1))
  moved, where, new = _revive(
    queries,
    keys,
    np.zeros((60, L), np.uint8),
    "softmax",
    has_norm=True,
    weights=jnp.asarray(weights),
    noise=0.0,
  )
  parts = queries.reshape(60, L, W)
  mean = np.average(parts.mean(axis=1), axis=0, weights=weights)
  allowed = _directions(parts.reshape(-1, W) - mean)
  # Of 180 directions none is that close to a wrong one.
  cosines = _directions(moved[where]) @ allowed.T
  np.testing.assert_allclose(cosines.max(axis=1), 1, atol=1e-5)
  # As long as the key that the symbol leaves.
  lengths = np.linalg.norm(moved[where], axis=-1)
  np.testing.assert_allclose(lengths, np.linalg.norm(keys[0, 0]), rtol=1e-5)
  expected = quantization.query_moments(
    jnp.asarray(queries),
    new.codebooks,
    relaxation="softmax",
    weights=jnp.asarray(weights),
  )
  np.testing.assert_allclose(new.moments, expected, rtol=1e-4)


def test_keys_of_each_position_move_across_the_mean():
  queries, keys = 0.5 + _normal(60, L * W), _normal(L, K, W, seed=1)
  moved, where, _ = _revive(
    queries,
    keys,
    np.zeros((60, L), np.uint8),
    "softmax",
    has_norm=True,
    noise=0.0,
  )
  means = queries.reshape(60, L, W).mean(axis=0)
  across = np.einsum("jkw,jw->jk", moved, means)
  np.testing.assert_allclose(across[where], 0, atol=1e-5)
  # As long as the keys of this number are, at the root of the mean square.
  lengths = np.sqrt(np.square(keys).sum(axis=-1).mean(axis=0))
  expected = np.broadcast_to(lengths, (L, K))
  actual = np.linalg.norm(moved, axis=-1)
  np.testing.assert_allclose(actual[where], expected[where], rtol=1e-5)


@pytest.mark.parametrize("relaxation", ["softmax", "nearest"])
def test_noise_is_in_terms_of_the_parts(relaxation):
  queries, keys = _normal(60, L * W), _normal(L, K, W, seed=1)
  arguments = np.zeros((60, L), np.uint8), relaxation
  moved, _, _ = _revive(queries, keys, *arguments, noise=0.5)
  scaled, _, _ = _revive(4 * queries, 4 * keys, *arguments, noise=0.5)
  np.testing.assert_allclose(scaled, 4 * moved, rtol=1e-5)


def test_keys_that_are_not_normalised_win_their_symbol():
  queries, keys = _normal(60, L * W), _normal(L, K, W, seed=1)
  codes = np.zeros((60, L), np.uint8)
  moved, where, _ = _revive(queries, keys, codes, "softmax", noise=0.0)
  parts = queries.reshape(60, L, W)
  for j, k in np.argwhere(where):
    scores = parts[:, j] @ moved[j, k]
    symbol = np.argmax(_directions(parts[:, j]) @ moved[j, k])
    assert scores[symbol] > parts[symbol, j] @ keys[j, 0]
  # A little longer, or rounding could let the present key win.
  lengths = np.linalg.norm(moved, axis=-1) / np.linalg.norm(
    keys[:, :1], axis=-1
  )
  assert (lengths[where] > 1.01).all()
  assert (lengths[where] < 1.5).all()


def test_a_symbol_goes_to_one_entry_only():
  # Fewer symbols than dead entries: others stay dead.
  queries, keys = _normal(3, L * W), _normal(L, K, W, seed=1)
  codes = np.zeros((3, L), np.uint8)
  moved, where, _ = _revive(queries, keys, codes, "nearest", noise=0.0)
  np.testing.assert_array_equal(where.sum(axis=1), 3)
  parts = queries.reshape(3, L, W)
  for j in range(L):
    np.testing.assert_allclose(
      np.sort(moved[j][where[j]], axis=0), np.sort(parts[:, j], axis=0)
    )
  logits, num_revived = revival.revive_logits(
    jax.random.key(0), jnp.zeros((3, L, K)), jnp.asarray(codes)
  )
  assert num_revived == 3 * L
  np.testing.assert_array_equal((np.asarray(logits) > 0).sum(axis=-1), 1)


def test_symbols_leave_entries_of_more_than_their_share_only():
  # Of eight symbols two are the share of each of the four entries.
  codes = np.array([[0]] * 5 + [[1]] * 2 + [[2]], np.uint8)
  logits, num_revived = revival.revive_logits(
    jax.random.key(0), jnp.zeros((8, 1, 4)), jnp.asarray(codes), num_symbols=5
  )
  assert num_revived == 1
  raised = np.asarray(logits[:, 0, 3]) > 0
  np.testing.assert_array_equal(raised, codes[:, 0] == 0)


@pytest.mark.parametrize(("has_norm", "num_symbols"), [(True, 3), (False, 1)])
def test_raised_logits_are_chosen(has_norm, num_symbols):
  logits = _normal(V, L, K)
  logits[:, :, :2] += 9
  moments = None
  normalized = np.asarray
  if has_norm:
    moments = normalization.Moments(_normal(K, seed=1), _normal(K, seed=2) ** 2)
    normalized = lambda logits: (
      (np.asarray(logits) - moments.mean) / np.sqrt(moments.variance + 1e-3)
    )
  codes = np.argmax(normalized(logits), axis=-1).astype(np.uint8)
  usage = np.asarray(_usage(codes))
  num_dead = np.sum(usage == 0)
  assert num_dead > L
  run = jax.jit(revival.revive_logits, static_argnames="num_symbols")
  new, num_revived = run(
    jax.random.key(0), logits, codes, moments=moments, num_symbols=num_symbols
  )
  assert num_revived == num_dead
  scores = np.sort(normalized(new), axis=-1)
  new_codes = np.argmax(normalized(new), axis=-1).astype(np.uint8)
  after = np.asarray(_usage(new_codes))
  assert after.all()
  np.testing.assert_array_equal(after[usage == 0], num_symbols)
  # One number for each symbol that moves, and no other.
  assert np.sum(np.asarray(new) != logits) == num_dead * num_symbols
  margin = (scores[..., -1] - scores[..., -2])[new_codes != codes]
  np.testing.assert_allclose(margin, 0.1, rtol=1e-2)


def test_the_number_of_symbols_is_checked():
  arguments = jax.random.key(0), jnp.ones((2, 1, 2)), jnp.zeros((2, 1), int)
  with pytest.raises(ValueError, match="`num_symbols` must be at least 1"):
    revival.revive_logits(*arguments, num_symbols=0)


def test_counts_of_64_bits_weigh_as_they_are():
  queries = jnp.array([[0.0], [4.0], [8.0]])
  entries = Entries(
    jnp.array([[[2.0], [90.0]]]),
    moments=_moments(2),
  )

  def revive(weights):
    codes = jnp.zeros((3, 1), jnp.uint8)
    return revival.revive_entries(
      jax.random.key(0),
      queries,
      codes,
      entries,
      relaxation="nearest",
      weights=weights,
    )

  counts = np.array([2**33, 2**34, 0])
  expected = revive(jnp.array([1.0, 2.0, 0.0]))
  chex.assert_trees_all_close(revive(counts), expected, rtol=1e-5)
