"""Tests of the benchmark of training steps, on tiny tables."""

import importlib.util
import json

import jax
import pytest

from experiments.benchmarks import train_step
from experiments.benchmarks import train_step_sides as sides

TINY = {"features": 16, "batch_size": 8, "steps": 2, "turns": 1}


@pytest.fixture(autouse=True, scope="module")
def _usual_promotion():
  # Adam of optax is not written for the strict settings of the unit tests.
  with jax.numpy_dtype_promotion("standard"):
    yield


def made_up(layer, mode, optimizer, size, milliseconds):
  return {
    "layer": layer,
    "mode": mode,
    "optimizer": optimizer,
    "num_embeddings": size,
    "milliseconds": milliseconds,
  }


@pytest.mark.parametrize("layer", ["full", "anchors", "fixed"])
def test_layers_train_by_row(layer):
  case = sides.Case(
    layer=layer,
    mode="row_sparse",
    optimizer="row_adagrad",
    num_embeddings=64,
    **TINY,
  )
  found = sides.measure(case)
  assert found["milliseconds"] > 0
  assert found["peak_bytes"] > found["state_bytes"] > 64


def test_quick_form_in_processes_of_their_own(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  cases = train_step.quick_cases(100, **TINY)[:2]
  metrics = train_step.run_benchmark(cases, tmp_path, size=100)
  record = json.loads((tmp_path / "result.json").read_text())
  assert record["metrics"] == metrics
  assert list(metrics) == ["row_sparse_speedup"]
  assert record["missing"] == ["PyTorch"]
  assert [row["mode"] for row in record["rows"]] == ["row_sparse", "dense"]
  # Three tables, and the counts of steps.
  tables = 3 * 100 * 16 * 4
  assert tables <= record["rows"][0]["state_bytes"] <= tables + 32
  assert (tmp_path / "train_step.png").stat().st_size > 1000
  assert "left out: PyTorch" in capsys.readouterr().out


def test_ratios_are_of_what_was_measured():
  rows = [
    made_up("full", "dense", "adam", 10**6, 60.0),
    made_up("full", "row_sparse", "adam", 10**6, 3.0),
    made_up("full", "torch", "adam", 10**6, 6.0),
    made_up("kd", "row_sparse", "row_adagrad", 10**5, 2.0),
    made_up("kd", "row_sparse", "row_adagrad", 10**7, 3.0),
    made_up("dpq", "row_sparse", "row_adagrad", 10**7, 3.0),
  ]
  assert train_step.compute_metrics(rows) == {
    "row_sparse_speedup": 20,
    "torch_ratio_adam": 2,
    "growth_1e5_to_1e7_kd": 1.5,
  }


def test_cases_fit():
  cases = train_step.all_cases(6e9)
  assert len(set(cases)) == len(cases)
  largest = {}
  for case in cases:
    key = case.layer, case.mode
    largest[key] = max(largest.get(key, 0), case.num_embeddings)
  assert largest["anchors", "row_sparse"] == 10**7
  assert largest["anchors", "dense"] == 10**6
  assert largest["kd", "row_sparse"] == 10**6
  assert largest["kd", "dense"] == 10**5
  assert ("fixed", "dense") not in largest


def test_failures_say_why():
  case = sides.Case(
    layer="no", mode="dense", optimizer="adam", num_embeddings=9, **TINY
  )
  with pytest.raises(RuntimeError, match=r"layer='no'.* KeyError: 'no'"):
    train_step.measure(case)
