"""Tests of the benchmarks of sharing; none of them trains."""

import dataclasses
import doctest

import pytest

from experiments import (
  ranking,
  recommender_options,
  recommending,
  reporting,
)
from experiments.benchmarks import (
  shared_factorization,
  shared_ranking,
  shared_recommenders,
)

BENCHMARKS = (shared_factorization.BENCHMARK, shared_ranking.BENCHMARK)


@pytest.fixture(name="trained")
def fixture_trained(monkeypatch):
  """Takes the place of training; returns the options of what was trained."""
  trained = []

  def train(config, workdir, *, data, run_type):
    assert data == "data"
    assert (
      run_type
      is {"mse": recommending.Run, "bpr": ranking.RankingRun}[config.loss]
    )
    trained.append(config)
    # The second smallest penalty of the factorisation is best.
    error = abs(config.l2 - 0.08) + 0.01 * config.seed
    metrics = {"test_rmse": error, "best_test_rmse": error / 2}
    metrics |= {"valid_mse": error, "best_epoch": 7}
    for k in shared_ranking.LENGTHS:
      for kind in ("test", "best_test", "valid"):
        metrics[f"{kind}_precision_at_{k}"] = 1 - error
    result = reporting.RunResult(
      experiment="train_recommender",
      dataset=config.dataset,
      embedding="full",
      seed=config.seed,
      metrics=metrics,
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

  monkeypatch.setattr(recommending, "train_and_evaluate", train)
  return trained


def run(benchmark, folder, **options):
  return benchmark.run("data", folder, **options)


@pytest.mark.parametrize("benchmark", BENCHMARKS, ids=lambda b: b.name)
def test_all_options_are_allowed(benchmark):
  for rows in benchmark.rows.values():
    assert len({row.name for row in rows}) == len(rows)
    for row in rows:
      for tried in row.tries:
        settings = {**row.settings, **tried}
        config = dataclasses.replace(benchmark.base, **settings)
        recommender_options.check_config(config)
        assert config.row_learning_rate == config.batch_size
  for rows in (benchmark.rows["tuned"],):
    assert len({len(row.tries) for row in rows}) == 1


def test_validation_chooses_and_all_of_training_comes_back(trained, tmp_path):
  name = "0.1 N(0, 1), SSE-SE"
  (row,) = run(
    shared_factorization.BENCHMARK, tmp_path, parts=["tuned"], names=[name]
  )["tuned"]
  tried = [(c.l2, c.seed, c.valid_share) for c in trained]
  assert tried[:4] == [(l2, 0, 0.1) for l2 in (0.05, 0.08, 0.1, 0.12)]
  assert tried[4:] == [(0.08, seed, 0.0) for seed in range(3)]
  assert [c.epochs for c in trained[4:]] == [7] * 3
  assert row["chosen"] == "l2 0.08"
  assert row["epochs"] == 7
  assert row["test_rmse"] == "0.0100 ± 0.0100"
  number = len(trained)
  again = run(
    shared_factorization.BENCHMARK, tmp_path, parts=["tuned"], names=[name]
  )
  assert again["tuned"] == [row]
  assert len(trained) == number


@pytest.mark.parametrize("benchmark", BENCHMARKS, ids=lambda b: b.name)
def test_quick_runs_are_few_and_fill_both_tables(benchmark, trained, tmp_path):
  cells = run(benchmark, tmp_path, quick=True)
  assert {c.epochs for c in trained} <= {2, 7}
  for part, rows in cells.items():
    assert len(rows) == len(benchmark.rows[part])
    table = (tmp_path / f"{benchmark.name}_{part}.md").read_text("utf-8")
    assert len(table.splitlines()) == 2 + len(rows)
    assert ("best" in table.splitlines()[0]) == (part == "published")
    missing = set(benchmark.columns(part)) - set(rows[0])
    assert not missing


def test_precision_is_to_be_large_and_errors_small(trained, tmp_path):
  (row, *_) = run(
    shared_ranking.BENCHMARK, tmp_path, parts=["tuned"], names=["BPR"]
  )["tuned"]
  # The largest precision is that of the penalty next to .08.
  assert row["chosen"] == "l2 0.03"


def test_dropout_trains_twice_as_long():
  rows = {row.name: row for row in shared_factorization.ROWS["published"]}
  epochs = [
    rows[f"0.1 N(0, 1), {arm}, l2 0.1"].settings["epochs"]
    for arm in ("MF", "dropout")
  ]
  assert epochs == [134, 268]


@pytest.mark.parametrize(
  "module",
  [shared_recommenders, shared_factorization, shared_ranking],
)
def test_examples(module):
  assert doctest.testmod(module).failed == 0
