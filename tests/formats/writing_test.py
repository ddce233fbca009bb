"""Writing: what is written is read back, and no half file is left."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis.extra import numpy as hnp

from anchor_codes import formats, tables
from anchor_codes.formats import writing

VECTORS = np.float32([[1, -2.5, 0], [0.1, 4, 7]])
WORDS = ("cat", "ice cream")
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


def table_of_codes(size=9000):
  """Returns a table of more than one block."""
  codes = np.arange(2 * size).reshape(size, 2) % 16
  codebooks = np.linspace(-1, 1, 2 * 16 * 3, dtype=np.float32)
  return tables.CodeTable.from_codes(
    codes,
    codebooks.reshape(2, 16, 3),
    composition="concat",
    vocabulary=[f"w{i}" for i in range(size)],
  )


@pytest.mark.parametrize("suffix", [".npy", ".vec", ".txt", ".safetensors"])
@pytest.mark.parametrize("words", [None, WORDS])
def test_matrices_come_back(suffix, words, tmp_path):
  path = tmp_path / f"v{suffix}"
  formats.write(path, VECTORS, words)
  matrix = formats.read(path)
  assert matrix.vectors.dtype == np.float32
  np.testing.assert_array_equal(matrix.vectors, VECTORS)
  # Text needs a word: the number of the row, if there is no other.
  numbers = ("0", "1") if suffix in (".vec", ".txt") else None
  expected = None if suffix == ".npy" else words or numbers
  assert matrix.vocabulary == expected
  assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", [".npy", ".vec", ".safetensors"])
def test_tables_are_dense_again(suffix, tmp_path):
  table, path = table_of_codes(), tmp_path / f"v{suffix}"
  formats.write(path, table)
  matrix = formats.read(path)
  np.testing.assert_array_equal(matrix.vectors, table.to_dense())
  assert matrix.vocabulary in (None, table.vocabulary)


@pytest.mark.parametrize("suffix", [".npy", ".vec", ".safetensors"])
def test_matrices_are_written_by_blocks(suffix, tmp_path, monkeypatch):
  monkeypatch.setattr(writing, "_BLOCK", 4)
  path, vectors = tmp_path / f"v{suffix}", np.float32(np.arange(18))
  formats.write(path, vectors.reshape(9, 2))
  np.testing.assert_array_equal(
    formats.read(path).vectors, vectors.reshape(9, 2)
  )


def test_tables_are_decoded_by_blocks(tmp_path, monkeypatch):
  table, sizes = table_of_codes(), []
  lookup = tables.CodeTable.lookup
  monkeypatch.setattr(
    tables.CodeTable,
    "lookup",
    lambda self, ids: sizes.append(len(ids)) or lookup(self, ids),
  )
  formats.write(tmp_path / "v.npy", table)
  assert sum(sizes) == 9000
  assert max(sizes) == writing._BLOCK


def test_a_table_keeps_its_kind(tmp_path):
  path = tmp_path / "v.safetensors"
  formats.write(path, table_of_codes(9))
  assert isinstance(tables.load(path), tables.CodeTable)
  formats.write(path, table_of_codes(2), WORDS)
  assert tables.load(path).vocabulary == WORDS


@pytest.mark.parametrize("dtype", ["float16", "float64", ">f4"])
def test_npy_keeps_the_type(dtype, tmp_path):
  path = tmp_path / "v.npy"
  formats.write(path, VECTORS.astype(dtype))
  assert np.load(path).dtype == dtype


def test_npy_of_bfloat16_is_float32(tmp_path):
  import ml_dtypes

  path = tmp_path / "v.npy"
  formats.write(path, VECTORS.astype(ml_dtypes.bfloat16))
  assert np.load(path).dtype == np.float32


def test_npy_in_the_order_of_fortran(tmp_path):
  path = tmp_path / "v.npy"
  formats.write(path, np.asfortranarray(VECTORS))
  np.testing.assert_array_equal(np.load(path), VECTORS)


@hypothesis.given(
  hnp.arrays(
    np.float32, hnp.array_shapes(min_dims=2, max_dims=2), elements=FLOATS
  )
)
def test_text_keeps_every_float32(tmp_path_factory, vectors):
  path = tmp_path_factory.mktemp("text") / "v.vec"
  formats.write(path, vectors)
  np.testing.assert_array_equal(formats.read(path).vectors, vectors)


def test_text_keeps_every_bit(tmp_path):
  """One in many float32 needs all of nine digits."""
  bits = np.random.default_rng(0).integers(0, 2**32, 3000, dtype=np.uint32)
  vectors = bits.view(np.float32).reshape(-1, 3)
  vectors = vectors[np.isfinite(vectors).all(axis=1)]
  formats.write(tmp_path / "v.vec", vectors)
  np.testing.assert_array_equal(
    formats.read(tmp_path / "v.vec").vectors, vectors
  )


@hypothesis.given(st.lists(st.text(max_size=5), min_size=1, unique=True))
def test_text_keeps_words_or_refuses_them(tmp_path_factory, words):
  path = tmp_path_factory.mktemp("text") / "v.vec"
  vectors = np.ones((len(words), 2), np.float32)
  try:
    formats.write(path, vectors, words)
  except ValueError:
    assert not path.exists()
  else:
    assert formats.read(path).vocabulary == tuple(words)


@pytest.mark.parametrize(
  "word", ["", " a", "a ", "a\nb", "a 1", "a\r", "a\rb", "x nan"]
)
def test_words_that_would_not_come_back(word, tmp_path):
  path = tmp_path / "v.vec"
  path.write_text("old")
  with pytest.raises(ValueError, match="A word must"):
    formats.write(path, VECTORS, ["cat", word])
  assert path.read_text() == "old"
  formats.write(tmp_path / "v.safetensors", VECTORS, ["cat", word])


@pytest.mark.parametrize(
  ("vectors", "words", "message"),
  [
    (VECTORS, ["a"], "It has 1 words for 2 rows"),
    (VECTORS, ["a", "b", "c"], "It has 3 words for 2 rows"),
    (VECTORS, ["a", "a"], "Row 1 repeats the word 'a' of row 0"),
    (VECTORS, [7, 8], "Row 0 has 7 for a word, not a string"),
    (VECTORS[0], None, "not floats of two axes"),
    (VECTORS.astype(int), None, "not floats of two axes"),
    (VECTORS[:0], None, "It has no vectors"),
    (VECTORS * [[1], [np.nan]], None, "Row 1 has nan or infinite values"),
  ],
)
@pytest.mark.parametrize("block", [1, 4096])
@pytest.mark.parametrize("suffix", [".npy", ".vec"])
def test_bad_arguments_leave_no_file(
  suffix, block, vectors, words, message, tmp_path, monkeypatch
):
  monkeypatch.setattr(writing, "_BLOCK", block)
  with pytest.raises(ValueError, match=message):
    formats.write(tmp_path / f"v{suffix}", vectors, words)
  assert list(tmp_path.iterdir()) == []


def test_suffixes(tmp_path):
  with pytest.raises(ValueError, match=r"`suffix` must be one of '\.npy', "):
    formats.write(tmp_path / "v.csv", VECTORS)
  formats.write(tmp_path / "v.csv", VECTORS, suffix=".npy")
  np.testing.assert_array_equal(np.load(tmp_path / "v.csv"), VECTORS)


def test_numbers_that_float32_cannot_hold_are_refused(tmp_path):
  path = tmp_path / "v.vec"
  with pytest.raises(ValueError, match="Row 1 "):
    formats.write(path, np.array([[1.0, 2], [1e300, 2]]))
  assert not path.exists()
  with pytest.raises(OSError, match=r"none.v\.npy"):
    formats.write(tmp_path / "none" / "v.npy", VECTORS)
