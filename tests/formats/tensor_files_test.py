"""Safetensors files of any writer, and tables of ours among them."""

import json
import struct
import sys

import numpy as np
import pytest
from refusals import refused

from anchor_codes import formats, tables
from anchor_codes.tables import storage

VECTORS = np.float32([[1, -2.5, 0], [0.25, 4, 7]])
HEADER = {"v": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}


DATA = VECTORS.tobytes()


def write_raw(path, header, data=DATA):
  text = header if isinstance(header, bytes) else json.dumps(header).encode()
  path.write_bytes(struct.pack("<Q", len(text)) + text + data)


@pytest.fixture
def path(tmp_path):
  return tmp_path / "model.safetensors"


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "bfloat16"])
def test_reads_what_the_reference_writes(dtype, path):
  import ml_dtypes

  kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype
  import safetensors.numpy as saved

  arrays = {"model.embed_tokens.weight": VECTORS.astype(kind)}
  saved.save_file({**arrays, "norm": np.ones(3, np.float32)}, path)
  vectors, vocabulary = formats.read(path)
  assert vocabulary is None
  assert vectors.dtype.name == dtype
  assert not vectors.flags.writeable  # Mapped.
  np.testing.assert_array_equal(vectors.astype(np.float32), VECTORS)
  assert formats.read(path, tensor="model.embed_tokens.weight").vectors.shape


def test_what_is_not_asked_for_stays_unread(path):
  """Other tensors may be of types that NumPy does not know."""
  others = {"q": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [24, 28]}}
  write_raw(path, {**HEADER, **others}, VECTORS.tobytes() + bytes(4))
  np.testing.assert_array_equal(formats.read(path).vectors, VECTORS)
  assert "Tensor 'q' is not of floats" in refused(path, tensor="q")


def test_tensors_may_lie_at_any_byte(path):
  header = {"v": {**HEADER["v"], "data_offsets": [3, 27]}}
  write_raw(path, header, b"abc" + VECTORS.tobytes())
  np.testing.assert_array_equal(formats.read(path).vectors, VECTORS)


def test_several_tensors_are_listed_embeddings_first(path):
  header = {
    f"layers.{i}.weight": {
      "dtype": "F32",
      "shape": [2, 3],
      "data_offsets": [0, 24],
    }
    for i in range(20)
  }
  header["z.embed_tokens.weight"] = HEADER["v"]
  write_raw(path, header)
  message = refused(path)
  assert message.startswith(
    "Name the tensor, one of 'z.embed_tokens.weight' float32 [2, 3], 'layers.0"
  )
  assert message.endswith(", ....")
  message = refused(path, tensor="embed_token.weight")
  assert message.startswith(
    "It has no tensor 'embed_token.weight'; near: 'z.embed_tokens.weight'"
  )


def test_names_like_no_other_list_what_there_is(path):
  write_raw(path, HEADER)
  assert refused(path, tensor="embedding") == (
    "It has no tensor 'embedding'; near: 'v' float32 [2, 3]."
  )


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"dtype": "I8"}, "It has no floats of two axes: 'v' I8 [2, 3]"),
    ({"shape": [6]}, "It has no floats of two axes: 'v' float32 [6]"),
    ({"shape": [0, 3]}, "It has no vectors: 'v' has the shape [0, 3]"),
    ({"shape": [0, 2**70]}, "It has no vectors: 'v' has the shape [0, "),
    ({"shape": [2, 4]}, "Bytes 0 to 24 of 'v' do not fit its shape [2, 4]"),
    ({"shape": [-2, -3]}, "The shape or place of 'v' is not valid"),
    ({"shape": [True, 6]}, "The shape or place of 'v' is not valid"),
    ({"shape": "23"}, "The shape or place of 'v' is not valid"),
    ({"shape": 6}, "It has no floats of two axes: 'v' invalid []"),
    ({"data_offsets": [24, 48]}, "Bytes 24 to 48 of 'v' do not fit"),
    ({"data_offsets": [-24, 0]}, "The shape or place of 'v' is not valid"),
    ({"data_offsets": [0]}, "Tensor 'v' is not of floats"),
    ({"data_offsets": None}, "Tensor 'v' is not of floats"),
  ],
)
def test_hostile_entries(change, message, path):
  write_raw(path, {"v": {**HEADER["v"], **change}})
  assert refused(path).startswith(message)
  assert refused(path, tensor="v")


@pytest.mark.parametrize(
  ("header", "message"),
  [
    (b"[]", "The header is not a JSON object"),
    (b"{}", "It has no floats of two axes: nothing at all"),
    (b'{"v": 1}', "It has no floats of two axes: 'v' invalid []"),
    (b'{"v": 1, "v": 2}', "The header is not valid JSON"),
    (b"[" * 10_000, "The header is not valid JSON"),
    (b"\xff\xff", "The header is not valid JSON"),
    (b"", "Its first bytes ask for a header of 0 bytes"),
  ],
)
def test_hostile_headers(header, message, path):
  write_raw(path, header)
  assert refused(path).startswith(message)


@pytest.mark.parametrize("size", [1, 7, 8, 40])
def test_files_that_are_cut_off(size, path):
  write_raw(path, HEADER)
  path.write_bytes(path.read_bytes()[:size])
  assert "cut off" in refused(path)


def test_tables_of_ours_are_dense_again(path):
  table = tables.AnchorTable(
    VECTORS,
    weights=np.float32([[1, 0], [0.5, 2], [0, 1]]),
    vocabulary=["a", "b", "c"],
  )
  table.save(path)
  matrix = formats.read(path)
  assert matrix.vocabulary == ("a", "b", "c")
  np.testing.assert_array_equal(matrix.vectors, table.to_dense())
  # A tensor by its name is what the file has there.
  np.testing.assert_array_equal(
    formats.read(path, tensor="anchors").vectors, VECTORS
  )


def test_damaged_tables_of_ours_are_refused_once_named(path):
  tables.DenseTable(VECTORS).save(path)
  data = bytearray(path.read_bytes())
  data[-1] ^= 1
  path.write_bytes(data)
  assert refused(path).startswith("Tensor 'rows' does not match its checksum")


def test_tables_are_told_from_other_files(path, tmp_path):
  write_raw(path, HEADER)
  assert not formats.is_table(path)
  tables.DenseTable(VECTORS, vocabulary=["a", "b"]).save(path)
  assert formats.is_table(path)
  path.write_bytes(path.read_bytes()[:-4])
  assert formats.is_table(path)  # It was one, and its reader says what it is.
  metadata = {
    "format": storage.FORMAT,
    "format_version": str(storage.FORMAT_VERSION),
    "kind": "text_transformer",
  }
  storage.write(path, {"encoder.bias": VECTORS}, metadata)
  assert not formats.is_table(path)
  np.testing.assert_array_equal(formats.read(path)[0], VECTORS)
  other = tmp_path / "vectors.txt"
  other.write_text("cat 1 2\n")
  assert not formats.is_table(other)
  with pytest.raises(FileNotFoundError):
    formats.is_table(tmp_path / "none")


def test_bfloat16_without_ml_dtypes(path, monkeypatch):
  header = {"v": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]}}
  write_raw(path, header, bytes(12))
  monkeypatch.setitem(sys.modules, "ml_dtypes", None)
  with pytest.raises(ImportError, match="pip install ml_dtypes"):
    formats.read(path)
