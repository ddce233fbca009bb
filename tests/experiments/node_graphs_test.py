"""Tests of graphs by name, and of the files that a user may have."""

import hashlib

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from experiments.datasets import node_features, node_folders, node_graphs

EYE = node_features.from_dense(np.eye(4))
EDGES = "source,target\n0,1\n1,2\n"
LABELS = "node,label,split\n0,a,train\n1,b,train\n2,a,valid\n3,b,test\n"


def write(folder, *, edges=EDGES, labels=LABELS, features=None):
  np.savez(folder / "features.npz", **(features or {"features": np.eye(4)}))
  (folder / "edges.csv").write_text(edges, encoding="utf-8")
  (folder / "labels.csv").write_text(labels, encoding="utf-8")
  return f"own:{folder}"


def csr(**changes):
  parts = {
    "indptr": np.array([0, 2, 2, 3, 4]),
    "indices": np.array([0, 2, 1, 1]),
    "data": np.array([1.0, 2.0, 3.0, 4.0]),
    "shape": np.array([4, 3]),
  }
  return parts | changes


def make(edges=(), labels=(0, 1, 0, 1), **splits):
  chosen = {"train": [0, 1], "valid": [2], "test": [3]} | splits
  return node_graphs.make_graph(
    "toy",
    EYE,
    np.array(edges, int),
    np.array(labels),
    splits=chosen,
    classes=("a", "b"),
    source="ours",
  )


# Published graphs.


@pytest.mark.parametrize(
  ("name", "sizes"),
  [
    ("cora", (2708, 1433, 49_216, 5278, 7, 140, 0, 0)),
    ("citeseer", (3327, 3703, 105_165, 4552, 6, 120, 15, 48)),
  ],
)
def test_published_graph_has_its_known_size(name, sizes):
  try:
    data = node_graphs.load_node_graph(name)
  except FileNotFoundError as error:
    pytest.skip(str(error))
  found = (
    data.features.num_nodes,
    data.features.num_words,
    len(data.features.data),
    len(data.edges),
    len(data.classes),
    len(data.train),
    data.counts["unlabelled_nodes"],
    data.counts["isolated_nodes"],
  )
  assert found == sizes
  assert (len(data.valid), len(data.test)) == (500, 1000)
  assert data.counts["nodes_without_words"] == sizes[6]
  per_class = np.bincount(data.labels[data.train])
  np.testing.assert_array_equal(per_class, [20] * len(data.classes))
  # Papers cite papers of their own class, mostly.
  ends = data.labels[data.edges]
  same = np.mean(np.equal(*ends[(ends >= 0).all(axis=1)].T))
  assert same == pytest.approx(
    {"cora": 0.810, "citeseer": 0.738}[name], abs=2e-3
  )


@pytest.fixture(name="small_cora")
def fixture_small_cora(tmp_path, monkeypatch):
  """A small file in the form of the published one, with `shape` transposed."""
  path = tmp_path / "planetoid" / "cora.npz"
  path.parent.mkdir()
  np.savez(
    path,
    **csr(shape=np.array([3, 4])),
    labels=np.array([0, 1, 0, -1]),
    edges=np.array([[0, 1], [1, 2]]),
    train_idx=np.array([0]),
    val_idx=np.array([1]),
    test_idx=np.array([2]),
  )
  digest = hashlib.sha256(path.read_bytes()).hexdigest()
  small = node_graphs.Published(digest, num_words=3, num_classes=2)
  monkeypatch.setitem(node_graphs.PUBLISHED, "cora", small)
  return tmp_path


@pytest.mark.filterwarnings("ignore:cora. the class")
def test_a_transposed_shape_does_not_matter(small_cora):
  data = node_graphs.load_node_graph("cora", data_dir=small_cora)
  assert (data.features.num_nodes, data.features.num_words) == (4, 3)
  assert data.labels.tolist() == [0, 1, 0, -1]
  assert data.counts == {
    "nodes": 4,
    "edges": 2,
    "self_loops": 0,
    "repeated_edges": 0,
    "isolated_nodes": 1,
    "nodes_without_words": 1,
    "unlabelled_nodes": 1,
  }


@pytest.mark.filterwarnings("ignore:cora. the class")
def test_an_unknown_file_gives_a_warning(small_cora, monkeypatch):
  known = node_graphs.PUBLISHED["cora"]._replace(sha256="0" * 64)
  monkeypatch.setitem(node_graphs.PUBLISHED, "cora", known)
  with pytest.warns(UserWarning, match="is not the published file"):
    node_graphs.load_node_graph("cora", data_dir=small_cora)


def test_missing_file_says_what_to_do(tmp_path):
  with pytest.raises(FileNotFoundError, match="train_idx") as caught:
    node_graphs.load_node_graph("citeseer", data_dir=tmp_path)
  assert str(tmp_path / "planetoid" / "citeseer.npz") in str(caught.value)


@pytest.mark.parametrize("name", ["", "pubmed", "Cora", "own"])
def test_unknown_name_lists_the_known(name):
  with pytest.raises(ValueError, match="'cora', 'citeseer' or 'own:FOLDER'"):
    node_graphs.load_node_graph(name)


