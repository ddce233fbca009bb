"""Tests of the options and checks that all layers share."""

from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchor_codes import typing
from anchor_codes.nn import kd_embed
from anchor_codes.ops import quantization


def test_option_sets_agree_with_their_literal_types():
  assert get_args(typing.Composition) == typing.COMPOSITIONS
  assert get_args(typing.Penalty) == typing.PENALTIES
  relaxations = {*kd_embed.RELAXATIONS, *quantization.RELAXATIONS}
  assert set(get_args(typing.Relaxation)) == relaxations


@pytest.mark.parametrize("value", ["mean", "", "SUM", None, 3])
def test_check_choice_lists_what_is_allowed(value):
  text = rf"`composition` must be one of 'sum', 'concat', got {value!r}\."
  with pytest.raises(ValueError, match=text):
    typing.check_choice("composition", value, ("sum", "concat"))


def test_check_choice_accepts_what_is_allowed():
  for option in typing.COMPOSITIONS:
    typing.check_choice("composition", option, typing.COMPOSITIONS)


@pytest.mark.parametrize("value", [1, 7, np.int64(1), np.uint8(200), 2**40])
def test_check_at_least_accepts_integers(value):
  typing.check_at_least("rank", value, 1)


@pytest.mark.parametrize(
  ("value", "text"),
  [
    (0, r"`rank` must be at least 1, got 0\."),
    (np.int8(-3), r"`rank` must be at least 1, got -3\."),
    (True, r"`rank` must be an integer, got True\."),
    (np.True_, r"`rank` must be an integer, got np.True_\."),
    (2.0, r"`rank` must be an integer, got 2\.0\."),
    ("2", r"`rank` must be an integer, got '2'\."),
    (None, r"`rank` must be an integer, got None\."),
  ],
)
def test_check_at_least_refuses(value, text):
  with pytest.raises(ValueError, match=text):
    typing.check_at_least("rank", value, 1)


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_check_rate_accepts_probabilities_alone(value):
  if 0 <= value <= 1:
    typing.check_rate("rate", value)
  else:
    with pytest.raises(ValueError, match="`rate` must be between 0 and 1, got"):
      typing.check_rate("rate", value)


@given(st.integers(1, 50), st.integers(1, 50))
def test_check_divisible(value, divisor):
  if any(value == divisor * times for times in range(1, 51)):
    typing.check_divisible("features", value, "code_length", divisor)
  else:
    text = rf"`features` must be divisible by `code_length`, got {value} and"
    with pytest.raises(ValueError, match=text):
      typing.check_divisible("features", value, "code_length", divisor)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int32, np.uint64])
def test_check_integer_ids_accepts_every_integer_type(dtype):
  typing.check_integer_ids(np.zeros(3, dtype))


@pytest.mark.parametrize("dtype", [np.float32, bool, complex, object, "U1"])
def test_check_integer_ids_names_the_type(dtype):
  ids = np.zeros(3, dtype)
  with pytest.raises(
    ValueError, match=f"ids must be integers, got {ids.dtype}"
  ):
    typing.check_integer_ids(ids)


@given(
  st.lists(st.integers(-300, 300), min_size=1, max_size=6), st.integers(1, 300)
)
def test_check_ids_names_the_first_bad_id(ids, num_embeddings):
  bad = [i for i, x in enumerate(ids) if not 0 <= x < num_embeddings]
  if not bad:
    typing.check_ids(np.array(ids), num_embeddings)
    return
  text = (
    rf"^id {ids[bad[0]]} at position \({bad[0]},\) is out of range for a table "
    rf"of {num_embeddings} rows: ids must lie in \[0, {num_embeddings}\)\.$"
  )
  with pytest.raises(IndexError, match=text):
    typing.check_ids(np.array(ids), num_embeddings)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint64])
def test_check_ids_compares_across_widths(dtype):
  typing.check_ids(np.array([0, 100], dtype), 1000)
  with pytest.raises(IndexError, match=r"id 100 at position \(1,\)"):
    typing.check_ids(np.array([0, 100], dtype), 100)


