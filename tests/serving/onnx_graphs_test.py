"""Tests of ONNX graphs, by onnxruntime."""

import sys

import numpy as np
import onnx
import onnxruntime
import pytest
from serving_cases import CASES, EXACT, V, codes, dense

from anchor_codes import serving, tables


def session(table, folder):
  path = folder / "table.onnx"
  serving.export_onnx(table, path)
  options = onnxruntime.SessionOptions()
  options.log_severity_level = 4
  options.intra_op_num_threads = 1
  return onnxruntime.InferenceSession(path, options)


def run(graph, ids):
  return graph.run(None, {"ids": np.asarray(ids, np.int64)})[0]


@pytest.mark.parametrize("name", CASES)
def test_the_graph_looks_up_the_same_vectors(name, tmp_path):
  table = CASES[name]()
  graph = session(table, tmp_path)
  for ids in ([0, V - 1, 3, 3, 4, 5, 9], [7], []):
    vectors = run(graph, ids)
    assert vectors.dtype == np.float32
    expected = table.lookup(ids)
    np.testing.assert_allclose(vectors, expected, rtol=1e-5, atol=1e-5)
    if name in EXACT:
      np.testing.assert_array_equal(vectors, expected)


@pytest.mark.parametrize("name", ["dense_int8", "hash_sum", "tiered"])
def test_ids_outside_are_errors(name, tmp_path):
  graph = session(CASES[name](), tmp_path)
  for bad in (-1, V, 2**40):
    with pytest.raises(Exception, match="out of data bounds"):
      run(graph, [0, bad])


@pytest.mark.parametrize("codebook_size", [2, 3, 9, 33, 100, 1000, 5000, 65536])
def test_digits_of_any_width(codebook_size, tmp_path):
  table = codes("concat", codebook_size=codebook_size, positions=1)
  ids = np.arange(V)
  np.testing.assert_array_equal(
    run(session(table, tmp_path), ids), table.to_dense()
  )


@pytest.mark.parametrize("size", [2**31, 2**32, 2**32 + 1, 2**62])
def test_hashes_of_many_ids(size, tmp_path):
  table = tables.HashTable(
    [np.arange(1000, dtype=np.float32)[:, None]],
    num_embeddings=size,
    addressing="hash",
    composition="sum",
    seed=2**32 - 1,
  )
  ids = np.random.default_rng(0).integers(0, size, 5000)
  ids[0] = size - 1
  np.testing.assert_array_equal(
    run(session(table, tmp_path), ids), table.lookup(ids)
  )


def test_the_file_says_what_it_is(tmp_path):
  serving.export_onnx(dense("int4"), tmp_path / "table.onnx")
  model = onnx.load(tmp_path / "table.onnx")
  properties = {p.key: p.value for p in model.metadata_props}
  assert properties == {
    "kind": "dense",
    "num_embeddings": "11",
    "features": "6",
  }
  assert [value.name for value in model.graph.input] == ["ids"]
  dim = model.graph.input[0].type.tensor_type.shape.dim[0]
  assert dim.dim_param == "batch"
  assert list(tmp_path.iterdir()) == [tmp_path / "table.onnx"]


def test_rows_are_as_small_as_in_the_table(tmp_path):
  table = codes("concat", codebook_size=256, num=5000)
  serving.export_onnx(table, tmp_path / "table.onnx")
  size = (tmp_path / "table.onnx").stat().st_size
  assert size < table.nbytes + 3000


def test_missing_onnx_is_named(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "onnx", None)
  with pytest.raises(ImportError, match="pip install onnx"):
    serving.export_onnx(dense("int8"), tmp_path / "table.onnx")
  assert not list(tmp_path.iterdir())


def test_other_things_are_refused(tmp_path):
  class Large(tables.DenseTable):
    nbytes = 2**31

  large = Large(np.ones((1, 1), np.float32))
  with pytest.raises(ValueError, match="at most 2146435072 bytes"):
    serving.export_onnx(large, tmp_path / "table.onnx")