# Edges, and what a graph must have.


@hypothesis.given(
  st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=20)
)
def test_edges_are_cleaned_and_counted(pairs):
  edges, counts = node_graphs.clean_edges(np.array(pairs, int), num_nodes=6)
  expected = sorted({tuple(sorted(pair)) for pair in pairs if len({*pair}) > 1})
  assert [tuple(edge) for edge in edges.tolist()] == expected
  assert counts["self_loops"] == sum(a == b for a, b in pairs)
  dropped = counts["self_loops"] + counts["repeated_edges"]
  assert counts["edges"] == len(pairs) - dropped
  touched = {node for edge in expected for node in edge}
  assert counts["isolated_nodes"] == 6 - len(touched)


@pytest.mark.parametrize("edge", [(0, 6), (-1, 2)])
def test_edges_join_nodes_that_exist(edge):
  bad = next(node for node in edge if not 0 <= node < 6)
  with pytest.raises(ValueError, match=rf"in \[0, 6\), got node {bad}"):
    node_graphs.clean_edges(np.array([edge]), num_nodes=6)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"valid": []}, "the split 'valid' must not be empty"),
    ({"test": [4]}, r"nodes of 'test' must be in \[0, 4\), got 4"),
    ({"test": [0]}, "node 0 must be in one split only"),
    ({"test": [3, 3]}, "node 3 must be in one split only"),
    ({"labels": (0, 1, -1, 1)}, "node 2 of 'valid' has no label"),
    ({"labels": (0, 1, 0)}, r"`labels` must be \[4\].* got \(3,\)"),
  ],
)
def test_bad_graphs_are_refused(changes, message):
  with pytest.raises(ValueError, match=f"^toy: .*{message}"):
    make(**changes)


def test_a_class_without_training_nodes_gives_a_warning():
  message = "class 'b' has no node to learn from: its 1 nodes in validation"
  with pytest.warns(UserWarning, match=message):
    data = make(labels=(0, 0, 0, 1))
  assert data.classes == ("a", "b")


# Features.


def test_both_forms_of_features_are_the_same(tmp_path):
  dense = np.array([[0, 2.5, 0], [0, 0, 0], [-1, 0, 3]])
  found = node_features.from_dense(dense)
  parts = csr(
    indptr=np.array([0, 1, 1, 3]),
    indices=np.array([1, 0, 2]),
    data=np.array([2.5, -1, 3]),
    shape=np.array([3, 3]),
    format=np.array(b"csr"),
  )
  np.savez(tmp_path / "sparse.npz", **parts)
  other = node_features.read_features(tmp_path / "sparse.npz")
  for mine, theirs in zip(found, other, strict=True):
    np.testing.assert_array_equal(mine, theirs)
  assert found.data.dtype == np.float32
  np.testing.assert_array_equal(found.nodes, [0, 2, 2])
  normal = found.normalized().data
  np.testing.assert_allclose(normal, [1, -0.25, 0.75])


def test_features_of_scipy_are_read(tmp_path):
  sparse = pytest.importorskip("scipy.sparse")
  matrix = sparse.random(6, 5, density=0.4, format="csr", rng=0)
  sparse.save_npz(tmp_path / "features.npz", matrix)
  found = node_features.read_features(tmp_path / "features.npz")
  rebuilt = sparse.csr_matrix(
    (found.data, found.indices, found.indptr), (6, found.num_words)
  )
  np.testing.assert_allclose(rebuilt.toarray(), matrix.toarray(), rtol=1e-6)
  sparse.save_npz(tmp_path / "features.npz", matrix.tocsc())
  with pytest.raises(ValueError, match="format 'csr', got 'csc'"):
    node_features.read_features(tmp_path / "features.npz")


@pytest.mark.parametrize(
  ("arrays", "message"),
  [
    ({"features": np.array([[1, np.nan]])}, "word 1 of node 0 .* not finite"),
    ({"features": np.array([[1.0], [np.inf]])}, "word 0 of node 1"),
    ({"features": np.array([[1e300]])}, "not finite: inf"),
    ({"features": np.zeros(3)}, r"must be \[num_nodes, num_words\], got \(3,"),
    ({"features": np.zeros((0, 3))}, r"got \(0, 3\)"),
    ({"features": np.array([["a"]])}, "must be real numbers, got <U1"),
    ({"features": np.array([[None]])}, "allow_pickle"),
    ({"matrix": np.eye(2)}, r"must hold 'indptr', .* got \['matrix'\]"),
    (csr(data=np.array([1.0, 2.0, np.nan, 4.0])), "word 1 of node 2 has a"),
    (csr(indices=np.array([0, 3, 1, 1])), "word 3 of node 0 is out of range"),
    (csr(indices=np.array([0, -1, 1, 1])), "word -1 of node 0"),
    (csr(indices=np.array([0.0, 2, 1, 1])), "`indices` must be integers"),
    (csr(indptr=np.array([0, 2, 1, 3, 4])), "`indptr` must ascend"),
    (csr(indptr=np.array([0, 2, 2, 3, 5])), "number of entries, got 5 for 4"),
    (csr(shape=np.array([3, 4])), r"the 4 rows of `indptr`, got \[3, 4\]"),
  ],
)
def test_bad_features_are_refused(tmp_path, arrays, message):
  np.savez(tmp_path / "features.npz", **arrays)
  with pytest.raises(ValueError, match=message) as caught:
    node_features.read_features(tmp_path / "features.npz")
  assert str(tmp_path / "features.npz") in str(caught.value)


