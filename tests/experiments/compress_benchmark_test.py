"""Tests of the benchmark of compressing given vectors, and of what it needs."""

import dataclasses
import doctest
import hashlib
import json

import numpy as np
import pytest

from anchor_codes import compression, tables
from experiments import item_factors, ranking, reporting, word_quality
from experiments.benchmarks import (
  compress,
  compress_givens,
  compress_scale,
  compress_tables,
  peers,
)
from experiments.datasets import embeddings, ratings

WORDS = ("the", "Berlin", "athens", "greece", "germany", "cat")


def walks(size=200, features=12, seed=0):
  rng = np.random.default_rng(seed)
  return compress_scale.random_walks(rng, size, features)


def given(tasks=None):
  return compress_givens.Given("toy", walks(), tasks or {})


@pytest.mark.parametrize("module", [compress_tables, item_factors, peers])
def test_examples(module):
  assert doctest.testmod(module).failed == 0


# Given vectors.


@pytest.fixture(name="data_dir")
def fixture_data_dir(tmp_path, monkeypatch):
  """Makes up all files, with sums that are those that are expected."""
  rng = np.random.default_rng(0)
  words = np.array(WORDS)
  glove = {
    "words": words,
    "q": rng.integers(-127, 128, (6, 4)).astype(np.int8),
    "scale": np.float32([1, 2, 3, 4, 5, 6]),
  }
  vectors = rng.standard_normal((6, 4)).astype(np.float16)
  parts = {"glove": glove, "ppmi": {"words": words, "vectors": vectors}}
  known = dict(embeddings._KNOWN)
  for name, arrays in parts.items():
    path = tmp_path / known[name].folder / known[name].filename
    path.parent.mkdir(parents=True)
    np.savez(path, **arrays)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    known[name] = known[name]._replace(sha256=digest)
  monkeypatch.setattr(embeddings, "_KNOWN", known)
  text = "Athens Greece 5\r\ncat the 1\r\n"
  pairs, folder = dict(word_quality._PAIRS), tmp_path / word_quality._FOLDER
  for name, (filename, _, origin) in pairs.items():
    pairs[name] = filename, _write_known(folder / filename, text), origin
  monkeypatch.setattr(word_quality, "_PAIRS", pairs)
  filename, _, origin = word_quality._QUESTIONS
  digest = _write_known(folder / filename, "Athens Greece Berlin Germany\n")
  monkeypatch.setattr(word_quality, "_QUESTIONS", (filename, digest, origin))
  return tmp_path


def _write_known(path, text):
  path.parent.mkdir(exist_ok=True)
  path.write_bytes(text.encode())
  return hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize("name", embeddings.WORD_VECTOR_NAMES)
def test_word_vectors_come_with_tasks(data_dir, name):
  found = compress_givens.load_given(name, data_dir=data_dir, workdir="unused")
  assert found.matrix.shape == (6, 4)
  assert found.matrix.dtype == np.float32
  assert list(found.tasks) == ["men", "ws353", "analogies"]
  measured = found.measure(found.matrix)
  assert (measured["error"], measured["neighbors"]) == (0, 1)
  assert set(found.tasks) < set(measured)


def test_scales_are_of_127(data_dir):
  found = embeddings.load_word_vectors("glove", data_dir=data_dir)
  with np.load(next(data_dir.rglob("glove*.npz"))) as file:
    expected = file["q"] * file["scale"][:, None] / 127
  np.testing.assert_allclose(found.vectors, expected, rtol=1e-6)
  assert found.words == WORDS


def test_unknown_names_are_refused(tmp_path):
  with pytest.raises(ValueError, match=r"`name` must be one of .* got 'word2"):
    embeddings.load_word_vectors("word2vec")
  with pytest.raises(ValueError, match="`tables` must be one of 'glove', 'pp"):
    compress_givens.load_given("x", data_dir=None, workdir=tmp_path)
  with pytest.raises(FileNotFoundError, match="wt2_ppmi_svd_200d"):
    embeddings.load_word_vectors("ppmi", data_dir=tmp_path)


# The recommender.


def test_recall_is_that_of_lists_user_by_user():
  rng = np.random.default_rng(0)
  users, items = rng.standard_normal((2, 9, 3)).astype(np.float32)
  draw = lambda: np.argwhere(rng.random((8, 9)) < 0.3)  # The last seeks none.
  factors = item_factors.Factors(users, items, draw(), draw())
  shares = []
  for user in range(9):
    known = set(factors.known[factors.known[:, 0] == user, 1].tolist())
    sought = set(factors.sought[factors.sought[:, 0] == user, 1].tolist())
    order = np.argsort(-(items @ users[user])).tolist()
    best = [item for item in order if item not in known][:2]
    if sought - known:
      share = len((sought - known) & set(best)) / len(sought - known)
      shares.append(share)
  found = item_factors.recall(items, factors, length=2)
  assert found == pytest.approx(np.mean(shares))
  assert item_factors.recall(items, factors) == 1  # Longer than all items.


