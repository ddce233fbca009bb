"""Tests of the choices and the table of the benchmark of codes."""

import dataclasses

import numpy as np
import pytest

from anchor_codes import tables
from experiments import reporting
from experiments.benchmarks import language_model_codes as benchmark
from experiments.datasets import text

DATA = text.make_text_dataset(
  "toy",
  {split: ["a", "b", "c", "<eos>"] * 5 for split in text.SPLITS},
  source="made up",
)


@pytest.fixture
def trained(monkeypatch):
  """Replaces the training by records that tell what was asked for."""
  configs = []

  def train(config, workdir, *, data):
    assert data is DATA
    configs.append(config)
    # The middle one of three rates is best; the test text disagrees.
    tried = {0.3: 90.0, 0.01: 90.0, 1.0: 91.0, 0.1: 95.0}
    rates = config.row_learning_rate, config.shared_learning_rate
    rate = next((r for r in rates if r != 1.0), 1.0)
    valid = tried.get(rate, 99.0) + config.seed
    result = reporting.RunResult(
      experiment="train_language_model",
      dataset=config.dataset,
      embedding=config.embedding,
      seed=config.seed,
      metrics={"valid_perplexity": valid, "test_perplexity": 200 - valid},
      embedding_params=1,
      embedding_bytes=100,
      dense_bytes=400,
      training_bytes=1000,
      num_anchors=0,
      seconds=1.0,
      seconds_per_epoch=0.2,
      config=dataclasses.asdict(config),
    )
    workdir.mkdir(parents=True)
    reporting.write_result(result, workdir)
    table = tables.DenseTable(np.ones((4, 2), np.float32))
    table.save(workdir / "embedding.safetensors")
    return result

  monkeypatch.setattr(benchmark.language_modeling, "train_and_evaluate", train)
  return configs


def test_validation_chooses_and_all_seeds_run(trained, tmp_path):
  runs = benchmark.Benchmark(DATA, tmp_path, seeds=2)
  (cells,) = benchmark.run_benchmark(runs, ["DPQ softmax 25 of 8"])
  assert cells["chosen"] == "shared_learning_rate 0.3"
  assert cells["valid"] == "90.50 ± 0.71"
  assert cells["test"] == "109.50 ± 0.71"
  assert cells["compression_ratio"] == 4
  pilots, whole = trained[:4], trained[4:]
  assert {c.max_tokens for c in pilots} == {benchmark.PILOT["max_tokens"]}
  assert [(c.max_tokens, c.num_sampled, c.seed) for c in whole] == [
    (0, 0, 0),
    (0, 0, 1),
  ]
  assert "90.50" in (tmp_path / "language_model_codes.md").read_text()


def test_a_run_with_a_record_is_not_repeated(trained, tmp_path):
  runs = benchmark.Benchmark(DATA, tmp_path, seeds=1)
  first = benchmark.run_benchmark(runs, ["KD"])
  assert len(trained) == 5
  assert benchmark.run_benchmark(runs, ["KD"]) == first
  assert len(trained) == 5


def test_the_full_row_guides(trained, tmp_path):
  runs = benchmark.Benchmark(DATA, tmp_path, quick=True)
  with pytest.raises(FileNotFoundError, match="run the row 'full' first"):
    benchmark.run_benchmark(runs, ["KD guided by full"])
  benchmark.run_benchmark(runs, ["full", "KD guided by full"])
  guide = tmp_path / "full" / "seed_0_row_learning_rate_0.5"
  assert trained[-1].vectors == str(guide / "embedding.safetensors")


def test_rows_differ_in_nothing_but_their_settings():
  runs = benchmark.Benchmark(DATA, None, changes={"epochs": 13})
  configs = {
    name: runs.config(name, row.tries[0], 0, pilot=False)
    for name, row in benchmark.ROWS.items()
    if row.settings.get("guidance") != "pretrained"
  }
  for name in (
    "epochs",
    "hidden",
    "batch_size",
    "learning_rate",
    "start_scale",
  ):
    assert len({getattr(c, name) for c in configs.values()}) == 1
  assert configs["full"].epochs == 13
  # As many settings for all; a name cannot hold the comma of a list of names.
  assert {len(row.tries) for row in benchmark.ROWS.values()} == {4}
  assert not any("," in name for name in benchmark.ROWS)
