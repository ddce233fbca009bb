"""Tests of the benchmark of training speed; PyTorch's side is made up."""

import importlib.util
import json
import os

import jax
import numpy as np
import pytest

from experiments import language_modeling
from experiments.benchmarks import lstm_throughput as benchmark


@pytest.fixture(autouse=True, scope="module")
def _usual_promotion():
  # Optax mixes types.
  with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
    yield


@pytest.fixture(name="task", scope="module")
def fixture_task(tmp_path_factory):
  config = language_modeling.LanguageModelConfig(
    embedding="full",
    features=4,
    hidden=4,
    num_layers=1,
    batch_size=2,
    num_steps=3,
    data_dir=str(tmp_path_factory.mktemp("nothing")),
  )
  return benchmark.make_task(config, steps=4, turns=3, threads=1, vocab_size=20)


def turns(*seconds):
  return [benchmark.Turn(s, 2 * s, 3.0 - s) for s in seconds]


def test_batches_are_those_of_a_text(task):
  assert task.inputs.shape == task.targets.shape == (4, 4, 2, 3)
  np.testing.assert_array_equal(task.inputs[..., 1:], task.targets[..., :-1])
  assert task.vocab_size == 20
  assert task.inputs.max() < 20


def test_frequent_words_come_first():
  counts = np.bincount(benchmark.draw_tokens(50_000, 50), minlength=50)
  assert counts[0] > counts[5] > counts[20] > counts[49] > 0


def test_ours_trains(task):
  train = benchmark.make_ours(task)
  losses = [train(turn) for turn in range(4)]
  assert np.isfinite(losses).all()
  assert losses[-1] < losses[0]


def test_summary_is_of_pairs(task):
  found = {"ours": turns(1, 2, 1), "PyTorch": turns(2, 2, 4)}
  cells, ratio = benchmark.summarize(found, task)
  assert ratio == {"ratio": 2, "low": 1.5, "high": 3}
  assert cells[0] == {
    "name": "ours",
    "tokens": 24,  # 4 steps of 2 texts of 3 words in a second.
    "milliseconds": 250,
    "cpu": 500,
    "loss": 2,
  }


def test_one_side_has_no_ratio(task):
  assert benchmark.summarize({"ours": turns(1)}, task)[1] == {}


def test_missing_torch_is_named(task, monkeypatch):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  with pytest.raises(ValueError, match=r"pip install torch==2\.13\.0"):
    benchmark.measure(task)


def test_threads_are_limited_for_a_while():
  if not hasattr(os, "sched_getaffinity"):
    pytest.skip("needs Linux, where a process may choose its cores")
  allowed = os.sched_getaffinity(0)
  with benchmark._limited(1):
    assert len(os.sched_getaffinity(0)) == 1
  assert os.sched_getaffinity(0) == allowed


def test_numbers_are_printed_and_written(task, tmp_path, monkeypatch, capsys):
  found = {"ours": turns(1, 2, 1), "PyTorch": turns(2, 2, 4)}
  monkeypatch.setattr(
    benchmark,
    "measure",
    lambda task, sides: {name: found[name] for name in sides},
  )
  assert benchmark.run_benchmark(task, tmp_path)["ratio"] == 2
  record = json.loads((tmp_path / "lstm_throughput.json").read_text())
  assert (record["ratio"], record["threads"]) == (2, 1)
  assert record["rows"][1]["name"] == "PyTorch"
  assert "2.00 (median of 3 pairs; quartiles 1.50 and 3.00" in (
    capsys.readouterr().out
  )
  assert benchmark.run_benchmark(task, tmp_path, against_torch=False) == {}


@pytest.mark.slow
def test_a_side_runs_in_its_own_process(task):
  found = benchmark.measure(task, ["ours"])["ours"]
  assert len(found) == 3  # Without the turn that compiles.
  assert all(turn.seconds > 0 for turn in found)
