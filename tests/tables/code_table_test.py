import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from table_cases import floats, integers

from anchor_codes import accounting, tables

SIZES = (2, 3, 8, 16, 31, 32, 128, 256, 257, 65536)


@given(
  codebook_size=st.sampled_from(SIZES[:-1]),
  code_length=st.sampled_from([1, 7, 25, 32, 50]),
  rows=st.integers(1, 9),
  shared=st.booleans(),
  composition=st.sampled_from(["sum", "concat"]),
)
def test_codes_survive_and_bytes_follow_the_formula(
  codebook_size, code_length, rows, shared, composition
):
  books = floats(1 if shared else code_length, codebook_size, 2)
  codes = integers(codebook_size, rows, code_length)
  table = tables.CodeTable.from_codes(codes, books, composition=composition)
  np.testing.assert_array_equal(table.codes, codes)
  row_bits = accounting.code_row_bits(code_length, codebook_size)
  assert table.bits_per_row == row_bits
  assert table.num_params == books.size
  assert table.nbytes == accounting.table_bytes(
    rows, row_bits=row_bits, shared_bytes=books.nbytes
  )


def test_the_codes_of_the_kd_paper_take_twenty_bytes():
  table = tables.CodeTable.from_codes(
    integers(32, 100, 32), floats(32, 32, 4), composition="sum"
  )
  assert table.packed.shape == (100, 20)
  assert table.bits_per_row == 160


def test_codebooks_of_full_size():
  books = floats(1, 65536, 1)
  codes = np.array([[0, 65535], [1, 256]])
  table = tables.CodeTable.from_codes(codes, books, composition="concat")
  assert table.codes.dtype == np.uint16
  np.testing.assert_array_equal(table.to_dense(), books[0, codes, 0])


def test_a_shared_codebook_is_the_same_codebook_everywhere():
  books, codes = floats(1, 8, 3), integers(8, 6, 4)
  repeated = np.repeat(books, 4, axis=0)
  query = floats(2, 12)
  shared = tables.CodeTable.from_codes(codes, books, composition="concat")
  apart = tables.CodeTable.from_codes(codes, repeated, composition="concat")
  np.testing.assert_array_equal(shared.to_dense(), apart.to_dense())
  np.testing.assert_array_equal(shared.attend(query), apart.attend(query))
  assert shared.nbytes < apart.nbytes


def test_a_projection_is_a_change_of_the_codebooks():
  books, projection = floats(4, 8, 3), floats(3, 5)
  codes = integers(8, 6, 4)
  linear = tables.CodeTable.from_codes(
    codes, books, composition="linear", projection=projection
  )
  folded = tables.CodeTable.from_codes(
    codes, books @ projection, composition="sum"
  )
  assert linear.features == folded.features == 5
  np.testing.assert_allclose(
    linear.to_dense(), folded.to_dense(), rtol=1e-4, atol=1e-5
  )


def test_all_parts_but_the_codes_are_parameters():
  table = tables.CodeTable.from_codes(
    integers(8, 6, 4),
    floats(4, 8, 3),
    composition="linear",
    projection=floats(3, 5),
    bias=floats(5),
  )
  assert table.num_params == 4 * 8 * 3 + 3 * 5 + 5


def test_float16_codebooks_are_kept_and_summed_in_float32():
  books = np.array([[[2048], [1]]], np.float16)
  table = tables.CodeTable.from_codes(
    np.array([[0, 1]]), books, composition="sum"
  )
  assert table.codebooks.dtype == np.float16
  assert table.lookup(0) == 2049  # float16 has no such number.


def build(codes=None, books=None, composition="sum", **options):
  return tables.CodeTable.from_codes(
    integers(8, 6, 4) if codes is None else codes,
    floats(4, 8, 3) if books is None else books,
    composition=composition,
    **options,
  )


