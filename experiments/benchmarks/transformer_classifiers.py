r"""Compares transformers that classify texts, with and without sharing.

  python -m experiments.benchmarks.transformer_classifiers \
      --data_dir=/path/to/data --datasets=sst2

trains small transformers on SST-2 and IMDb: from scratch, or from weights that
were pre-trained on the training texts; each with and without stochastic sharing
(Wu et al., 2019). Each row gets the same budget: as many settings are tried
with the first seed, the validation texts choose, and the row is the mean of all
seeds with the setting that was chosen. Without sharing, tries go to the dropout
in place of the rate. The test texts choose nothing. All seeds start from the
same pre-training. A run whose record is there is not repeated.

Sizes are for two cores and an hour, with one process for each data set: about
40 minutes for SST-2, and 50 for IMDb.
"""

import dataclasses
import itertools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags

from experiments import (
  masked_language_modeling,
  reporting,
  text_classification,
  tuning,
)
from experiments.datasets import classification

NAME = "transformer_classifiers"
SEEDS = (0, 1, 2)
COLUMNS = {
  "dataset": "Texts",
  "row": "Training",
  "test": "Test accuracy",
  "valid": "Valid accuracy",
  "chosen": "Chosen",
  "seconds_per_epoch": "s/epoch",
}
"""Headings of the columns of the table by their names."""
PICTURE = reporting.Picture(
  title="One classifier, several ways to train it",
  value="test",
  caption="Test accuracy, % (higher is better)",
  label=("row",),
)

_SMALL: dict[str, Any] = {
  "features": 64,
  "num_heads": 2,
  "feedforward": 256,
  "clip": 1.0,
  "schedule": "linear",
}
MODELS: dict[str, dict[str, Any]] = {
  "sst2": {**_SMALL, "num_layers": 2, "max_length": 48},
  "imdb": {**_SMALL, "num_layers": 1, "max_length": 96, "max_words": 20_000},
}
"""What all runs on a data set share, the pre-training included."""

EPOCHS = {"sst2": 6, "imdb": 2}
PRETRAINING_EPOCHS = {"sst2": 20, "imdb": 4}

PRETRAINING: dict[str, dict[str, Any]] = {
  "plain": {},
  # A tenth of 15 % of the inputs is replaced as it is, by a random symbol.
  "sse": {"label_sharing_rate": 0.015},
}
"""What the kinds of pre-training differ in."""

_RATES = (5e-4, 1e-3)
_PLAIN = tuple(
  {"learning_rate": rate, "block_dropout": dropout}
  for rate, dropout in itertools.product(_RATES, (0.1, 0.2))
)
_SHARED = tuple(
  {"learning_rate": rate, "sharing_rate": sharing}
  for rate, sharing in itertools.product(_RATES, (0.01, 0.05))
)
_SSE = {"sharing": "se", "label_sharing_rate": 0.01}

ROWS: dict[str, tuning.Row] = {
  "from scratch": tuning.Row({}, _PLAIN),
  "from scratch, SSE": tuning.Row(_SSE, _SHARED),
  "pre-trained": tuning.Row({"pretrained": "plain"}, _PLAIN),
  "pre-trained with SSE": tuning.Row({"pretrained": "sse"}, _PLAIN),
  "pre-trained with SSE, SSE": tuning.Row(
    {"pretrained": "sse", **_SSE}, _SHARED
  ),
}
"""The rows of the table: how they are pre-trained, and then trained."""


def run_benchmark(
  datasets: Mapping[str, classification.ClassificationDataset],
  workdir: str | pathlib.Path,
  *,
  rows: Sequence[str] = (),
  quick: bool = False,
) -> list[dict[str, Any]]:
  """Trains all rows; writes a record of each run, and a table of each data set.

  Args:
    datasets: The texts by the names of `MODELS`.
    workdir: Folder with one folder for each run.
    rows: Names of the rows, all by default.
    quick: Whether each row is one run of one epoch, to see that all works.

  Returns:
    The cells of each row.
  """
  workdir, cells = pathlib.Path(workdir), []
  for dataset, data in datasets.items():
    found = []
    for name in rows or ROWS:
      results = _run_row(dataset, name, data, workdir, quick=quick)
      found.append(summarize(dataset, name, results))
      # Processes for other data sets leave this file alone.
      reporting.write_table(
        workdir / f"{NAME}_{dataset}", found, COLUMNS, PICTURE
      )
    cells += found
  return cells


