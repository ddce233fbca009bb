"""What the analyses share: runs with records, and what these say."""

import csv
import math
import os
import pathlib
from typing import Any

import jax
from absl import flags

from anchor_codes import ops
from experiments import (
  nonparametric,
  online,
  recommending,
  reporting,
  tuning,
)
from experiments.datasets import ratings as datasets
from experiments.datasets import synthetic_ratings

QUICK: dict[str, Any] = {
  "features": 4,
  "batch_size": 256,
  "epochs": 2,
  "decay_epochs": 1,
  "growth_rounds": 1,
  "max_anchors": 4,
  "regrowth_rounds": 1,
  "prune_from": 1,
  "prune_epochs": 1,
}
"""Options of a run that is over in seconds."""


def run_once(
  config: recommending.RecommenderConfig,
  data: datasets.Ratings,
  workdir: str | os.PathLike[str],
) -> reporting.RunResult:
  """Reads the record of a run, or trains if there is none with its options.

  Args:
    config: Options of the run; a `rule` learns the number of anchors.
    data: The ratings.
    workdir: Folder of the run.

  Returns:
    The record.
  """
  run_type = recommending.Run
  if config.online_batches:
    run_type = online.OnlineRun
  elif config.rule:
    run_type = nonparametric.NonparametricRun

  def train(
    config: recommending.RecommenderConfig, workdir: pathlib.Path
  ) -> reporting.RunResult:
    # One process trains many models, whose compiled steps nobody needs again.
    jax.clear_caches()
    return recommending.train_and_evaluate(
      config, workdir, data=data, run_type=run_type
    )

  return tuning.run_once(config, workdir, train)


def make_config(
  dataset: str, *, quick: bool = False, **settings: Any
) -> recommending.RecommenderConfig:
  """Returns the options of a run with anchors.

  Args:
    dataset: Name of the ratings.
    quick: Whether the run is to take seconds.
    **settings: Options that differ from the default, those of `QUICK` too.
  """
  options = {"embedding": "anchors", "checkpoint_chunks": 0}
  options |= QUICK if quick else {}
  return recommending.RecommenderConfig(
    **{**options, "dataset": dataset, **settings}
  )


def load(
  name: str, *, data_dir: str | None = None, quick: bool = False
) -> datasets.Ratings:
  """Loads ratings by name, or draws a few if all is to be quick."""
  if quick:
    return synthetic_ratings.buffet_ratings(
      num_users=60, num_items=40, num_ratings=1500, num_anchors=3, features=4
    )
  return datasets.load_ratings(name, data_dir=data_dir)


def num_nonzeros(result: reporting.RunResult) -> int:
  """Returns the non-zero weights of all tables of anchors of a run."""
  anchors = result.num_anchors * result.config["features"]
  return result.embedding_params - anchors


def objective(result: reporting.RunResult, *, anchor_penalty: float) -> float:
  """Returns the objective that a rule minimises, for any run with anchors.

  Args:
    result: The record of the run, whose `l1` is the price of a weight.
    anchor_penalty: Price of an anchor.
  """
  value = ops.small_variance_objective(
    result.metrics["valid_mse"],
    num_nonzeros(result),
    result.num_anchors,
    l1=result.config["l1"],
    anchor_penalty=anchor_penalty,
  )
  return float(value)


def read_course(workdir: str | os.PathLike[str]) -> list[dict[str, float]]:
  """Reads the metrics that a run has written at the end of each epoch.

  Args:
    workdir: Folder of the run, with `metrics.csv`.

  Returns:
    The metrics of each epoch and its last `step` by name, those that are known.

  Raises:
    FileNotFoundError: If there are no metrics.
  """
  path = pathlib.Path(workdir) / "metrics.csv"
  with path.open(encoding="utf-8", newline="") as file:
    rows = [
      {name: float(cell) for name, cell in row.items() if cell}
      for row in csv.DictReader(file)
    ]
  # Chunks in the middle of an epoch are not validated.
  return [row for row in rows if math.isfinite(row.get("valid_mse", math.nan))]


def define_flags(name: str, *, dataset: str = "ml-1m") -> None:
  """Defines the flags of an analysis.

  Args:
    name: Name of the analysis, and of its folder by default.
    dataset: Name of the ratings by default.
  """
  flags.DEFINE_bool("quick", False, "Few ratings and steps: does all work?")
  flags.DEFINE_string("dataset", dataset, "What `load_ratings` takes.")
  flags.DEFINE_string("data_dir", None, "Folder with a folder `ml-1m`.")
  flags.DEFINE_string(
    "workdir", f"workdir/{name}", "Folder for all that is left behind."
  )


def data_of_flags() -> datasets.Ratings:
  """Loads the ratings that the flags name."""
  options = flags.FLAGS
  return load(options.dataset, data_dir=options.data_dir, quick=options.quick)