@pytest.mark.parametrize(
  ("options", "text"),
  [
    (
      {"codes": np.full((6, 4), 8)},
      r"digit 8 at position \(0, 0\) .* codebook_size 8",
    ),
    ({"codes": np.full((6, 4), -1)}, "digit -1 at position"),
    ({"codes": np.zeros((6, 4))}, "`codes` must be integers .*float64"),
    ({"codes": np.zeros(6, int)}, r"2 axes, got shape \(6,\)"),
    ({"codes": np.zeros((0, 4), int)}, r"`packed` must .*\(0, 2\)"),
    ({"codes": np.zeros((6, 0), int)}, "`code_length` must be at least 1"),
    (
      {"codes": np.zeros((6, 5), int)},
      r"`codebooks` must have shape \(5, 8, 3\).*, got \(4, 8, 3\)",
    ),
    ({"books": floats(8, 3)}, r"`codebooks` must have 3 axes"),
    ({"books": floats(4, 1, 3)}, "`codebook_size` must be at least 2"),
    ({"books": np.zeros((4, 8, 3))}, "`codebooks` must be float32 or"),
    ({"composition": "mean"}, "`composition` must be one of 'sum'"),
    ({"composition": "linear"}, "`projection` must be given for"),
    ({"projection": floats(3, 5)}, "only for them, got composition 'sum'"),
    (
      {"composition": "linear", "projection": floats(4, 5)},
      r"`projection` must have shape \(3, 5\) to fit the composition "
      r"'linear', got \(4, 5\)",
    ),
    ({"composition": "linear", "projection": floats(3)}, "have 2 axes"),
    ({"bias": floats(4)}, r"`bias` must have shape \(3,\).*got \(4,\)"),
    ({"bias": floats(3).astype(float)}, "`bias` must be float32 or"),
    ({"composition": "concat", "bias": floats(3)}, r"`bias`.*\(12,\)"),
  ],
)
def test_what_does_not_fit_is_refused(options, text):
  with pytest.raises(ValueError, match=text):
    build(**options)


@pytest.mark.parametrize("width", [1, 3])
def test_packed_codes_must_have_the_right_width(width):
  text = rf"`packed` must have shape \(6, 2\).*, got \(6, {width}\)"
  with pytest.raises(ValueError, match=text):
    tables.CodeTable(
      floats(4, 8, 3),
      packed=np.zeros((6, width), np.uint8),
      code_length=4,
      codebook_size=8,
      composition="sum",
    )


def test_packed_codes_must_be_bytes():
  text = "`packed` must be uint8, got int64"
  with pytest.raises(ValueError, match=text):
    tables.CodeTable(
      floats(4, 8, 3),
      packed=np.zeros((6, 2), int),
      code_length=4,
      codebook_size=8,
      composition="sum",
    )


@pytest.mark.parametrize(
  ("books", "scales", "text"),
  [
    (
      np.zeros((2, 4, 3), np.int8),
      None,
      "`scales` must be given for codebooks",
    ),
    (floats(2, 4, 3), floats(2), "only for them, got float32 codebooks"),
    (np.zeros((2, 4, 3), np.int8), floats(3), r"must have shape \(2,\) to fit"),
    (np.zeros((2, 4, 3), np.int8), np.zeros(2), "float32, got float64"),
    (np.zeros((2, 4, 3), np.uint8), floats(2), "or int8, got uint8"),
  ],
)
def test_codebooks_of_integers_that_do_not_fit(books, scales, text):
  with pytest.raises(ValueError, match=text):
    tables.CodeTable.from_codes(
      integers(4, 5, 2), books, scales=scales, composition="concat"
    )


def test_codebooks_of_integers_take_a_quarter_of_the_bytes():
  codes, books = integers(4, 5, 2), integers(9, 2, 4, 3).astype(np.int8)
  scales = np.float32([0.5, 2])
  table = tables.CodeTable.from_codes(
    codes, books, scales=scales, composition="sum"
  )
  full = tables.CodeTable.from_codes(
    codes, books * scales[:, None, None], composition="sum"
  )
  assert table.tensors["codebooks"].nbytes * 4 == full.codebooks.nbytes
  assert table.num_params == full.num_params == 24
  np.testing.assert_array_equal(table.to_dense(), full.to_dense())


@pytest.mark.parametrize("positions", [1, 4])
def test_many_queries_score_as_few_do(positions):
  books, query = floats(positions, 8, 3), floats(40, 12, seed=3)
  bias = floats(12, seed=4)
  table = build(books=books, composition="concat", bias=bias)
  few = np.concatenate([table.attend(part) for part in np.split(query, 20)])
  np.testing.assert_allclose(table.attend(query), few, rtol=1e-4, atol=1e-5)
  dense = table.to_dense()
  np.testing.assert_allclose(few, query @ dense.T, rtol=1e-4, atol=1e-5)