def _run_row(
  dataset: str,
  name: str,
  data: classification.ClassificationDataset,
  workdir: pathlib.Path,
  *,
  quick: bool,
) -> list[reporting.RunResult]:
  """Chooses a setting on the validation texts; runs all seeds."""
  kind = ROWS[name].settings.get("pretrained", "")
  folder = _pretrain(dataset, kind, data, workdir, quick=quick) if kind else ""

  def run(tried: dict[str, Any], seed: int) -> reporting.RunResult:
    config = make_config(dataset, name, tried, seed=seed, quick=quick)
    config = dataclasses.replace(config, pretrained=str(folder))
    path = f"{tuning.folder_name(tried)}_seed_{seed}"
    result = tuning.run_once(
      config,
      workdir / dataset / name.replace(", ", "_").replace(" ", "_") / path,
      lambda *args: text_classification.train_and_evaluate(*args, data=data),
    )
    _tell(f"{dataset}, {name}, {path}", result)
    return result

  tries, seeds = ROWS[name].tries, SEEDS
  if quick:
    tries, seeds = tries[:1], SEEDS[:1]
  errors = [-run(tried, seeds[0]).metrics["valid_accuracy"] for tried in tries]
  best = tuning.choose(tries, errors)
  return [run(best, seed) for seed in seeds]


def _pretrain(
  dataset: str,
  kind: str,
  data: classification.ClassificationDataset,
  workdir: pathlib.Path,
  *,
  quick: bool,
) -> pathlib.Path:
  """Pre-trains, unless that has been done; returns the folder."""
  config = masked_language_modeling.MaskedLanguageConfig(
    dataset=dataset,
    checkpoint_chunks=0,
    epochs=1 if quick else PRETRAINING_EPOCHS[dataset],
    num_sampled=1000,
    warmup_steps=100,
    **MODELS[dataset],
    **PRETRAINING[kind],
  )
  folder = workdir / dataset / f"pretraining_{kind}"
  result = tuning.run_once(
    config,
    folder,
    lambda *args: masked_language_modeling.train_and_evaluate(*args, data=data),
  )
  _tell(f"{dataset}, pre-training, {kind}", result)
  return folder


def _tell(what: str, result: reporting.RunResult) -> None:
  accuracy = result.metrics["valid_accuracy"]
  print(f"{what}: valid {accuracy:.4f}, {result.seconds:.0f} s", flush=True)


def make_config(
  dataset: str,
  name: str,
  tried: dict[str, Any],
  *,
  seed: int,
  quick: bool = False,
) -> text_classification.TextClassificationConfig:
  """Returns the options of a run of a row, without its pre-training."""
  return text_classification.TextClassificationConfig(
    dataset=dataset,
    encoder="transformer",
    dropout=0.1,
    batch_size=32,
    warmup_steps=100,
    epochs=1 if quick else EPOCHS[dataset],
    patience=0,
    checkpoint_chunks=0,
    seed=seed,
    **{**MODELS[dataset], **ROWS[name].settings, **tried, "pretrained": ""},
  )


def summarize(
  dataset: str, name: str, results: Sequence[reporting.RunResult]
) -> dict[str, Any]:
  """Returns the cells of a row by the names of their columns."""
  config, tried = results[0].config, ROWS[name].tries[0]
  cells: dict[str, Any] = {
    "dataset": dataset,
    "row": name,
    "chosen": tuning.describe({option: config[option] for option in tried}),
    "seconds_per_epoch": float(np.mean([r.seconds_per_epoch for r in results])),
  }
  for part in ("test", "valid"):
    found = [100 * r.metrics[f"{part}_accuracy"] for r in results]
    cells[part] = tuning.mean_and_spread(found)
  return cells


def _measure() -> None:
  options = flags.FLAGS
  datasets = {
    name: classification.load_classification(name, data_dir=options.data_dir)
    for name in options.datasets
  }
  cells = run_benchmark(
    datasets, options.workdir, rows=options.rows, quick=options.quick
  )
  print(f"\n{reporting.format_table(cells, COLUMNS)}\n")
  print(f"{len(SEEDS)} seeds; mean ± standard deviation.")


if __name__ == "__main__":
  flags.DEFINE_bool("quick", False, "One run of one epoch for each row.")
  flags.DEFINE_multi_enum("datasets", list(MODELS), list(MODELS), "Texts.")
  flags.DEFINE_multi_enum(
    "rows", list(ROWS), list(ROWS), "Names of the rows, all by default."
  )
  flags.DEFINE_string("data_dir", None, "Folder of data sets.")
  flags.DEFINE_string(
    "workdir", f"workdir/{NAME}", "Folder for all that the runs leave."
  )
  tuning.run_app(_measure)
