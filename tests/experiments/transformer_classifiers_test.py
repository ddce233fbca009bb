"""Tests of the benchmark of transformers as classifiers, on made-up runs."""

import dataclasses

import pytest

from experiments import (
  masked_language_modeling,
  reporting,
  text_classification,
)
from experiments.benchmarks import transformer_classifiers as benchmark

DATA = object()


def write(config, workdir, **metrics):
  result = reporting.RunResult(
    experiment="made up",
    dataset=config.dataset,
    embedding="full",
    seed=config.seed,
    metrics=metrics,
    embedding_params=1,
    embedding_bytes=4,
    dense_bytes=4,
    training_bytes=12,
    seconds=1.0,
    seconds_per_epoch=0.5,
    config=dataclasses.asdict(config),
  )
  workdir.mkdir(parents=True, exist_ok=True)
  reporting.write_result(result, workdir)
  return result


@pytest.fixture(name="made_up")
def fixture_made_up(monkeypatch):
  """Takes the place of training; returns the options of all runs."""
  trained, pretrained = [], []

  def train(config, workdir, *, data):
    assert data is DATA
    trained.append(config)
    score = 0.8 + config.block_dropout / 10 - config.sharing_rate / 10
    score += config.learning_rate + config.seed / 1000
    return write(
      config, workdir, valid_accuracy=score, test_accuracy=score - 0.1
    )

  def pretrain(config, workdir, *, data):
    assert data is DATA
    pretrained.append(config)
    return write(config, workdir, valid_accuracy=0.3)

  monkeypatch.setattr(text_classification, "train_and_evaluate", train)
  monkeypatch.setattr(masked_language_modeling, "train_and_evaluate", pretrain)
  return trained, pretrained


def test_rows_get_the_same_budget(made_up, tmp_path):
  trained, pretrained = made_up
  cells = benchmark.run_benchmark({"sst2": DATA}, tmp_path)
  assert len({len(row.tries) for row in benchmark.ROWS.values()}) == 1
  # Four tries, and two more seeds of the best one; two kinds of pre-training.
  assert len(trained) == 6 * len(benchmark.ROWS)
  assert [c.label_sharing_rate for c in pretrained] == [0.0, 0.015]
  assert [cell["row"] for cell in cells] == list(benchmark.ROWS)
  assert cells[0]["chosen"] == "learning_rate 0.001, block_dropout 0.2"
  assert cells[1]["chosen"] == "learning_rate 0.001, sharing_rate 0.01"
  text = (tmp_path / "transformer_classifiers_sst2.md").read_text()
  assert "pre-trained with SSE, SSE" in text


def test_each_row_starts_where_it_says(made_up, tmp_path):
  trained, _ = made_up
  benchmark.run_benchmark({"imdb": DATA}, tmp_path, quick=True)
  folders = [config.pretrained.rpartition("_")[2] for config in trained]
  assert folders == ["", "", "plain", "sse", "sse"]
  assert [config.sharing for config in trained].count("se") == 2
  assert {config.epochs for config in trained} == {1}
  assert all(config.encoder == "transformer" for config in trained)


def test_records_are_not_repeated(made_up, tmp_path):
  trained, pretrained = made_up
  rows = ["pre-trained"]
  first = benchmark.run_benchmark({"sst2": DATA}, tmp_path, rows=rows)
  numbers = len(trained), len(pretrained)
  again = benchmark.run_benchmark({"sst2": DATA}, tmp_path, rows=rows)
  assert (len(trained), len(pretrained)) == numbers == (6, 1)
  assert first == again
