"""`anchor-codes convert`: each format by its suffix or its name."""

import json
import pathlib
import sys
import types

import numpy as np
import pytest

import anchor_codes
from anchor_codes import cli, formats, tables

VECTORS = np.float32([[1, 0], [4, 3], [0.9, 0]])
WORDS = ("cat", "dog", "eel")


@pytest.fixture
def source(tmp_path):
  path = tmp_path / "table.safetensors"
  table = tables.DenseTable.from_dense(VECTORS, dtype="int8", vocabulary=WORDS)
  table.save(path)
  return path


def run(capsys, *argv):
  code = cli.main(["convert", *[str(arg) for arg in argv]])
  output = capsys.readouterr()
  return code, output.out, output.err


@pytest.mark.parametrize("name", ["v.npy", "v.vec", "v.txt", "v.safetensors"])
def test_plain_formats(name, source, tmp_path, capsys):
  out = tmp_path / "out" / name
  out.parent.mkdir()
  code, text, err = run(capsys, source, out)
  assert (code, err) == (0, "")
  assert text.startswith(f"{out}: 3 x 2, ")
  matrix = formats.read(out)
  np.testing.assert_array_equal(matrix.vectors, tables.load(source).to_dense())
  assert matrix.vocabulary == (None if name == "v.npy" else WORDS)
  assert ("the words are not in it" in text) == (name == "v.npy")


def test_a_table_stays_as_it_is(source, tmp_path, capsys):
  out = tmp_path / "copy.safetensors"
  assert run(capsys, source, out)[0] == 0
  assert out.read_bytes() == source.read_bytes()


def test_vectors_of_others_become_a_table(tmp_path, capsys):
  source, out = tmp_path / "glove.txt", tmp_path / "glove.safetensors"
  formats.write(source, VECTORS, WORDS)
  code, _, err = run(capsys, source, out)
  assert (code, err) == (0, "")
  table = tables.load(out)
  assert table.vocabulary == WORDS
  np.testing.assert_array_equal(table.to_dense(), VECTORS)


def test_a_tensor_by_name(tmp_path, capsys):
  source, out = tmp_path / "model.npz", tmp_path / "v.npy"
  np.savez(source, a=VECTORS, b=2 * VECTORS)
  assert run(capsys, source, out, "--tensor", "b")[0] == 0
  np.testing.assert_array_equal(np.load(out), 2 * VECTORS)


def test_a_tensor_of_a_table_by_name(tmp_path, capsys):
  source, out = tmp_path / "table.safetensors", tmp_path / "v.npy"
  weights = np.float32([[1, 0, 2], [0, 3, 0]])
  tables.AnchorTable(VECTORS, weights=weights).save(source)
  assert run(capsys, source, out, "--tensor", "anchors")[0] == 0
  np.testing.assert_array_equal(np.load(out), VECTORS)


@pytest.mark.parametrize("words", [None, WORDS])
@pytest.mark.parametrize("name", ["v.npy", "v.safetensors"])
def test_json_tells_whether_the_words_are_there(name, words, tmp_path, capsys):
  source, out = tmp_path / "table.safetensors", tmp_path / "out" / name
  out.parent.mkdir()
  tables.DenseTable(VECTORS, vocabulary=words).save(source)
  _, text, _ = run(capsys, source, out, "--json")
  has_words = words is not None and name != "v.npy"
  assert json.loads(text)["vocabulary"] == has_words


def test_suffixes_in_capitals(source, tmp_path, capsys):
  out = tmp_path / "V.NPY"
  assert run(capsys, source, out)[0] == 0
  np.testing.assert_array_equal(np.load(out), tables.load(source).to_dense())


def test_the_name_goes_before_a_suffix_that_is_known(source, tmp_path, capsys):
  out = tmp_path / "v.vec"
  assert run(capsys, source, out, "--to", "npy")[0] == 0
  np.testing.assert_array_equal(np.load(out), tables.load(source).to_dense())


