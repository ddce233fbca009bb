"""Tests of the comparison of recommenders; most of them train nothing."""

import dataclasses
import doctest
import functools
import json
import math

import jax
import numpy as np
import pytest
from flax import nnx

from anchor_codes import tables
from experiments import embeddings, recommending, reporting, tuning
from experiments.benchmarks import recommender_frontier as frontier
from experiments.datasets import ratings

NUM_USERS, NUM_ITEMS = 300, 200
DATA = ratings.number_movielens(
  "toy",
  users=np.arange(3000) % NUM_USERS,
  items=np.arange(3000) * 7 // 10 % NUM_ITEMS,
  values=np.arange(3000) % 5,
  order=np.arange(3000),
  source="ours",
)
ROWS = frontier.make_rows(NUM_USERS + NUM_ITEMS)


@pytest.fixture(name="trained")
def fixture_trained(monkeypatch):
  """Takes the place of training; returns the options of what was trained."""
  trained = []

  def train(config, workdir, *, data):
    assert data is DATA
    trained.append(config)
    # The middle weight of the penalty is best, and the last one diverges.
    errors = {0.03: 0.9, 0.04: 0.8, 0.06: math.nan, 0.08: math.nan}
    mse = errors[config.l2] + 0.01 * config.seed
    result = reporting.RunResult(
      experiment="train_recommender",
      dataset="toy",
      embedding=config.embedding,
      seed=config.seed,
      metrics={"valid_mse": mse, "test_mse": mse + 0.1},
      embedding_params=10,
      embedding_bytes=1000,
      dense_bytes=4 * config.features * 500,
      training_bytes=1,
      seconds=1.0,
      seconds_per_epoch=1.0,
      config=dataclasses.asdict(config),
    )
    reporting.write_result(result, workdir)
    return result

  monkeypatch.setattr(recommending, "train_and_evaluate", train)
  return trained


def rows_of(kind):
  return [row for row in ROWS if row.kind == kind]


def stored_bytes(row):
  """Bytes of the tables of a row at the start of training."""
  config = frontier.make_config(row, "toy", l2=0.0, seed=0)
  layers = [
    embeddings.make_embedding(size, config, scale=0.1, rngs=nnx.Rngs(0))
    for size in (NUM_USERS, NUM_ITEMS)
  ]
  stored = [embeddings.stored_table(layer, config) for layer in layers]
  if row.kind == "anchors":
    stored = pruned(stored, config.max_nonzeros)
  return sum(table.nbytes for table in stored)


def pruned(stored, max_nonzeros):
  """Keeps so many weights of some tables, whichever."""
  sizes = [table.to_transform().size for table in stored]
  kept = np.random.default_rng(0).permutation(sum(sizes)) < max_nonzeros
  kept = kept.astype(np.float32)
  parts = np.split(kept, np.cumsum(sizes)[:-1])
  return [
    tables.AnchorTable.from_transform(
      table.anchors, part.reshape(-1, table.num_anchors), dtype="float16"
    )
    for table, part in zip(stored, parts, strict=True)
  ]


def test_rows_are_told_apart():
  assert len({row.folder for row in ROWS}) == len(ROWS)
  assert {row.kind for row in ROWS} == {
    "full", "narrow", "low rank", "hash", "DPQ", "anchors",
  }  # fmt: skip


def test_all_rows_get_as_many_tries():
  assert {len(row.tries) for row in ROWS} == {3}


@pytest.mark.parametrize("rank", [8, 4, 2])
def test_bytes_of_low_rank_are_known(rank):
  (row,) = [r for r in rows_of("low rank") if r.settings["rank"] == rank]
  expected = frontier.low_rank_bytes(NUM_USERS + NUM_ITEMS, rank)
  assert stored_bytes(row) == expected


@pytest.mark.parametrize(("index", "rank"), [(0, 8), (2, 4), (3, 2)])
def test_anchors_take_the_bytes_of_low_rank(index, rank):
  expected = frontier.low_rank_bytes(NUM_USERS + NUM_ITEMS, rank)
  assert stored_bytes(rows_of("anchors")[index]) == expected