def test_recommender_is_trained_once(tmp_path, monkeypatch):
  rating = np.arange(60)
  data = ratings.number_movielens(
    "toy",
    users=rating // 6,
    items=rating % 6,
    values=rating % 5,
    order=rating,
    source="ours",
  )
  trained = []

  def train(config, workdir, *, data, run_type):
    trained.append(config)
    assert run_type is ranking.RankingRun
    for name, size in (("users", 10), ("items", 6)):
      vectors = walks(size, 4)
      tables.DenseTable(vectors).save(workdir / f"{name}.safetensors")
    result = reporting.RunResult(
      experiment="train_recommender",
      dataset="toy",
      embedding="full",
      seed=0,
      metrics={},
      embedding_params=1,
      embedding_bytes=1,
      dense_bytes=1,
      training_bytes=1,
      seconds=1.0,
      seconds_per_epoch=1.0,
      config=dataclasses.asdict(config),
    )
    reporting.write_result(result, workdir)
    return result

  monkeypatch.setattr(item_factors.recommending, "train_and_evaluate", train)
  monkeypatch.setattr(
    item_factors.datasets, "load_ratings", lambda *args, **options: data
  )
  (tmp_path / "recommender").mkdir()
  load = lambda: compress_givens.load_given(
    "recommender", data_dir="somewhere", workdir=tmp_path
  )
  first, second = load(), load()
  assert [config.data_dir for config in trained] == ["somewhere"]
  assert first.digest == second.digest
  assert first.matrix.shape == (6, 4)
  factors = first.tasks["recall"].keywords["factors"]
  assert (len(factors.known), len(factors.sought)) == (54, 6)
  assert first.measure(first.matrix)["recall"] == 1  # Of all six items.


# The whole benchmark.


def run(folder, *, ratios=(8.0,), families=("PCA + int8",), toy=None):
  return compress.run_benchmark(
    [toy or given()], folder, ratios=ratios, families=families
  )["toy"]


def test_quick_run_writes_tables(tmp_path):
  made_up = compress_givens.make_up()
  results = compress.run_benchmark([made_up], tmp_path, **compress.QUICK)
  found = results["made up"]
  record = json.loads((tmp_path / "compress.json").read_text())
  assert record["tables"]["made up"]["rows"] == found["rows"]
  assert record["missing"] == []
  text = (tmp_path / "compress.md").read_text()
  assert "## made up, 400 x 16" in text
  assert f"- {found['verdicts'][0]}\n" in text
  assert "Not installed" not in text
  kinds = [row["kind"] for row in found["rows"]]
  assert kinds[:3] == ["reference", "reference", "ours"]
  assert {*kinds} == {"reference", "ours", "tried", "peer"}
  for row in found["rows"][2:]:
    assert row["nbytes"] <= 25_600 / 8
    assert row["target"] == 8


@pytest.fixture(name="compressed")
def fixture_compressed(monkeypatch):
  """Takes the place of `compress`; returns the budgets that it was given."""
  budgets = []

  def work(matrix, *, budget, metric):
    if metric == "error":
      budgets.append(budget)
    table = tables.DenseTable.from_dense(matrix, dtype="int8")
    quality = {"error": 0.5, "neighbors": 0.5}
    trial = compression.Trial("int8", budget, quality, 1.0, chosen=True)
    report = compression.Report(metric, budget, 1, (trial,), {}, 2.0)
    return compression.Compressed(table, report)

  monkeypatch.setattr(compress.compression, "compress", work)
  return budgets


def test_records_are_not_made_twice(compressed, tmp_path):
  first = run(tmp_path, ratios=(8.0, 4.0))
  assert compressed == [1200, 2400]
  # Another ratio goes on, other vectors start again.
  again = run(tmp_path, ratios=(8.0, 4.0, 2.0))
  assert compressed == [1200, 2400, 4800]
  assert again["rows"][: len(first["rows"])] == first["rows"]
  toy = compress_givens.Given("toy", walks(seed=1), {})
  run(tmp_path, toy=toy)
  assert compressed[3:] == [1200]


def test_tasks_are_measured_for_all_but_trials(compressed, tmp_path):
  toy = given({"men": lambda vectors: float(len(vectors))})
  rows = run(tmp_path, toy=toy)["rows"]
  assert {row["kind"] for row in rows if "men" not in row} == {"tried"}
  assert {row.get("men") for row in rows} == {200.0, None}
  lines = (tmp_path / "compress.md").read_text().splitlines()
  heading = next(line for line in lines if "| Method" in line)
  assert "| MEN |" in heading.replace("  ", "")
  assert "Recall" not in heading


