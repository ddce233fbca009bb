from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from anchor_codes import accounting, tables


def zeros(*shape, dtype=np.float32):
  return np.zeros(shape, dtype)


def test_dense_bytes_are_those_of_the_float32_table():
  assert accounting.dense_bytes(7, 5) == zeros(7, 5).nbytes
  assert accounting.dense_bytes(10**10, 10**10) == 4 * 10**20


def test_compression_ratio_is_dense_over_ours():
  ratio = accounting.compression_ratio(10, num_embeddings=7, features=5)
  assert ratio == 14


@pytest.mark.parametrize("nbytes", [0, -4])
def test_nothing_compresses_to_nothing(nbytes):
  with pytest.raises(ValueError, match=f"must be at least 1, got {nbytes}"):
    accounting.compression_ratio(nbytes, num_embeddings=7, features=5)


@given(st.integers(1, 2**40))
def test_index_dtype_is_the_smallest_that_fits(num_anchors):
  dtype = accounting.index_dtype(num_anchors)
  assert dtype.kind == "u"
  assert num_anchors - 1 <= np.iinfo(dtype).max
  if dtype.itemsize > 1:
    smaller = np.dtype(f"u{dtype.itemsize // 2}")
    assert num_anchors - 1 > np.iinfo(smaller).max


def test_index_dtype_needs_an_anchor():
  with pytest.raises(ValueError, match="`num_anchors` must be at least 1"):
    accounting.index_dtype(0)


@pytest.mark.parametrize(
  ("num_anchors", "num_nonzeros", "weight_bits", "expected"),
  [
    (100, 8, 32, 8 * 40),
    (1000, 8, 32, 8 * 48),
    (1000, 8, 16, 8 * 32),
    (65537, 1, 32, 64),
    (100, None, 32, 3200),
    (100, None, 16, 1600),
    (1, 1, 32, 40),
  ],
)
def test_anchor_row_bits(num_anchors, num_nonzeros, weight_bits, expected):
  assert expected == accounting.anchor_row_bits(
    num_anchors, num_nonzeros, weight_bits=weight_bits
  )


@pytest.mark.parametrize(
  ("sizes", "weight_bits", "expected"),
  [
    ((10, 8, 3), 32, 10 + 12),
    ((10, 9, 3), 32, 20 + 12),
    ((10, 9, 3), 16, 20 + 6),
    ((1, 1, 0), 32, 1),
    ((10**9, 1000, 4 * 10**9), 16, 133 * 10**9),
  ],
)
def test_masked_rows_bytes(sizes, weight_bits, expected):
  assert expected == accounting.masked_rows_bytes(
    *sizes, weight_bits=weight_bits
  )


@pytest.mark.parametrize(
  ("code_length", "codebook_size", "expected"),
  [
    (32, 32, 160),
    (1, 2, 8),
    (8, 2, 8),
    (9, 2, 16),
    (16, 256, 128),
    (2, 257, 24),
    (7, 3, 16),
    (3, 65536, 48),
  ],
)
def test_code_row_bits(code_length, codebook_size, expected):
  assert accounting.code_row_bits(code_length, codebook_size) == expected


@given(st.integers(1, 100), st.integers(2, 65536))
def test_code_rows_waste_less_than_a_byte(code_length, codebook_size):
  row_bits = accounting.code_row_bits(code_length, codebook_size)
  used = code_length * (codebook_size - 1).bit_length()
  assert row_bits % 8 == 0
  assert 0 <= row_bits - used < 8


def test_code_row_bits_check_their_options():
  with pytest.raises(ValueError, match="`code_length` must be at least 1"):
    accounting.code_row_bits(0, 32)
  with pytest.raises(ValueError, match="`codebook_size` must be at most 65536"):
    accounting.code_row_bits(8, 65537)


def test_the_formula_is_the_size_of_the_table():
  """PTB of the paper: 10,000 words, K = D = 32, codebooks 300 wide."""
  rng = np.random.default_rng(0)
  table = tables.CodeTable.from_codes(
    rng.integers(0, 32, (10_000, 32)),
    zeros(32, 32, 300),
    composition="sum",
  )
  nbytes = accounting.table_bytes(
    10_000,
    row_bits=accounting.code_row_bits(32, 32),
    shared_bytes=4 * 32 * 32 * 300,
  )
  assert table.nbytes == nbytes == 1_428_800
  assert table.compression_ratio == accounting.compression_ratio(
    nbytes, num_embeddings=10_000, features=300
  )


class Pair(NamedTuple):
  first: object
  second: object


@pytest.mark.parametrize(
  ("tree", "expected"),
  [
    (zeros(2, 3), 24),
    (zeros(), 4),
    (zeros(0, 9), 0),
    ({"a": zeros(2), "b": [zeros(3), (zeros(4),)]}, 36),
    (Pair(zeros(2, dtype=np.int8), None), 2),
    (jnp.zeros((3,), jnp.bfloat16), 6),
    (jax.ShapeDtypeStruct((2**20, 2**20), jnp.float32), 2**42),
    # More than NumPy's integers hold.
    (jax.ShapeDtypeStruct((2**31, 2**31, 2), jnp.float32), 2**65),
    ([], 0),
    (None, 0),
    ({"learning_rate": 0.1, "name": "adam"}, 0),
    (np.float32(3), 4),
  ],
  ids=str,
)
def test_tree_bytes(tree, expected):
  assert accounting.tree_bytes(tree) == expected
  assert accounting.tree_bytes(tree, tree) == 2 * expected


def test_tree_bytes_of_all_is_the_sum():
  assert accounting.tree_bytes() == 0
  assert accounting.tree_bytes(zeros(2), {"a": zeros(3)}) == 20


def test_tree_bytes_of_states():
  layer = nnx.Embed(10, 4, rngs=nnx.Rngs(0))
  state = nnx.state(layer, nnx.Param)
  assert accounting.tree_bytes(state) == 160
  assert accounting.tree_bytes(jax.eval_shape(lambda: state)) == 160
  adam = optax.adam(1e-3).init(nnx.to_pure_dict(state))
  assert accounting.tree_bytes(adam) == 2 * 160 + 4  # And the count.


def test_tree_bytes_of_keys_are_their_words():
  assert accounting.tree_bytes(jax.random.key(0)) == 8


def test_training_bytes_are_the_sum_of_three():
  params, gradients = zeros(100, 8), zeros(16, 8)
  state = (zeros(100, 8), zeros(100, 8))
  assert accounting.training_bytes(params, state, gradients) == (3 * 3200 + 512)