@pytest.mark.parametrize(("index", "rank"), [(0, 4), (1, 2)])
def test_hashing_takes_the_bytes_of_low_rank(index, rank):
  expected = frontier.low_rank_bytes(NUM_USERS + NUM_ITEMS, rank)
  # Less than one bucket of each of two functions and two tables is left over.
  assert 0 <= expected - stored_bytes(rows_of("hash")[index]) < 4 * 32


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.folder)
def test_options_of_all_rows_are_allowed(row):
  for quick in (False, True):
    config = frontier.make_config(row, "toy", l2=0.1, seed=2, quick=quick)
    recommending.check_config(config)
    assert (config.l2, config.seed, config.dataset) == (0.1, 2, "toy")
  half = frontier.make_config(row, "toy", l2=0.1, seed=2).stored_dtype
  assert half == ("float32" if row.kind == "full" else "float16")


def test_validation_chooses_and_all_seeds_run(tmp_path, trained, capsys):
  (cell, *_) = frontier.run_benchmark(DATA, tmp_path, kinds=["low rank"])
  runs = [(config.l2, config.seed) for config in trained[:5]]
  assert runs == [(0.03, 0), (0.04, 0), (0.06, 0), (0.04, 1), (0.04, 2)]
  assert cell["l2"] == "0.04"
  assert cell["valid"] == "0.8100 ± 0.0100"
  assert cell["test"] == "0.9100 ± 0.0100"
  assert cell["test_mse"] == pytest.approx(0.91)
  assert "low rank, rank 8, l2 0.04, seed 2" in capsys.readouterr().out


def test_runs_are_not_repeated(tmp_path, trained):
  first = frontier.run_benchmark(DATA, tmp_path, kinds=["hash"])
  number = len(trained)
  assert number == 2 * 3 + 2 * 2
  assert frontier.run_benchmark(DATA, tmp_path, kinds=["hash"]) == first
  assert len(trained) == number


def run_once(config, workdir):
  train = functools.partial(recommending.train_and_evaluate, data=DATA)
  return tuning.run_once(config, workdir, train)


def test_runs_with_other_options_are_repeated(tmp_path, trained):
  row = rows_of("DPQ")[0]
  config = frontier.make_config(row, "toy", l2=0.04, seed=0)
  for options in (config, config, dataclasses.replace(config, epochs=5)):
    result = run_once(options, tmp_path)
    assert result.config == dataclasses.asdict(options)
  assert [c.epochs for c in trained] == [22, 5]


def test_a_record_of_before_an_option_was_there_is_read(tmp_path, trained):
  config = frontier.make_config(ROWS[0], "toy", l2=0.04, seed=0)
  run_once(config, tmp_path)
  path = tmp_path / "result.json"
  record = json.loads(path.read_text())
  del record["config"]["patience"]
  path.write_text(json.dumps(record))
  run_once(config, tmp_path)
  assert len(trained) == 1


def test_quick_runs_are_few(tmp_path, trained):
  cells = frontier.run_benchmark(DATA, tmp_path, kinds=["hash"], quick=True)
  assert [(c.seed, c.epochs) for c in trained] == [(0, 3), (0, 3)]
  assert cells[0]["test_mse_std"] == 0


def test_narrow_tables_are_held_against_all_features(tmp_path, trained):
  cells = frontier.run_benchmark(
    DATA, tmp_path, kinds=["full", "narrow"], quick=True
  )
  ratios = {cell["compression_ratio"] for cell in cells}
  assert ratios == {4 * 16 * 500 / 1000}
  assert [config.features for config in trained[1:3]] == [16, 8]


def test_report_is_written(tmp_path, trained):
  frontier.run_benchmark(DATA, tmp_path, quick=True)
  table = (tmp_path / "recommender_frontier.md").read_text("utf-8")
  assert len(table.splitlines()) == 2 + len(ROWS) == 2 + len(trained)
  assert "| anchors   | 8 anchors," in table
  assert (tmp_path / "recommender_frontier.png").stat().st_size > 1000


def test_a_row_trains(tmp_path):
  row = rows_of("low rank")[-1]
  row.settings["batch_size"] = 200
  with jax.numpy_dtype_promotion("standard"):
    (result,) = frontier.run_row(row, DATA, tmp_path, quick=True)
  assert result.embedding_bytes == frontier.low_rank_bytes(500, 2)
  assert math.isfinite(result.metrics["test_mse"])


def test_examples():
  assert doctest.testmod(frontier).failed == 0