def test_check_ids_sees_huge_ids_as_they_are():
  for bad in (np.array(2**40), np.array(2**64 - 1, np.uint64)):
    with pytest.raises(IndexError, match=rf"id {bad} at position \(\)"):
      typing.check_ids(bad, 100)


def test_check_ids_accepts_no_ids_at_all():
  typing.check_ids(np.zeros((2, 0), np.int32), 1)


@given(st.integers(2, 65536))
def test_code_dtype_is_the_smallest_that_holds_a_digit(codebook_size):
  dtype = typing.code_dtype(codebook_size)
  assert dtype.kind == "u"
  assert np.iinfo(dtype).max >= codebook_size - 1
  assert dtype.itemsize == 1 or codebook_size - 1 > 255


@given(st.integers(2, 65536))
def test_num_code_bits_is_the_least_number_of_bits(codebook_size):
  bits = typing.num_code_bits(codebook_size)
  assert 2 ** (bits - 1) < codebook_size <= 2**bits
  assert typing.num_code_bits(np.int64(codebook_size)) == bits


@pytest.mark.parametrize("function", [typing.code_dtype, typing.num_code_bits])
@pytest.mark.parametrize(
  ("codebook_size", "text"),
  [
    (0, r"`codebook_size` must be at least 2, got 0\."),
    (1, r"`codebook_size` must be at least 2, got 1\."),
    (65537, r"`codebook_size` must be at most 65536 .*, got 65537\."),
    (True, r"`codebook_size` must be an integer, got True\."),
    (16.0, r"`codebook_size` must be an integer, got 16\.0\."),
  ],
)
def test_codebook_sizes_out_of_range(function, codebook_size, text):
  with pytest.raises(ValueError, match=text):
    function(codebook_size)


@pytest.mark.parametrize(
  ("composition", "hidden", "expected"),
  [("mlp", None, 12), ("mlp", 5, 5), ("lstm", 7, 7), ("sum", None, 0)],
)
def test_hidden_width(composition, hidden, expected):
  assert typing.hidden_width(composition, 12, hidden=hidden) == expected


def test_code_vectors_of_an_mlp_are_as_wide_as_its_layers():
  assert typing.code_width("mlp", 12, 5, hidden=3) == 3
  assert typing.code_width("mlp", 12, 5, code_features=12) == 12
  assert typing.code_width("lstm", 12, 5, code_features=4, hidden=3) == 4


@pytest.mark.parametrize("composition", ["sum", "concat", "linear"])
def test_only_two_compositions_have_a_network(composition):
  options = {"code_features": 4, "hidden": 5, "num_layers": 3}
  assert typing.network_shapes(composition, **options) == {}


def test_a_single_layer_has_no_kernel():
  shapes = typing.network_shapes("mlp", code_features=4, hidden=4)
  assert shapes == {"biases": (1, 4)}


@pytest.mark.parametrize(
  ("composition", "code_features", "width"),
  [
    ("sum", None, 12),
    ("sum", 12, 12),
    ("concat", None, 3),
    ("concat", 3, 3),
    ("linear", None, 12),
    ("linear", 5, 5),
  ],
)
def test_code_width(composition, code_features, width):
  result = typing.code_width(composition, 12, 4, code_features=code_features)
  assert result == width


@pytest.mark.parametrize(
  ("composition", "code_features", "text"),
  [
    ("mean", None, r"`composition` must be one of .*, got 'mean'\."),
    ("sum", 5, r"`code_features` must be 13 for the composition 'sum', got 5;"),
    ("linear", 0, r"`code_features` must be at least 1, got 0\."),
    ("linear", 2.5, r"`code_features` must be an integer, got 2\.5\."),
    ("concat", None, r"`features` must be divisible by `code_length`, got 13"),
  ],
)
def test_code_width_refuses_what_does_not_fit(composition, code_features, text):
  with pytest.raises(ValueError, match=text):
    typing.code_width(composition, 13, 4, code_features=code_features)


def test_code_width_of_a_concatenation_leaves_no_choice():
  text = "`code_features` must be 3 for the composition 'concat', got 4"
  with pytest.raises(ValueError, match=text):
    typing.code_width("concat", 12, 4, code_features=4)