def test_files_of_another_kind_are_refused(tmp_path):
  path = tmp_path / "features.npz"
  path.write_text("not a zip")
  with pytest.raises(ValueError, match=r"features\.npz"):
    node_features.read_features(path)
  path.write_bytes(b"PK\x03\x04 cut short")
  with pytest.raises(ValueError, match=r"features\.npz"):
    node_features.read_features(path)
  with path.open("wb") as file:
    np.save(file, np.eye(2))
  with pytest.raises(ValueError, match="single array"):
    node_features.read_features(path)


# The user's own folder.


def test_own_folder_is_read(tmp_path):
  labels = (
    "split,weight,label,node\n\n"
    "train,1,10,0\ntrain,1,9,1\nvalid,1,10,3\ntest,1,9,4\n,1,10,2\n"
  )
  name = write(
    tmp_path,
    edges="\ufeffsource,target,kind\r\n4,1,x\n1,4,x\n2,2,x\n0,1,y\n",
    labels=labels,
    features={"features": np.eye(6, 7)},
  )
  data = node_graphs.load_node_graph(name)
  assert data.edges.tolist() == [[0, 1], [1, 4]]
  assert data.classes == ("9", "10")
  assert data.labels.tolist() == [1, 0, 1, 1, 0, -1]
  splits = data.train.tolist(), data.valid.tolist(), data.test.tolist()
  assert splits == ([0, 1], [3], [4])
  assert (data.counts["self_loops"], data.counts["repeated_edges"]) == (1, 1)
  assert data.counts["isolated_nodes"] == 3
  assert data.features.num_words == 7


def test_a_graph_may_have_no_edges(tmp_path):
  data = node_graphs.load_node_graph(write(tmp_path, edges="source,target\n"))
  assert data.edges.shape == (0, 2)
  assert data.counts["isolated_nodes"] == 4


@pytest.mark.parametrize(
  ("edges", "message"),
  [
    ("source,target\n0,1\n0,4\n", "line 3: 'target' is node 4, which does not"),
    ("source,target\n9,1\n", "line 2: 'source' is node 9, .* 4 nodes, 0 to 3"),
    ("source,target\n0,b7\n", "line 2: 'target' must be the number.* 'b7'"),
    ("source,target\n0,1.0\n", "got '1.0'"),
    ("source,target\n-1,1\n", "line 2: 'source' must be .* got '-1'"),
    ("source,target\n0,\n", "got ''"),
    ("source,target\n0,1,2\n", "line 2: must have 2 fields .* got 3"),
    ("source,to\n0,1\n", "must have the column 'target' once .* 0 times"),
    ("source,target,source\n", "'source' once .* 2 times"),
    ("", "must have the column 'source' once"),
    ('source,target\n0,"1\n', "line 2: unexpected end of data"),
  ],
)
def test_bad_edges_are_named(tmp_path, edges, message):
  name = write(tmp_path, edges=edges)
  with pytest.raises(ValueError, match=rf"edges\.csv.*{message}"):
    node_graphs.load_node_graph(name)


@pytest.mark.parametrize(
  ("labels", "message"),
  [
    (LABELS + "3,a,\n", r"labels\.csv, line 6: node 3 .* in line 5"),
    (LABELS + "4,a,\n", r"labels\.csv, line 6: 'node' is node 4"),
    (LABELS + "x,a,\n", "line 6: 'node' must be the number of a node"),
    (LABELS.replace("3,b,test", "3,b,dev"), "split of node 3 .* got 'dev'"),
    (LABELS.replace("3,b", "3,"), "node 3 of 'test' must have a label"),
    (LABELS.replace("label", "class"), "the column 'label' once"),
    (LABELS.replace("valid", ""), "split 'valid' must not be empty"),
    (LABELS.replace("train", ""), "split 'train' must not be empty"),
    (LABELS.replace(",b", ",a"), "must have at least 2 classes, got 1"),
    ("node,label,split\n", "at least 2 classes, got 0"),
  ],
)
def test_bad_labels_are_named(tmp_path, labels, message):
  with pytest.raises(ValueError, match=message):
    node_graphs.load_node_graph(write(tmp_path, labels=labels))


@pytest.mark.parametrize("filename", node_folders.FILENAMES)
def test_missing_files_of_a_folder_are_named(tmp_path, filename):
  name = write(tmp_path)
  (tmp_path / filename).unlink()
  with pytest.raises(FileNotFoundError, match=filename):
    node_graphs.load_node_graph(name)
