"""Tests of the benchmark of translators, on made-up runs."""

import dataclasses

import pytest

from experiments import reporting, translating, translation_options
from experiments.benchmarks import translators
from experiments.datasets import translation

DATA = translation.make_synthetic((60, 4, 4))
CONFIG = translation_options.TranslationConfig(vocab_size=40)


@pytest.fixture(name="made_up")
def fixture_made_up(monkeypatch):
  """Takes the place of training; returns the options of all runs."""
  configs = []

  def train(config, workdir, *, data):
    assert data is DATA
    configs.append(config)
    # Dropout of 0.3 and little sharing are best.
    bleu = 30 - abs(config.dropout - 0.3) - config.sharing_rate + config.seed
    result = reporting.RunResult(
      experiment="train_translator",
      dataset="synthetic",
      embedding="full",
      seed=config.seed,
      metrics={
        "valid_bleu": bleu,
        "test_bleu": bleu - 1,
        "valid_perplexity": 5.0,
      },
      embedding_params=1,
      embedding_bytes=4,
      dense_bytes=4,
      training_bytes=12,
      seconds=1.0,
      seconds_per_epoch=0.5,
      config=dataclasses.asdict(config),
    )
    reporting.write_result(result, workdir)
    return result

  monkeypatch.setattr(translating, "train_and_evaluate", train)
  return configs


def run(folder, **options):
  return translators.run_benchmark(CONFIG, DATA, folder, **options)


def test_rows_get_the_same_budget(made_up, tmp_path):
  cells = run(tmp_path, rows=list(translators.ROWS))
  assert len({len(row.tries) for row in translators.ROWS.values()}) == 1
  # Four tries, and two more seeds of the best one.
  assert len(made_up) == 6 * len(translators.ROWS)
  assert [cell["row"] for cell in cells] == list(translators.ROWS)
  assert cells[0]["chosen"] == "dropout 0.3"
  assert cells[1]["chosen"] == "dropout 0.3, sharing_rate 0.01"
  assert cells[0]["test"] == "29.99 ± 1.00"
  assert {config.sharing for config in made_up[:6]} == {"none"}
  assert {config.sharing for config in made_up[6:]} == {"se"}
  assert {config.label_smoothing for config in made_up} == {0.1}
  assert [config.seed for config in made_up[:6]] == [0, 0, 0, 0, 1, 2]
  assert {config.label_sharing_rate for config in made_up[12:]} == {0.01}


def test_all_runs_share_the_subwords(made_up, tmp_path):
  run(tmp_path)
  path = str(tmp_path / "subwords.model")
  assert {config.subword_model for config in made_up} == {path}


def test_records_are_not_made_twice(made_up, tmp_path):
  first = run(tmp_path)
  number = len(made_up)
  assert run(tmp_path) == first
  assert len(made_up) == number
  report = (tmp_path / "translators.md").read_text()
  assert report.count("\n") == 2 + len(translators.DEFAULT_ROWS)


def test_quick_runs_are_few_and_short(made_up, tmp_path):
  run(tmp_path, quick=True)
  assert [config.epochs for config in made_up] == [1, 1]
