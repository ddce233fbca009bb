"""Files of Parquet."""

import sys

import numpy as np
import pytest
from refusals import refused

from anchor_codes import formats
from anchor_codes.formats import parquet as parquet_files

VECTORS = np.float32([[1, -2.5, 0], [0.25, 4, 7]])
WORDS = ("cat", "žluť")


@pytest.fixture
def parquet():
  import pyarrow.parquet

  return pyarrow.parquet


def write_parquet(parquet, path, columns, **options):
  import pyarrow as pa

  parquet.write_table(pa.table(columns), path, **options)


def test_parquet(parquet, tmp_path):
  import pyarrow as pa

  path = tmp_path / "vectors.parquet"
  for dtype, make in (
    ("float32", pa.list_),
    ("float64", pa.large_list),
    ("float16", pa.list_),
    ("float32", lambda kind: pa.list_(kind, 3)),
  ):
    kind = make(pa.from_numpy_dtype(dtype))
    column = pa.array([list(v) for v in VECTORS.astype(dtype)], kind)
    columns = {"n": [1, 2], "word": list(WORDS), "v": column}
    write_parquet(parquet, path, columns, row_group_size=1)
    found = formats.read(path)
    assert found.vocabulary == WORDS
    assert found.vectors.dtype == np.float32
    np.testing.assert_array_equal(found.vectors, VECTORS)


@pytest.mark.parametrize("group", [1, 3, 9])
def test_parquet_by_batches(group, parquet, tmp_path, monkeypatch):
  monkeypatch.setattr(parquet_files, "_BATCH", 2)
  path, vectors = tmp_path / "vectors.parquet", np.arange(21.0).reshape(7, 3)
  columns = {"v": vectors.tolist(), "w": list("abcdefg")}
  write_parquet(parquet, path, columns, row_group_size=group)
  found = formats.read(path)
  np.testing.assert_array_equal(found.vectors, vectors)
  assert found.vocabulary == tuple("abcdefg")


def test_parquet_by_name(parquet, tmp_path):
  path = tmp_path / "vectors.parquet"
  columns = {"a": VECTORS.tolist(), "b": (2 * VECTORS).tolist()}
  write_parquet(parquet, path, columns)
  found = formats.read(path, tensor="b")
  assert found.vocabulary is None
  np.testing.assert_array_equal(found.vectors, 2 * VECTORS)
  assert (
    refused(path) == "Name the column of lists of floats: one of ['a', 'b']."
  )
  assert refused(path, tensor="c").startswith("Column 'c' is none of lists")


@pytest.mark.parametrize(
  ("columns", "message"),
  [
    (
      {"a": [1.0]},
      "Name the column of lists of floats: there is none in ['a']",
    ),
    ({"v": [[1.0], [1.0, 2.0]]}, "Row 1 has 2 numbers, not 1."),
    ({"v": [[1.0], None]}, "Row 1 has no vector, not 1."),
    ({"v": [[1.0], [None]]}, "Row 1 has nan or infinite values."),
    ({"v": [[1.0], [2.0]], "w": ["a", None]}, "Row 1 has no word."),
    (
      {"v": [[1.0], [2.0]], "w": ["a", "a"]},
      "Row 1 repeats the word 'a' of row",
    ),
    (
      {"v": [[1.0]], "w": ["a"], "x": ["b"]},
      "It has several columns of strings",
    ),
    ({"v": [[1.0], [2.0]], "w": [b"a", b"\xff"]}, "Row 1 of 'w' is not UTF-8"),
    ({"v": [[1.0], [2.0]], "w": [b"a", None]}, "Row 1 has no word."),
    (
      {"v": [[1.0]], "w": [b"a"], "x": [b"b"]},
      "It has several columns of strings",
    ),
  ],
)
@pytest.mark.parametrize("batch", [1, 8192])
def test_parquet_of_other_things(
  batch, columns, message, parquet, tmp_path, monkeypatch
):
  monkeypatch.setattr(parquet_files, "_BATCH", batch)
  path = tmp_path / "vectors.parquet"
  write_parquet(parquet, path, columns)
  assert refused(path).startswith(message)


def test_parquet_of_vectors_beside_lists_of_integers(parquet, tmp_path):
  path = tmp_path / "vectors.parquet"
  columns = {"tokens": [[5, 3], [7]], "v": VECTORS.tolist()}
  write_parquet(parquet, path, columns)
  np.testing.assert_array_equal(formats.read(path).vectors, VECTORS)


def test_parquet_of_strings_beside_bytes(parquet, tmp_path):
  """Bytes may be anything, where there are words."""
  path = tmp_path / "vectors.parquet"
  columns = {"picture": [b"\xff", b"\xff"], "w": list(WORDS)}
  write_parquet(parquet, path, {**columns, "v": VECTORS.tolist()})
  assert formats.read(path).vocabulary == WORDS


def test_parquet_without_rows(parquet, tmp_path):
  import pyarrow as pa

  path = tmp_path / "vectors.parquet"
  empty = pa.array([], pa.list_(pa.float32()))
  write_parquet(parquet, path, {"v": empty})
  assert refused(path) == "It has no vectors: its shape is (0, 0)."


def test_parquet_tells_its_progress(parquet, tmp_path):
  path = tmp_path / "vectors.parquet"
  write_parquet(parquet, path, {"v": VECTORS.tolist()})
  reports = []
  formats.read(path, progress=lambda *report: reports.append(report))
  assert reports == [(2, 2)]


def test_parquet_without_pyarrow(parquet, tmp_path, monkeypatch):
  path = tmp_path / "vectors.parquet"
  write_parquet(parquet, path, {"v": VECTORS.tolist()})
  monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
  with pytest.raises(ImportError, match="pip install pyarrow"):
    formats.read(path)


@pytest.mark.parametrize(
  "kind",
  [
    "dictionary",
    "string",
    "large_string",
    "string_view",
    "binary",
    "large_binary",
    "binary_view",
  ],
)
def test_parquet_with_words_of_any_kind(kind, tmp_path):
  pyarrow = pytest.importorskip("pyarrow")
  parquet = pytest.importorskip("pyarrow.parquet")
  words = pyarrow.array(WORDS)
  if kind == "dictionary":
    words = words.dictionary_encode()
  else:
    words = words.cast(getattr(pyarrow, kind)())
  path = tmp_path / "v.parquet"
  columns = {"word": words, "vector": VECTORS.tolist()}
  parquet.write_table(pyarrow.table(columns), path)
  assert formats.read(path).vocabulary == WORDS