def test_the_name_goes_before_the_suffix(source, tmp_path, capsys):
  out = tmp_path / "v.dat"
  code, _, err = run(capsys, source, out)
  assert code == 1
  assert "must be one of .npy, .vec, " in err
  code, text, _ = run(capsys, source, out, "--to", "npy", "--json")
  assert code == 0
  assert json.loads(text) == {
    "file": str(out),
    "format": "npy",
    "num_embeddings": 3,
    "features": 2,
    "file_bytes": out.stat().st_size,
    "vocabulary": False,
  }


def test_a_missing_folder_is_named(source, tmp_path, capsys):
  out = tmp_path / "none" / "v.npy"
  code, text, err = run(capsys, source, out)
  assert (code, text) == (1, "")
  reason = f"[Errno 2] No such file or directory: '{out}'"
  assert err == f"anchor-codes: {reason}\n"


@pytest.fixture
def exports(monkeypatch):
  """Puts stand-ins in the place of the exports to other programs."""

  def export(name):
    def write(table, path):
      text = f"{name} of {table.num_embeddings} rows"
      pathlib.Path(path).write_text(text)

    return write

  def to_faiss(table):
    return table.num_embeddings

  def serialize_index(index):
    return f"faiss of {index} rows".encode()

  serving = types.SimpleNamespace(
    export_onnx=export("onnx"), export_jax=export("jax"), to_faiss=to_faiss
  )
  faiss = types.SimpleNamespace(serialize_index=serialize_index)
  monkeypatch.setitem(sys.modules, "anchor_codes.serving", serving)
  monkeypatch.setattr(anchor_codes, "serving", serving, raising=False)
  monkeypatch.setitem(sys.modules, "faiss", faiss)


@pytest.mark.parametrize(
  ("name", "kind"),
  [("v.onnx", "onnx"), ("v.jaxexport", "jax"), ("v.faiss", "faiss")],
)
@pytest.mark.usefixtures("exports")
def test_exports_by_suffix(name, kind, source, tmp_path, capsys):
  out = tmp_path / name
  code, text, err = run(capsys, source, out)
  assert (code, err) == (0, "")
  assert out.read_text() == f"{kind} of 3 rows"
  assert "the words are not in it" in text
  other = tmp_path / "other"
  assert run(capsys, source, other, "--to", kind)[0] == 0
  assert other.read_bytes() == out.read_bytes()


def test_onnx_in_earnest(source, tmp_path, capsys):
  import onnxruntime as runtime

  out = tmp_path / "v.onnx"
  assert run(capsys, source, out)[0] == 0
  session = runtime.InferenceSession(out, providers=["CPUExecutionProvider"])
  (found,) = session.run(None, {"ids": np.array([2, 0])})
  np.testing.assert_array_equal(found, tables.load(source).lookup([2, 0]))


def test_faiss_in_earnest(tmp_path, capsys):
  import faiss

  codes = np.arange(32).reshape(16, 2) % 16
  codebooks = np.random.default_rng(0).standard_normal((2, 16, 4))
  table = tables.CodeTable.from_codes(
    codes, codebooks.astype(np.float32), composition="concat"
  )
  source, out = tmp_path / "t.safetensors", tmp_path / "v.faiss"
  table.save(source)
  code, _, err = run(capsys, source, out)
  assert (code, err) == (0, "")
  index = faiss.read_index(str(out))
  assert (index.ntotal, index.d) == (16, 8)
  # An index is of codes: other kinds have none.
  tables.DenseTable(VECTORS).save(source)
  code, text, err = run(capsys, source, out)
  assert (code, text) == (1, "")
  assert err.count("\n") == 1


@pytest.mark.parametrize("name", ["x.npy", "x.onnx", "x.faiss"])
def test_a_missing_folder_is_told_by_the_name_that_was_given(
  name, tmp_path, capsys
):
  digits = np.random.default_rng(0).integers(16, size=(50, 4))
  books = np.ones((4, 16, 2), np.float32)
  path = tmp_path / "codes.safetensors"
  tables.CodeTable.from_codes(digits, books, composition="concat").save(path)
  out = tmp_path / "none" / name
  code, _, err = run(capsys, path, out)
  assert code == 1
  assert f"No such file or directory: '{out}'" in err
