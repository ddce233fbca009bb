"""Tests of the benchmark of serving."""

import importlib.util
import json

import numpy as np
import pytest

from experiments.benchmarks import serve, serve_sides

SIZES = serve_sides.Sizes(
  num_embeddings=300, features=16, num_ids=64, num_queries=3, turns=1, k=5
)


@pytest.fixture(name="compact", scope="module")
def fixture_compact():
  return serve_sides.make_tables(SIZES)


def test_tables_are_of_the_size_that_is_asked_for(compact):
  for name, table in compact.items():
    assert (table.num_embeddings, table.features) == (300, 16), name
  assert compact["codes, 8 bits"].bits_per_row == 128
  assert compact["codes, 4 bits"].bits_per_row == 64
  assert compact["int4 rows"].bits_per_row == 64 + 32


def test_sides_take_turns(compact):
  calls = []
  sides = [
    serve_sides.Side(name, lambda ids, name=name: calls.append((name, *ids)), 1)
    for name in "ab"
  ]
  seconds = serve.measure(sides, [np.array([i]) for i in range(3)])
  assert [len(found) for found in seconds.values()] == [2, 2]
  assert calls == [("b", 0), ("a", 0), ("a", 1), ("b", 1), ("b", 2), ("a", 2)]


def test_ratios_are_of_pairs():
  sides = [serve_sides.Side(name, print, 2_000_000) for name in "ab"]
  seconds = {"a": [2.0, 4.0, 8.0], "b": [1.0, 1.0, 16.0]}
  first, second = serve.summarize("task", sides, seconds, 8)
  assert first["ratio"] == 1
  assert second == {
    "task": "task",
    "name": "b",
    "megabytes": 2,
    "rate": 8,
    "milliseconds": 1000,
    "ratio": 2,
  }


def test_recall_is_of_the_exact_rows_of_the_same_table(compact):
  table, queries = compact["anchors"], np.ones((2, 16), np.float32)
  exact = table.top_k(queries, 4)[1]
  half = np.where(np.arange(4) < 2, exact, -1)
  sides = [
    serve_sides.Side("full", lambda q: exact, 1),
    serve_sides.Side("anchors, ours", lambda q: exact, 1),
    serve_sides.Side("anchors, half", lambda q: half, 1),
  ]
  found = serve.recalls(sides, compact, queries, 4)
  assert found == {"anchors, ours": 1, "anchors, half": 0.5}


def test_numbers_are_printed_and_written(
  compact, tmp_path, monkeypatch, capsys
):
  has = importlib.util.find_spec
  monkeypatch.setattr(
    importlib.util,
    "find_spec",
    lambda name: None if name in ("torch", "fbgemm_gpu") else has(name),
  )
  few = {name: compact[name] for name in ("codes, 8 bits", "codes, 4 bits")}
  monkeypatch.setattr(serve_sides, "make_tables", lambda sizes: few)
  starts = [{"name": "made up", "file": 1.0, "memory": 2.0, "start": 3.0}]
  monkeypatch.setattr(serve, "measure_starts", lambda dense, tables: starts)
  found = serve.run_benchmark(SIZES, tmp_path)
  record = json.loads((tmp_path / "serve.json").read_text())
  assert record["speed"] == found["speed"]
  assert record["sizes"]["k"] == 5
  tasks = {cell["task"] for cell in found["speed"]}
  assert tasks == {"lookup", "lookup in JAX", "bags of 32", "top_k"}
  best = {c["name"]: c.get("recall") for c in found["speed"] if "recall" in c}
  assert best["codes, 8 bits, ours"] == 1
  assert best["full, NumPy"] is None
  output = capsys.readouterr().out
  assert "made up" in output
  assert "Not installed, and so left out: PyTorch, FBGEMM" in output


def test_a_start_is_measured_in_a_process_of_its_own(compact, tmp_path):
  path = tmp_path / "table.safetensors"
  compact["codes, 8 bits"].save(path)
  cell = serve._start("codes", path, "map")
  assert cell["start"] > 0
  assert cell["memory"] >= 0
  assert cell["file"] == path.stat().st_size / 1e6
