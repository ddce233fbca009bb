import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from hypothesis import given
from hypothesis import strategies as st

from anchor_codes import bits
from anchor_codes.accounting import code_row_bits

SIZES = (2, 3, 8, 16, 31, 32, 128, 129, 256, 257, 1000, 65535, 65536)
LENGTHS = (1, 7, 25, 32, 50)


def digits(codebook_size, *shape, seed=0):
  codes = np.random.default_rng(seed).integers(0, codebook_size, shape)
  codes.reshape(-1)[:1] = codebook_size - 1  # The extreme is always there.
  return codes


def reference_pack(code, num_bits):
  """Packs one code as one long integer, the first digit lowest."""
  value = sum(int(digit) << i * num_bits for i, digit in enumerate(code))
  return value.to_bytes(-(-len(code) * num_bits // 8), "little")


class PackTest(parameterized.TestCase):
  @parameterized.product(codebook_size=SIZES, code_length=LENGTHS)
  def test_is_one_long_integer(self, codebook_size, code_length):
    codes = digits(codebook_size, 5, code_length)
    packed = bits.pack_codes(codes, codebook_size=codebook_size)
    self.assertEqual(packed.dtype, np.uint8)
    num_bits = int(np.ceil(np.log2(codebook_size)))
    for code, row in zip(codes, packed, strict=True):
      self.assertEqual(row.tobytes(), reference_pack(code, num_bits))

  @parameterized.product(codebook_size=SIZES, code_length=LENGTHS)
  def test_unpack_is_the_inverse(self, codebook_size, code_length):
    codes = digits(codebook_size, 2, 3, code_length)
    packed = bits.pack_codes(codes, codebook_size=codebook_size)
    self.assertEqual(
      8 * packed.shape[-1], code_row_bits(code_length, codebook_size)
    )
    unpacked = bits.unpack_codes(
      packed, code_length=code_length, codebook_size=codebook_size
    )
    smallest = np.uint8 if codebook_size <= 256 else np.uint16
    self.assertEqual(unpacked.dtype, smallest)
    np.testing.assert_array_equal(unpacked, codes)

  @parameterized.parameters(
    *((jax.jit, size, 7) for size in SIZES),
    *((lambda f: f, size, 32) for size in (2, 32, 257)),
  )
  def test_jax_gives_the_same_bytes(self, wrap, codebook_size, code_length):
    codes = digits(codebook_size, 2, 3, code_length)

    def pack(codes):
      return bits.pack_codes(codes, codebook_size=codebook_size)

    def unpack(packed):
      return bits.unpack_codes(
        packed, code_length=code_length, codebook_size=codebook_size
      )

    packed = wrap(pack)(jnp.asarray(codes))
    self.assertIsInstance(packed, jax.Array)
    self.assertEqual(packed.dtype, jnp.uint8)
    np.testing.assert_array_equal(packed, pack(codes))
    unpacked = wrap(unpack)(packed)
    self.assertEqual(unpacked.dtype, unpack(pack(codes)).dtype)
    np.testing.assert_array_equal(unpacked, codes)

  def test_a_code_of_32_digits_of_32_takes_20_bytes(self):
    packed = bits.pack_codes(digits(32, 100, 32), codebook_size=32)
    self.assertEqual(packed.shape, (100, 20))

  @parameterized.parameters((), (0,), (2, 0), (4,), (2, 3))
  def test_takes_any_batch(self, *shape):
    codes = digits(31, *shape, 7)
    packed = bits.pack_codes(codes, codebook_size=31)
    self.assertEqual(packed.shape, (*shape, 5))
    unpacked = bits.unpack_codes(packed, code_length=7, codebook_size=31)
    np.testing.assert_array_equal(unpacked, codes)

  @parameterized.parameters(
    np.int8, np.uint8, np.int16, np.uint16, np.int32, np.int64, np.uint64
  )
  def test_takes_any_integer_type(self, dtype):
    codes = digits(100, 4, 9)
    np.testing.assert_array_equal(
      bits.pack_codes(codes.astype(dtype), codebook_size=100),
      bits.pack_codes(codes, codebook_size=100),
    )

  @parameterized.parameters(2, 3, 32, 100, 256, 1000, 65536)
  def test_digits_of_jax_count_modulo_the_bits(self, codebook_size):
    # Their values are not looked at: a wrong one must not reach the next digit.
    codes = digits(2**20, 4, 9)
    num_bits = (codebook_size - 1).bit_length()
    np.testing.assert_array_equal(
      bits.pack_codes(jnp.asarray(codes), codebook_size=codebook_size),
      bits.pack_codes(codes % 2**num_bits, codebook_size=2**num_bits),
    )

  def test_takes_lists(self):
    packed = bits.pack_codes([[1, 0, 1]], codebook_size=2)
    np.testing.assert_array_equal(packed, [[5]])

  def test_traces_once(self):
    @jax.jit
    @chex.assert_max_traces(n=1)
    def round_trip(codes):
      packed = bits.pack_codes(codes, codebook_size=31)
      return bits.unpack_codes(packed, code_length=7, codebook_size=31)

    for seed in range(3):
      codes = digits(31, 4, 7, seed=seed)
      np.testing.assert_array_equal(round_trip(jnp.asarray(codes)), codes)
    chex.clear_trace_counter()

  def test_vmap_is_a_loop(self):
    codes = jnp.asarray(digits(31, 4, 7))
    packed = jax.vmap(lambda c: bits.pack_codes(c, codebook_size=31))(codes)
    np.testing.assert_array_equal(
      packed, bits.pack_codes(codes, codebook_size=31)
    )

  @parameterized.parameters((32, 32), (-1, 32), (300, 256), (2, 2), (9**9, 31))
  def test_digits_out_of_range_are_named(self, digit, codebook_size):
    codes = np.zeros((2, 3), np.int64)
    codes[1, 2] = digit
    text = (
      rf"digit {digit} at position \(1, 2\) .* codebook_size {codebook_size}"
    )
    with self.assertRaisesRegex(ValueError, text):
      bits.pack_codes(codes, codebook_size=codebook_size)

  def test_jax_keeps_bad_digits_in_their_place(self):
    good = bits.pack_codes(np.array([1, 7, 3]), codebook_size=32)
    bad = bits.pack_codes(jnp.array([1, 32 + 7, 3]), codebook_size=32)
    np.testing.assert_array_equal(good, bad)

  def test_codes_that_are_no_integers_are_refused(self):
    for codes in (np.zeros((2, 3)), jnp.zeros((2, 3)), np.zeros(3, bool), 3):
      with self.assertRaisesRegex(ValueError, "`codes` must be integers"):
        bits.pack_codes(codes, codebook_size=4)

  def test_codes_without_digits_are_refused(self):
    with self.assertRaisesRegex(ValueError, "`code_length` must be at least 1"):
      bits.pack_codes(np.zeros((2, 0), int), codebook_size=4)

  @parameterized.parameters(1, 0, 65537, 2.0)
  def test_sizes_out_of_range_are_refused(self, codebook_size):
    with self.assertRaisesRegex(ValueError, "`codebook_size` must be"):
      bits.pack_codes(np.zeros((2, 3), int), codebook_size=codebook_size)

  @parameterized.parameters(1, 3)
  def test_packed_codes_of_the_wrong_width_are_refused(self, width):
    text = rf"must be 2 bytes wide for code_length 3 and .* 32, got .*{width}\)"
    for xp in (np, jnp):
      packed = xp.zeros((4, width), xp.uint8)
      with self.assertRaisesRegex(ValueError, text):
        bits.unpack_codes(packed, code_length=3, codebook_size=32)

  def test_packed_codes_must_be_bytes(self):
    with self.assertRaisesRegex(ValueError, "must be uint8, got int64"):
      bits.unpack_codes(np.zeros((4, 2), int), code_length=3, codebook_size=32)


@given(
  codebook_size=st.integers(2, 65536),
  code_length=st.integers(1, 60),
  seed=st.integers(0, 99),
)
def test_any_size_and_length_survive(codebook_size, code_length, seed):
  codes = digits(codebook_size, 3, code_length, seed=seed)
  packed = bits.pack_codes(codes, codebook_size=codebook_size)
  num_bits = (codebook_size - 1).bit_length()
  assert packed[0].tobytes() == reference_pack(codes[0], num_bits)
  unpacked = bits.unpack_codes(
    packed, code_length=code_length, codebook_size=codebook_size
  )
  np.testing.assert_array_equal(unpacked, codes)


def reference_hash(i, num_buckets, seed):
  """The definition, in Python's integers."""

  def mix(h):
    h = (h ^ h >> 16) * 0x85EBCA6B % 2**32
    h = (h ^ h >> 13) * 0xC2B2AE35 % 2**32
    return h ^ h >> 16

  key = mix(mix((seed + 0x9E3779B9) % 2**32) ^ i >> 32)
  return mix(i % 2**32 ^ key) % num_buckets


class HashTest(parameterized.TestCase):
  @parameterized.product(
    wrap=(lambda f: f, jax.jit),
    seed=(0, 2**32 - 1),
    num_buckets=(1, 7, 2**31),
  )
  def test_numpy_and_jax_follow_the_definition(self, wrap, seed, num_buckets):
    ids = np.array([0, 1, 2, 1000, 2**31 - 1], np.int32)

    def buckets_of(ids):
      return bits.hash_ids(ids, num_buckets=num_buckets, seed=seed)

    expected = [reference_hash(int(i), num_buckets, seed) for i in ids]
    np.testing.assert_array_equal(buckets_of(ids), expected)
    jax_buckets = wrap(buckets_of)(jnp.asarray(ids))
    np.testing.assert_array_equal(jax_buckets, expected)
    self.assertEqual(buckets_of(ids).dtype, np.int32)
    self.assertEqual(jax_buckets.dtype, jnp.int32)

  @parameterized.parameters(np.int64, np.uint64)
  def test_wide_ids_use_both_words(self, dtype):
    ids = np.array([5, 5 + 2**32, 5 + 2**33, 2**63 - 1], dtype)
    buckets = bits.hash_ids(ids, num_buckets=2**31, seed=3)
    expected = [reference_hash(int(i), 2**31, 3) for i in ids]
    np.testing.assert_array_equal(buckets, expected)
    self.assertLen(set(buckets.tolist()), 4)

  @parameterized.parameters(
    np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.uint64
  )
  def test_the_type_of_an_id_does_not_matter(self, dtype):
    ids = np.arange(100)
    np.testing.assert_array_equal(
      bits.hash_ids(ids.astype(dtype), num_buckets=50, seed=1),
      bits.hash_ids(ids, num_buckets=50, seed=1),
    )

  @parameterized.parameters((), (0,), (4,), (2, 3), (2, 0))
  def test_keeps_the_shape(self, *shape):
    ids = np.arange(int(np.prod(shape))).reshape(shape)
    for array in (ids, jnp.asarray(ids)):
      buckets = bits.hash_ids(array, num_buckets=9, seed=0)
      self.assertEqual(buckets.shape, shape)

  @parameterized.product(
    num_buckets=(64, 100, 1024), stride=(1, 2, 64, 1 << 16)
  )
  def test_buckets_fill_evenly(self, num_buckets, stride):
    ids = np.arange(100 * num_buckets) * stride
    counts = np.bincount(
      bits.hash_ids(ids, num_buckets=num_buckets, seed=0),
      minlength=num_buckets,
    )
    # Chi squared over its degrees of freedom is one, give or take.
    chi_squared = np.sum((counts - 100) ** 2 / 100) / (num_buckets - 1)
    self.assertBetween(chi_squared, 0.5, 1.6)

  def test_two_seeds_are_two_hashes(self):
    ids, n = np.arange(64 * 64 * 20), 64
    first, second = (
      bits.hash_ids(ids, num_buckets=n, seed=seed) for seed in (0, 1)
    )
    counts = np.bincount(first * n + second, minlength=n * n)
    chi_squared = np.sum((counts - 20) ** 2 / 20) / (n * n - 1)
    self.assertBetween(chi_squared, 0.9, 1.1)

  def test_traces_once(self):
    @jax.jit
    @chex.assert_max_traces(n=1)
    def buckets_of(ids):
      return bits.hash_ids(ids, num_buckets=10, seed=0)

    for start in range(3):
      buckets_of(jnp.arange(5) + start)
    chex.clear_trace_counter()

  @parameterized.parameters(
    (0, 0, "`num_buckets` must be at least 1, got 0"),
    (2**31 + 1, 0, "`num_buckets` must be at most 2147483648"),
    (1.5, 0, "`num_buckets` must be an integer, got 1.5"),
    (9, -1, "`seed` must be at least 0, got -1"),
    (9, 2**32, "`seed` must be at most 4294967295, got 4294967296"),
  )
  def test_options_out_of_range_are_refused(self, num_buckets, seed, text):
    with self.assertRaisesRegex(ValueError, text):
      bits.hash_ids(np.arange(3), num_buckets=num_buckets, seed=seed)

  def test_ids_that_are_no_integers_are_refused(self):
    for ids in (np.zeros(3), jnp.zeros(3), np.zeros(3, bool)):
      with self.assertRaisesRegex(ValueError, "ids must be integers, got"):
        bits.hash_ids(ids, num_buckets=9, seed=0)


@pytest.mark.parametrize(
  ("seed", "golden"),
  [
    (0, [14304, 23267, 26480, 18250]),
    (1, [27742, 45140, 47704, 70307]),
    (2, [60727, 17706, 57595, 97040]),
  ],
)
def test_buckets_stay_the_same_between_versions(seed, golden):
  """A file names a seed only: another hash would scramble its table."""
  ids = np.array([0, 1, 2, 2**40])
  buckets = bits.hash_ids(ids, num_buckets=100_000, seed=seed)
  np.testing.assert_array_equal(buckets, golden)


if __name__ == "__main__":
  absltest.main()
