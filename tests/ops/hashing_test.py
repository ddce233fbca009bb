"""Tests of hashing."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchor_codes import bits
from anchor_codes.ops import hashing


@pytest.mark.parametrize("shape", [(), (4,), (2, 3), (0,)])
def test_buckets_have_an_axis_of_hashes(shape):
  ids = jnp.ones(shape, jnp.int32)
  buckets = hashing.hash_buckets(ids, num_buckets=10, num_hashes=3, seed=5)
  assert buckets.shape == (*shape, 3)
  assert buckets.dtype == jnp.int32


def test_buckets_are_even_and_independent():
  ids = jnp.arange(100_000)
  buckets = hashing.hash_buckets(ids, num_buckets=8, num_hashes=3, seed=1)
  for first, second in itertools.combinations(range(3), 2):
    joint = jnp.bincount(buckets[:, first] * 8 + buckets[:, second], length=64)
    np.testing.assert_allclose(joint / len(ids), 1 / 64, atol=0.003)


def test_functions_are_numbered_from_the_seed():
  ids = jnp.arange(1000)
  first, second = (
    hashing.hash_buckets(ids, num_buckets=1000, num_hashes=3, seed=seed)
    for seed in (0, 3)
  )
  for h, other in itertools.product(range(3), range(3)):
    assert float(jnp.mean(first[:, h] == second[:, other])) < 0.02
  overlapping = hashing.hash_buckets(
    ids, num_buckets=1000, num_hashes=3, seed=2
  )
  np.testing.assert_array_equal(overlapping[:, 1:], second[:, :2])


def test_jit_and_numpy_agree():
  ids = np.arange(50)

  @jax.jit
  def hashes(ids):
    return hashing.hash_buckets(ids, num_buckets=7, num_hashes=2, seed=3)

  expected = [bits.hash_ids(ids, num_buckets=7, seed=s) for s in (3, 4)]
  np.testing.assert_array_equal(
    hashes(jnp.asarray(ids)), np.stack(expected, axis=-1)
  )


@pytest.mark.parametrize(
  ("option", "value"),
  [("num_hashes", 0), ("num_buckets", 0), ("seed", -1), ("seed", 0.5)],
)
def test_options_are_checked(option, value):
  options = {"num_buckets": 4, "num_hashes": 2, "seed": 0} | {option: value}
  with pytest.raises(ValueError, match=f"`{option}` must be"):
    hashing.hash_buckets(jnp.arange(3), **options)


@given(st.integers(0, 2**31 - 1), st.integers(1, 2**31 - 1))
def test_quotient_and_remainder_name_one_id(i, divisor):
  quotient, remainder = hashing.quotient_remainder(
    jnp.array([i]), divisor=divisor
  )
  assert (int(quotient[0]), int(remainder[0])) == divmod(i, divisor)


def test_small_types_do_not_overflow():
  ids = jnp.array([255], jnp.uint8)
  quotient, remainder = hashing.quotient_remainder(ids, divisor=1000)
  assert (int(quotient[0]), int(remainder[0])) == (0, 255)


@pytest.mark.parametrize(
  "dtype", [np.int8, np.uint8, np.uint32, np.int64, np.uint64]
)
@pytest.mark.parametrize("xp", [np, jnp])
def test_any_integers_have_a_quotient(xp, dtype):
  if xp is jnp:
    dtype = jax.dtypes.canonicalize_dtype(dtype)
  ids = xp.asarray([9, 123], dtype)
  quotient, remainder = hashing.quotient_remainder(ids, divisor=10)
  np.testing.assert_array_equal(quotient, [0, 12])
  np.testing.assert_array_equal(remainder, [9, 3])


@pytest.mark.parametrize("dtype", [np.int64, np.uint64])
def test_wide_ids_of_the_host_are_not_cut(dtype):
  ids = np.array([2**33 + 5, 2**40], dtype)
  quotient, remainder = hashing.quotient_remainder(ids, divisor=100_000)
  np.testing.assert_array_equal(quotient, ids // 100_000)
  np.testing.assert_array_equal(remainder, ids % 100_000)


@pytest.mark.parametrize("divisor", [0, -2, 1.5])
def test_divisor_is_checked(divisor):
  with pytest.raises(ValueError, match="`divisor` must be"):
    hashing.quotient_remainder(jnp.arange(3), divisor=divisor)


def test_float_ids_are_refused():
  with pytest.raises(ValueError, match="ids must be integers"):
    hashing.quotient_remainder(jnp.ones(3), divisor=2)
  with pytest.raises(ValueError, match="ids must be integers"):
    hashing.hash_buckets(jnp.ones(3), num_buckets=2, num_hashes=1)