def row(kind, error, **cells):
  cells = {"family": "PQ", "target": 8.0, "neighbors": 1 - error, **cells}
  return {"kind": kind, "method": f"m{error}", "error": error, **cells}


def ours(error, **cells):
  """Rows of ours, by the error and by the neighbours."""
  other = {"error": error + 0.5, "method": "n"} | cells
  return [
    row("ours", error, metric="error", **cells),
    row("ours", 0.0, metric="neighbors", neighbors=0.9) | other,
  ]


def test_tables_show_the_best_of_each_family():
  rows = [
    row("ours", 0.5),
    row("peer", 0.3),
    row("peer", 0.2),
    row("peer", 0.1, target=4.0),
    row("peer", 0.4, family="RQ"),
    row("tried", 0.6),
  ]
  assert [r["error"] for r in compress_tables.shown(rows)] == [
    *(0.5, 0.2, 0.1, 0.4),
    0.6,
  ]


def test_families_have_their_best_at_each_ratio():
  rows = [
    {"kind": "reference", "method": "full"},
    row("peer", 0.3),
    row("peer", 0.2, neighbors=0.1),
    row("peer", 0.1, target=4.0),
    *ours(0.25),
    row("tried", 0.5) | {"method": "tried anchors:64x1+opq:8x16x2"},
    row("tried", 0.6, target=4.0) | {"method": "tried anchors:9x1+opq:8x16x2"},
    row("tried", 1.0) | {"method": "tried int4"},
  ]
  assert compress_tables.by_family(rows) == [
    {"family": "auto", "8": ".2500 / .900"},
    {"family": "`anchors+opq`", "8": ".5000 / .500", "4": ".6000 / .400"},
    {"family": "`int4`", "8": "1.0000 / .000"},
    {"family": "PQ", "8": ".2000 / .700", "4": ".1000 / .900"},
  ]


def test_verdicts_are_about_the_best_of_the_others():
  rows = [*ours(0.19), row("peer", 0.3), row("peer", 0.2)]
  rows[3]["method"] = "OPQ"
  rows[2]["neighbors"] = 0.75
  lines = ["toy, 8x, error: m0.19 0.1900, ", "toy, 8x, neighbors: n 0.9000, "]
  assert compress.verdicts(given(), rows) == [
    f"{lines[0]}best peer 0.2000 (OPQ), difference -5.0 %",
    f"{lines[1]}best peer 0.8000 (OPQ), difference +12.5 %",
  ]
  none = [f"{line}no peer fits" for line in lines]
  assert compress.verdicts(given(), rows[:2]) == none


def test_the_test_of_a_task_chooses_no_sizes():
  rows = [
    *ours(0.1, men=0.2),
    row("peer", 0.3, men=0.9),
    row("peer", 0.2, men=0.25),
    row("peer", 0.4, men=0.1, family="RQ"),
  ]
  toy = given({"men": len})
  line = "toy, 8x, men: n 0.2000, best peer 0.2500 (m0.2), "
  assert compress.verdicts(toy, rows)[2] == f"{line}difference -20.0 %"
  # There is nothing to divide by.
  rows[3]["men"] = rows[4]["men"] = 0.0
  assert compress.verdicts(toy, rows)[2].endswith("peer 0.0000 (m0.2)")


def test_scale_is_measured_in_another_process(tmp_path):
  found = compress_scale.measure(
    tmp_path, size=1500, features=16, ratio=16, recipe="opq:4x16x4"
  )
  assert found["nbytes"] <= 1500 * 16 * 4 / 16
  assert found["recipe"] == "opq:4x16x4"
  assert found["ratio"] >= 16
  assert 0 < found["error"] < 0.5
  assert min(found["seconds"], found["cpu_seconds"], found["gigabytes"]) > 0
  assert [path.name for path in tmp_path.iterdir()] == ["scale.json"]
  assert set(compress_scale.COLUMNS) <= set(found)


def test_walks_are_written_as_they_are_drawn(tmp_path, monkeypatch):
  monkeypatch.setattr(compress_scale, "_BLOCK", 30)
  compress_scale.write_matrix(tmp_path / "x.npy", size=70, features=5)
  found = np.load(tmp_path / "x.npy", mmap_mode="r")
  assert found.dtype == np.float32
  rng = np.random.default_rng(0)
  expected = [
    walk
    for n in (30, 30, 10)
    for walk in compress_scale.random_walks(rng, n, 5)
  ]
  np.testing.assert_array_equal(found, expected)
