"""Tests of the report on published results, on made-up ratings."""

import dataclasses
import doctest
import functools
import math
import re

import jax
import numpy as np
import pytest

from experiments import reporting
from experiments.benchmarks import published_anchors, published_training
from experiments.benchmarks.published_anchors import Known, Tolerance
from experiments.benchmarks.published_training import Setting
from experiments.datasets import ratings

SMALL = {"features": 4, "num_anchors": (2, 3), "batch_size": 16, "epochs": 3}
FULL = Setting(learning_rate=0.01, **SMALL)
IMPROVED = Setting(learning_rate=0.01, l1=1e-3, improved=True, **SMALL)
NUM_USERS, NUM_ITEMS = 12, 9


@pytest.fixture(name="data", scope="module")
def fixture_data():
  row = np.arange(NUM_USERS * NUM_ITEMS)
  return ratings.number_movielens(
    "toy",
    users=row // NUM_ITEMS,
    items=row % NUM_ITEMS,
    values=1 + row % 5,
    order=row,
    source="ours",
  )


@pytest.mark.parametrize(
  ("ours", "outside"),
  [
    (Known(0.9, 0.8, 100), "none"),
    (Known(0.95, 0.85, 110), "none"),
    (Known(0.85, 0.75, 90), "none"),
    (Known(0.96, 0.8, 100), "last_mse"),
    (Known(0.9, 0.74, 100), "best_mse"),
    (Known(0.9, 0.8, 111), "num_params"),
    (Known(0.0, 0.0, 0), "last_mse, best_mse, num_params"),
    (Known(math.nan, 0.8, 100), "last_mse"),
  ],
)
def test_what_is_outside_is_named(ours, outside):
  tolerance = Tolerance(0.05 + 1e-9, 0.1)
  found = published_anchors.find_outside(ours, Known(0.9, 0.8, 100), tolerance)
  assert found == outside


def test_what_is_not_known_is_not_outside():
  found = published_anchors.find_outside(
    Known(0.9, 0.8, 100), Known(), Tolerance(0.0, 0.0)
  )
  assert found == "none"


def test_rows_have_distinct_labels_and_tolerances():
  settings = [setting for setting, _ in published_anchors.ROWS]
  assert len({setting.label for setting in settings}) == len(settings) == 12
  assert {s.l1 for s in settings} == set(published_anchors.TOLERANCES)
  assert [s.epochs for s in settings] == [50] * 11 + [100]


def test_dense_rows_have_the_known_number_of_parameters():
  for setting, known in published_anchors.ROWS:
    if not setting.l1:
      init = functools.partial(
        published_training.init_params,
        setting=setting,
        num_users=943,
        num_items=1682,
        mean=3.5,
      )
      shapes = jax.eval_shape(init, jax.random.key(0))
      sizes = [leaf.size for leaf in jax.tree.leaves(shapes) if leaf.ndim]
      assert sum(sizes) == known.num_params


def test_examples():
  assert doctest.testmod(published_anchors).failed == 0


@pytest.fixture(name="report", scope="module")
def fixture_report(data, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("report")
  rows = [(FULL, Known()), (IMPROVED, Known(0.0, None, 1))]
  cells = published_anchors.run_benchmark(data, workdir, rows=rows, num_seeds=2)
  return workdir, cells


def test_report_averages_the_records_of_all_seeds(report):
  workdir, cells = report
  folders = ["MF_lr_0.01", "ANT_lr_0.01_l1_0.001_signs_and_mean"]
  assert {path.name for path in workdir.iterdir()} == {
    "published_anchors.md",
    "published_anchors.png",
    *folders,
  }
  for folder, row in zip(folders, cells, strict=True):
    paths = [workdir / folder / f"seed_{seed}" for seed in (0, 1)]
    results = [reporting.read_result(path) for path in paths]
    assert [result.seed for result in results] == [0, 1]
    last = np.mean([result.metrics["last_mse"] for result in results])
    assert row["last_mse"] == f"{last:.4f}"
    params = np.mean([result.embedding_params for result in results])
    assert abs(row["num_params"] - params) <= 0.5


def test_records_say_how_and_what(report, data):
  workdir, _ = report
  result = reporting.read_result(
    workdir / "ANT_lr_0.01_l1_0.001_signs_and_mean" / "seed_1"
  )
  assert (result.experiment, result.dataset) == ("published_anchors", data.name)
  assert (result.embedding, result.num_anchors) == ("anchors", 5)
  assert result.config == {
    **dataclasses.asdict(IMPROVED),
    "num_anchors": [2, 3],
  }
  assert result.dense_bytes == 4 * (NUM_USERS + NUM_ITEMS) * 4
  assert result.metrics["best_mse"] <= result.metrics["last_mse"]
  assert 0 <= result.metrics["best_epoch"] < 3
  assert 20 <= result.embedding_params <= NUM_USERS * 2 + NUM_ITEMS * 3 + 20


def test_the_table_shows_known_values_and_what_is_outside(report):
  workdir, cells = report
  lines = (workdir / "published_anchors.md").read_text().splitlines()
  assert len(lines) == 4
  table = [re.split(r"\s*\|\s*", line.strip("| ")) for line in lines]
  assert table[0] == list(published_anchors.COLUMNS.values())
  full, improved = table[2:]
  assert full[0] == FULL.label
  assert (full[2], full[4], full[6], full[7]) == ("-", "-", "-", "none")
  assert (improved[2], improved[4]) == ("0.0000", "-")
  assert improved[7] == cells[1]["outside"] == "last_mse, num_params"
