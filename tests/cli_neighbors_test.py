"""`anchor-codes neighbors`: exact, by blocks, for any table."""

import json

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from anchor_codes import cli, tables
from anchor_codes.commands import neighbors

VECTORS = np.float32([[1, 0], [4, 3], [0.9, 0], [0, 2], [0, 0]])
WORDS = ["east", "far", "near", "north", "zero"]


@pytest.fixture
def path(tmp_path):
  path = tmp_path / "table.safetensors"
  tables.DenseTable(VECTORS, vocabulary=WORDS).save(path)
  return path


def run(capsys, *argv):
  code = cli.main(["neighbors", *[str(arg) for arg in argv]])
  output = capsys.readouterr()
  return code, output.out, output.err


def brute_force(vectors, ids, *, k, metric):
  """Finds neighbours one pair at a time, in float64."""
  vectors = vectors.astype(np.float64)
  found = []
  for i in ids:
    scores = []
    for j in range(len(vectors)):
      score = vectors[i] @ vectors[j]
      norms = np.linalg.norm(vectors[i]) * np.linalg.norm(vectors[j])
      if metric == "cosine" and norms > 0:
        score /= norms
      scores.append((-score, j))
    found.append([j for _, j in sorted(scores) if j != i][:k])
  return found


def test_lists_words_and_scores(path, capsys):
  code, out, err = run(capsys, path, "east", "3", "--k", "2")
  assert (code, err) == (0, "")
  assert out == (
    "east\n  near  1.0000\n  far   0.8000\n"
    "\n3\n  far   0.6000\n  east  0.0000\n"
  )


def test_the_product_is_an_option(path, capsys):
  code, out, _ = run(capsys, path, "east", "--k", "1", "--metric", "dot")
  assert (code, out) == (0, "east\n  far  4.0000\n")


def test_json_has_one_object_a_line(path, capsys):
  code, out, _ = run(capsys, path, "near", "east", "--json", "--k", "1")
  lines = [json.loads(line) for line in out.splitlines()]
  assert code == 0
  assert [line["symbol"] for line in lines] == ["near", "east"]
  assert lines[0]["neighbors"] == [{"symbol": "east", "id": 0, "score": 1.0}]


def test_more_than_there_are(path, capsys):
  _, out, _ = run(capsys, path, "zero", "--k", "99", "--json")
  found = json.loads(out)["neighbors"]
  # All alike to a vector of zeros: in the order of their ids.
  assert [row["id"] for row in found] == [0, 1, 2, 3]
  assert {row["score"] for row in found} == {0.0}


def test_tables_without_words_show_ids(tmp_path, capsys):
  path = tmp_path / "table.safetensors"
  tables.DenseTable(VECTORS).save(path)
  assert run(capsys, path, "0", "--k", "1")[1] == "0\n  2  1.0000\n"


def test_k_is_at_least_one(path, capsys):
  code, out, err = run(capsys, path, "east", "--k", "0")
  assert (code, out) == (1, "")
  assert err == "anchor-codes: `k` must be at least 1, got 0.\n"


def test_a_single_row_has_no_neighbors():
  table = tables.DenseTable(np.ones((1, 2), np.float32))
  scores, ids = neighbors.nearest(table, [0], k=3)
  assert scores.shape == ids.shape == (1, 0)


@pytest.mark.parametrize("size", [1e-25, 1e25])
def test_cosines_of_vectors_of_any_size(size):
  table = tables.DenseTable(VECTORS[:4] * np.float32(size))
  scores, ids = neighbors.nearest(table, [0, 3], k=2)
  assert ids.tolist() == [[2, 1], [1, 0]]
  np.testing.assert_allclose(scores, [[1, 0.8], [0.6, 0]], rtol=1e-6)
  assert scores.dtype == np.float32


@pytest.mark.parametrize("metric", neighbors.METRICS)
@hypothesis.given(data=st.data())
def test_equals_brute_force_over_any_blocks(metric, data):
  size = data.draw(st.integers(1, 12))
  # Whole numbers, so that ties are ties in both.
  values = st.lists(st.integers(-2, 2), min_size=2 * size, max_size=2 * size)
  vectors = np.float32(data.draw(values)).reshape(size, 2)
  table = tables.DenseTable(vectors)
  ids = data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=3))
  k = data.draw(st.integers(1, 14))
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(neighbors, "_BLOCK", data.draw(st.integers(1, 13)))
    scores, found = neighbors.nearest(table, ids, k=k, metric=metric)
  expected = brute_force(vectors, ids, k=k, metric=metric)
  if metric == "dot":
    assert found.tolist() == expected
  # Cosines that should tie may differ in the last bit.
  dense = vectors
  if metric == "cosine":
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    dense = vectors / np.where(norms > 0, norms, 1)
  for i, row, row_scores, best in zip(
    ids, found, scores, expected, strict=True
  ):
    np.testing.assert_allclose(row_scores, dense[row] @ dense[i], atol=1e-6)
    np.testing.assert_allclose(row_scores, dense[best] @ dense[i], atol=1e-6)
    assert len(set(row.tolist()) - {i}) == len(best)


def test_the_full_table_is_never_built(monkeypatch):
  table = tables.DenseTable(np.ones((10_000, 2), np.float32))
  sizes = []
  lookup = tables.DenseTable.lookup
  monkeypatch.setattr(
    tables.DenseTable,
    "lookup",
    lambda self, ids: sizes.append(len(ids)) or lookup(self, ids),
  )
  neighbors.nearest(table, [5], k=3)
  assert max(sizes) <= neighbors._BLOCK
  assert sum(sizes) == 10_001
