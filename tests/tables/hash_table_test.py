import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from table_cases import floats

from anchor_codes import tables


def make(buckets=None, **options):
  return tables.HashTable(
    [floats(3, 6), floats(4, 6)] if buckets is None else buckets,
    **{
      "num_embeddings": 11,
      "addressing": "hash",
      "composition": "sum",
      **options,
    },
  )


def test_nothing_is_stored_for_a_row():
  table = make(num_embeddings=10**9)
  assert table.bits_per_row == 0
  assert table.nbytes == 4 * (3 + 4) * 6
  assert table.num_params == (3 + 4) * 6
  assert table.lookup(10**9 - 1).shape == (6,)


def test_one_array_of_three_axes_is_many_tables():
  stacked = floats(3, 4, 6)
  one, many = make(stacked), make(list(stacked))
  np.testing.assert_array_equal(one.to_dense(), many.to_dense())
  assert list(one.tensors) == ["buckets_0", "buckets_1", "buckets_2"]


def test_more_than_ten_tables_are_read_in_their_order(tmp_path):
  """In the file the name of number 10 stands before that of number 2."""
  table, path = make(floats(12, 5, 6)), tmp_path / "table.safetensors"
  table.save(path)
  np.testing.assert_array_equal(tables.load(path).to_dense(), table.to_dense())


def test_the_seed_chooses_the_hash():
  buckets = floats(2, 5, 6)
  seeds = [make(buckets, seed=seed).to_dense() for seed in (0, 0, 1)]
  np.testing.assert_array_equal(seeds[0], seeds[1])
  assert np.any(seeds[0] != seeds[2])


def test_each_position_has_a_hash_of_its_own():
  buckets = np.stack([np.eye(8, dtype=np.float32)] * 2)
  dense = make(buckets, num_embeddings=200).to_dense()
  both = (dense == 2).any(axis=1).mean()
  assert 0 < both < 0.4  # One in eight is expected.


@given(st.integers(1, 60), st.integers(1, 60))
def test_quotients_and_remainders_tell_all_ids_apart(rows, size):
  quotients = np.arange(-(-rows // size), dtype=np.float32)[:, None] * size
  remainders = np.arange(size, dtype=np.float32)[:, None]
  table = make(
    [quotients, remainders],
    num_embeddings=rows,
    addressing="quotient_remainder",
  )
  np.testing.assert_array_equal(table.to_dense()[:, 0], np.arange(rows))


@pytest.mark.parametrize(
  ("options", "text"),
  [
    ({"addressing": "qr"}, "one of 'hash', 'quotient_remainder', got 'qr'"),
    ({"composition": "mean"}, "one of 'sum', 'product', got 'mean'"),
    ({"num_embeddings": 0}, "`num_embeddings` must be at least 1, got 0"),
    ({"num_embeddings": 2.0}, "`num_embeddings` must be an integer"),
    ({"seed": -1}, "`seed` must be at least 0, got -1"),
    ({"seed": 2**32 - 1}, "`seed` must be at most 4294967295"),
    ({"buckets": []}, "at least one array, got none"),
    ({"buckets": floats(3, 6)}, r"2 axes.* got shape \(6,\)"),
    ({"buckets": np.zeros((2, 3, 6))}, "float32 or float16, got float64"),
    (
      {"buckets": [floats(3, 6), floats(3, 5)]},
      r"`buckets` must have shape \(3, 6\) to fit the first \(3, 6\), got "
      r"\(3, 5\)",
    ),
    (
      {"addressing": "quotient_remainder"},
      r"`quotients` must have shape \(3, 6\).*",
    ),
    (
      {"addressing": "quotient_remainder", "buckets": floats(3, 4, 6)},
      "two arrays, quotients and remainders, got 3",
    ),
  ],
)
def test_what_does_not_fit_is_refused(options, text):
  if options == {"addressing": "quotient_remainder"}:
    options = {**options, "num_embeddings": 13}
    text = r"`quotients` must have shape \(4, 6\) to fit 13 ids and remainders"
  with pytest.raises(ValueError, match=text):
    make(**options)


def test_the_largest_seed_that_fits_two_hashes():
  assert make(seed=2**32 - 2).lookup(0).shape == (6,)
