"""Tests of codes."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from anchor_codes.ops import codes, compositions

COMPOSITIONS = ["sum", "concat", "linear"]
D, K, W, F = 4, 6, 3, 5


def _normal(seed, *shape):
  return jnp.asarray(reference.normal(seed, *shape))


def _options(composition, with_bias=True):
  projection = _normal(8, W, F) if composition == "linear" else None
  width = {"sum": W, "concat": D * W, "linear": F}[composition]
  bias = _normal(9, width) if with_bias else None
  return {"projection": projection, "bias": bias}


def _digits(*batch):
  digits = jax.random.randint(jax.random.key(7), (*batch, D), 0, K)
  return digits.astype(jnp.uint8)


def test_assign_takes_the_first_of_equals():
  logits = jnp.array([[1.0, 3.0, 3.0], [0.0, 0.0, 0.0]])
  np.testing.assert_array_equal(codes.assign_codes(logits), [1, 0])


@pytest.mark.parametrize(
  ("codebook_size", "dtype"),
  [(2, jnp.uint8), (256, jnp.uint8), (257, jnp.uint16), (65536, jnp.uint16)],
)
def test_assign_uses_the_smallest_type(codebook_size, dtype):
  logits = jnp.zeros((1, codebook_size)).at[0, -1].set(1)
  assigned = codes.assign_codes(logits)
  assert assigned.dtype == dtype
  assert int(assigned[0]) == codebook_size - 1


@pytest.mark.parametrize("codebook_size", [1, 65537])
def test_assign_refuses_sizes_that_make_no_code(codebook_size):
  with pytest.raises(ValueError, match="codebook_size"):
    codes.assign_codes(jnp.zeros((1, codebook_size)))


def test_assign_lets_nan_win():
  assert codes.assign_codes(jnp.array([[5.0, jnp.nan, 9.0]]))[0] == 1


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit])
@pytest.mark.parametrize("positions", [1, D])
@pytest.mark.parametrize("composition", COMPOSITIONS)
def test_decode_agrees_with_the_loop(composition, positions, wrap):
  codebooks, digits = _normal(0, positions, K, W), _digits(11)
  options = _options(composition)
  decode = wrap(lambda c, b: codes.decode_codes(c, b, composition, **options))
  np.testing.assert_allclose(
    decode(digits, codebooks),
    reference.decode(digits, codebooks, composition, **options),
    rtol=1e-4,
    atol=1e-5,
  )


@pytest.mark.parametrize("batch", [(), (2, 3), (0,)])
@pytest.mark.parametrize("composition", COMPOSITIONS)
def test_decode_of_any_batch_composes_the_lookup(composition, batch):
  codebooks, digits = _normal(0, D, K, W), _digits(*batch)
  options = _options(composition)
  vectors = codes.lookup_codes(digits, codebooks)
  chex.assert_shape(vectors, (*batch, D, W))
  np.testing.assert_allclose(
    codes.decode_codes(digits, codebooks, composition, **options),
    compositions.compose(vectors, composition, **options),
    rtol=1e-5,
    atol=1e-6,
  )


@pytest.mark.parametrize("composition", COMPOSITIONS)
def test_decode_under_vmap_is_the_loop(composition):
  codebooks, digits = _normal(0, D, K, W), _digits(5)
  decode = functools.partial(
    codes.decode_codes, composition=composition, **_options(composition)
  )
  mapped = jax.vmap(decode, in_axes=(0, None))(digits, codebooks)
  looped = jnp.stack([decode(code, codebooks) for code in digits])
  np.testing.assert_allclose(mapped, looped, rtol=1e-5, atol=1e-6)


def test_lookup_is_exact_in_bfloat16():
  codebooks = _normal(0, D, K, W).astype(jnp.bfloat16)
  digits = _digits(9)
  vectors = codes.lookup_codes(digits, codebooks)
  expected = np.asarray(codebooks)[np.arange(D), np.asarray(digits)]
  np.testing.assert_array_equal(np.asarray(vectors), expected)


def test_sum_of_bfloat16_is_rounded_once():
  codebooks = jnp.full((32, 2, 1), 1.0078125, jnp.bfloat16)
  digits = jnp.zeros(32, jnp.uint8)
  total = codes.decode_codes(digits, codebooks, "sum")
  assert total.dtype == jnp.bfloat16
  np.testing.assert_array_equal(total.astype(jnp.float32), [32.25])


@pytest.mark.parametrize("composition", COMPOSITIONS)
def test_gradient_reaches_the_chosen_rows_alone(composition):
  codebooks = _normal(0, D, K, W)
  digits = jnp.array([[0, 1, 2, 3], [0, 1, 2, 5]], jnp.uint8)
  options = _options(composition)

  def loss(books, projection, bias):
    return jnp.sum(
      jnp.sin(
        codes.decode_codes(
          digits, books, composition, projection=projection, bias=bias
        )
      )
    )

  gradient = jax.grad(loss)(codebooks, **options)
  touched = np.zeros((D, K), bool)
  touched[[0, 1, 2, 3, 3], [0, 1, 2, 3, 5]] = True
  np.testing.assert_array_equal(np.any(gradient != 0, axis=-1), touched)
  jax.test_util.check_grads(
    lambda books: loss(books, **options),
    (codebooks,),
    1,
    modes=["rev"],
    atol=1e-2,
    rtol=1e-2,
  )


@pytest.mark.parametrize("dtype", [jnp.uint8, jnp.int8, jnp.uint16, jnp.int32])
def test_256_entries_in_any_type_of_code(dtype):
  codebooks = jnp.arange(512.0).reshape(2, 256, 1)
  digit = min(int(jnp.iinfo(dtype).max), 255)
  digits = jnp.array([digit, 0], dtype)
  vectors = codes.lookup_codes(digits, codebooks)
  np.testing.assert_array_equal(vectors, [[digit], [256]])
  total = codes.decode_codes(digits, codebooks, "sum")
  np.testing.assert_array_equal(total, [digit + 256])


@pytest.mark.parametrize("bad", [-1, -K, K, K + 1, 100])
@pytest.mark.parametrize("composition", ["sum", "concat"])
def test_digits_out_of_range_give_nan(composition, bad):
  codebooks = _normal(0, D, K, W)
  digits = jnp.array([[0, 0, 0, 0], [0, bad, 0, 0]])
  decoded = codes.decode_codes(digits, codebooks, composition)
  assert bool(jnp.all(jnp.isfinite(decoded[0])))
  assert bool(jnp.any(jnp.isnan(decoded[1])))
  query = jnp.ones(decoded.shape[-1])
  scores = codes.attend_codes(query, digits, codebooks, composition)
  np.testing.assert_array_equal(jnp.isnan(scores), [False, True])


def test_float_codes_are_refused():
  with pytest.raises(ValueError, match="integers"):
    codes.decode_codes(jnp.zeros(D), _normal(0, D, K, W), "sum")


@pytest.mark.parametrize(
  "call",
  [
    codes.lookup_codes,
    functools.partial(codes.decode_codes, composition="sum"),
  ],
)
def test_codebooks_for_another_length_are_refused(call):
  with pytest.raises(AssertionError, match="shape"):
    call(_digits(2), _normal(0, D - 1, K, W))


def test_decode_checks_its_options():
  with pytest.raises(ValueError, match="`composition` must be one of"):
    codes.decode_codes(_digits(2), _normal(0, D, K, W), "mean")
  with pytest.raises(ValueError, match="`projection` must be given"):
    codes.decode_codes(_digits(2), _normal(0, D, K, W), "linear")


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
@pytest.mark.parametrize("positions", [1, D])
@pytest.mark.parametrize("composition", COMPOSITIONS)
def test_attend_is_the_product_with_the_decoded_table(
  composition, positions, batch
):
  codebooks, digits = _normal(0, positions, K, W), _digits(13)
  options = _options(composition)
  table = reference.decode(digits, codebooks, composition, **options)
  query = _normal(1, *batch, table.shape[-1])
  scores = jax.jit(
    lambda q: codes.attend_codes(q, digits, codebooks, composition, **options)
  )(query)
  expected = np.asarray(query, np.float64) @ table.T
  np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("composition", COMPOSITIONS)
def test_gradients_of_attend_are_those_of_the_product(composition):
  codebooks, digits = _normal(0, D, K, W), _digits(13)
  options = _options(composition)
  width = options["bias"].shape[0]
  query, weights = _normal(1, 3, width), _normal(2, 3, 13)

  def attend(query, books, options):
    scores = codes.attend_codes(query, digits, books, composition, **options)
    return jnp.sum(weights * scores)

  def product(query, books, options):
    table = codes.decode_codes(digits, books, composition, **options)
    return jnp.sum(weights * (query @ table.T))

  actual, expected = (
    jax.grad(f, (0, 1, 2))(query, codebooks, options) for f in (attend, product)
  )
  chex.assert_trees_all_close(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("composition", COMPOSITIONS)
def test_attend_in_bfloat16_is_accurate(composition):
  codebooks, digits = _normal(0, D, K, W), _digits(5)
  options = _options(composition)
  query = _normal(1, 2, options["bias"].shape[0])
  narrow = jax.tree.map(
    lambda x: x.astype(jnp.bfloat16), (query, codebooks, options)
  )
  scores = codes.attend_codes(
    narrow[0], digits, narrow[1], composition, **narrow[2]
  )
  assert scores.dtype == jnp.bfloat16
  exact = codes.attend_codes(query, digits, codebooks, composition, **options)
  np.testing.assert_allclose(
    scores.astype(jnp.float32), exact, rtol=0.05, atol=0.2
  )


@pytest.mark.parametrize("composition", COMPOSITIONS)
def test_decode_does_not_store_all_code_vectors_for_sums(composition):
  digits = jax.ShapeDtypeStruct((1000, 32), jnp.uint8)
  books = jax.ShapeDtypeStruct((32, 16, 256), jnp.float32)
  projection = jax.ShapeDtypeStruct((256, 8), jnp.float32)
  options = {"projection": projection} if composition == "linear" else {}
  decode = functools.partial(codes.decode_codes, composition=composition)
  compiled = jax.jit(decode).lower(digits, books, **options).compile()
  all_vectors = 1000 * 32 * 256 * 4
  if composition != "concat":
    memory = compiled.memory_analysis()
    assert memory.temp_size_in_bytes < all_vectors / 8


def test_decode_is_traced_once():
  @jax.jit
  @chex.assert_max_traces(n=1)
  def decode(digits, codebooks):
    return codes.decode_codes(digits, codebooks, "sum")

  for seed in range(3):
    decode(_digits(5), _normal(seed, D, K, W))


@jax.jit
def _assign_what_was_decoded(logits):
  """Code vectors are orthogonal: the scores of an embedding are its codes."""
  digits = codes.assign_codes(logits)
  books = jnp.eye(D * K).reshape(D, K, D * K)
  embeddings = codes.decode_codes(digits, books, "sum")
  return digits, codes.assign_codes(embeddings.reshape(logits.shape))


@given(arrays(np.float32, (3, D, K), elements=st.floats(-9, 9, width=32)))
def test_codes_survive_a_round_trip(logits):
  digits, again = _assign_what_was_decoded(logits)
  np.testing.assert_array_equal(digits, np.argmax(logits, axis=-1))
  np.testing.assert_array_equal(again, digits)


@pytest.mark.parametrize("codebook_size", [5, 256, 300])
def test_packing_keeps_what_is_decoded(codebook_size):
  codebooks = _normal(0, D, codebook_size, W)
  digits = codes.assign_codes(_normal(1, 20, D, codebook_size))
  packed = codes.pack_codes(digits, codebook_size=codebook_size)
  unpacked = codes.unpack_codes(
    packed, code_length=D, codebook_size=codebook_size
  )
  np.testing.assert_array_equal(
    codes.decode_codes(unpacked, codebooks, "concat"),
    codes.decode_codes(digits, codebooks, "concat"),
  )


def test_rows_that_are_not_finite_are_counted():
  rows = jnp.zeros((5, 2, 3)).at[1, 0, 0].set(jnp.nan).at[1, 1, 1].set(jnp.inf)
  rows = rows.at[4, 1, 2].set(-jnp.inf)
  assert jax.jit(codes.nonfinite_rows)(rows) == 2
  assert codes.nonfinite_rows(jnp.ones((3, 4), jnp.bfloat16)) == 0
