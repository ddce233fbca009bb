r"""Compares a full table, anchors, codes and low rank in text classifiers.

  python -m experiments.benchmarks.text_classifiers --data_dir=/path/to/data

trains the mean of the words on IMDb and a word CNN on AG News. Each row tries
some settings with seed 0: nine for the full table, eight for DPQ with the
nearest entry, five for anchors, three for the others. The validation texts
choose, and the row is the mean of all seeds with the one that was chosen. The
test texts choose nothing. Rows with relations are those of anchors, without and
with the domain knowledge of a lexicon: weights of anchors that stand for
related words go without the penalty.
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags

from experiments import reporting, text_classification, tuning
from experiments.datasets import classification
from experiments.tuning import Row, grid

NAME = "text_classifiers"
COLUMNS = {
  "dataset": "Texts",
  "row": "Embedding",
  "test": "Test accuracy",
  "valid": "Valid accuracy",
  "chosen": "Chosen",
  "embedding_params": "Params",
  "embedding_bytes": "Stored bytes",
  "compression_ratio": "Ratio",
  "seconds_per_epoch": "s/epoch",
}
"""Headings of the columns of the table by their names."""
PICTURE = reporting.Picture(
  title="One text classifier, several embeddings",
  value="test",
  caption="Test accuracy, % (higher is better)",
  label=("row",),
  x="embedding_bytes",
  panel="dataset",
  baseline="full",
)

MODELS: dict[str, dict[str, Any]] = {
  "imdb": {"encoder": "mean", "max_length": 300, "epochs": 4},
  "ag_news": {"encoder": "cnn", "max_length": 60, "epochs": 8},
}
"""What all rows of a data set share."""


_RATES = grid("learning_rate", 5e-4, 1e-3, 2e-3)
_ROW_RATES = grid("row_learning_rate", 2.0, 5.0, 10.0)
# The best of these were at the ends.
_MORE_RATES = grid("learning_rate", 2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3)
_SPLIT_RATES = (
  *_MORE_RATES,
  {"learning_rate": 1e-3, "row_learning_rate": 3.0},
  {"learning_rate": 2e-3, "row_learning_rate": 0.25},
  {"learning_rate": 2e-3, "row_learning_rate": 0.5},
  {"learning_rate": 4e-3, "row_learning_rate": 0.25},
)
_SLOWER = {"row_learning_rate": 10.0, "learning_rate": 5e-4}
_MORE_ROW_RATES = (*_ROW_RATES, _SLOWER, {**_SLOWER, "num_anchors": 256})
_ANCHORS = {
  "embedding": "anchors",
  "stored_dtype": "float16",
  "weight_scale": 0.3,
}
# With one rate for all, the digits still changed at the end, or all was slow.
_CODE_RATES = (
  *grid("learning_rate", 2.5e-4, 5e-4, 1e-3, 2e-3),
  {"learning_rate": 5e-4, "shared_learning_rate": 3.0},
  {"learning_rate": 5e-4, "shared_learning_rate": 10.0},
  {"learning_rate": 2e-3, "row_learning_rate": 0.25},
  {"learning_rate": 4e-3, "row_learning_rate": 0.125},
)
_CODES = {"code_length": 32, "codebook_size": 32, "stored_dtype": "float16"}
_RELATED = {**_ANCHORS, "start": "frequent", "num_anchors": 100}

ROWS: dict[str, Row] = {
  "full": Row({"embedding": "full"}, _SPLIT_RATES),
  "anchors": Row(_ANCHORS, _MORE_ROW_RATES),
  "low rank": Row(
    {"embedding": "low_rank", "rank": 10, "stored_dtype": "float16"}, _RATES
  ),
  "DPQ softmax": Row(
    {"embedding": "dpq", "relaxation": "softmax", **_CODES}, _RATES
  ),
  "DPQ nearest": Row(
    {"embedding": "dpq", "relaxation": "nearest", **_CODES}, _CODE_RATES
  ),
  "KD": Row(
    {"embedding": "kd", **_CODES, "codebook_size": 16},
    _RATES,
  ),
  "random codes": Row(
    {"embedding": "fixed", "composition": "concat", **_CODES}, _RATES
  ),
  "anchors of words": Row(_RELATED, _ROW_RATES),
  "anchors of words + FrameNet": Row(
    {**_RELATED, "relations": "framenet"}, _ROW_RATES
  ),
}
"""The rows of the table. Anchors of words stand for the most frequent ones; the
last two rows differ in the relations alone."""


def run_benchmark(
  datasets: Mapping[str, classification.ClassificationDataset],
  workdir: str | pathlib.Path,
  *,
  rows: Sequence[str] = (),
  data_dir: str = "",
  seeds: int = 2,
  quick: bool = False,
) -> list[dict[str, Any]]:
  """Trains all rows; writes a record of each run, and the table.

  A run whose record is there is not repeated.

  Args:
    datasets: The texts by the names of `MODELS`.
    workdir: Folder with one folder for each run.
    rows: Names of the rows, all by default.
    data_dir: Folder of the lexicons.
    seeds: Runs of the setting that was chosen.
    quick: Whether each row is one run of one epoch, to see that all works.

  Returns:
    The cells of each row.
  """
  workdir, cells = pathlib.Path(workdir), []
  for dataset, data in datasets.items():
    for name in rows or ROWS:
      results = _run_row(
        dataset,
        name,
        data,
        workdir,
        data_dir=data_dir,
        seeds=seeds,
        quick=quick,
      )
      cells.append(summarize(dataset, name, results))
      reporting.write_table(workdir / NAME, cells, COLUMNS, PICTURE)
  return cells


def _run_row(
  dataset: str,
  name: str,
  data: classification.ClassificationDataset,
  workdir: pathlib.Path,
  *,
  data_dir: str,
  seeds: int,
  quick: bool,
) -> list[reporting.RunResult]:
  """Chooses a setting on the validation texts; runs all seeds."""

  def run(tried: dict[str, Any], seed: int) -> reporting.RunResult:
    config = make_config(
      dataset, name, tried, seed=seed, data_dir=data_dir, quick=quick
    )
    folder = tuning.folder_name(tried)
    path = workdir / dataset / name.replace(" ", "_")
    result = tuning.run_once(
      config,
      path / f"{folder}_seed_{seed}",
      lambda *args: text_classification.train_and_evaluate(*args, data=data),
    )
    accuracy = result.metrics["valid_accuracy"]
    print(f"{dataset}, {name}, {folder}, seed {seed}: valid {accuracy:.4f}, "
          f"{result.seconds:.0f} s", flush=True)  # fmt: skip
    return result

  tries = ROWS[name].tries
  if quick:
    tries, seeds = tries[:1], 1
  found = [-run(tried, 0).metrics["valid_accuracy"] for tried in tries]
  best = tuning.choose(tries, found)
  return [run(best, seed) for seed in range(seeds)]


def make_config(
  dataset: str,
  name: str,
  tried: dict[str, Any],
  *,
  seed: int,
  data_dir: str = "",
  quick: bool = False,
) -> text_classification.TextClassificationConfig:
  """Returns the options of a run of a row."""
  config = text_classification.TextClassificationConfig(
    dataset=dataset, data_dir=data_dir, checkpoint_chunks=0, seed=seed
  )
  settings = {**MODELS[dataset], **ROWS[name].settings, **tried}
  if quick:
    settings["epochs"] = 1
  return dataclasses.replace(config, **settings)


def summarize(
  dataset: str, name: str, results: Sequence[reporting.RunResult]
) -> dict[str, Any]:
  """Returns the cells of a row by the names of their columns."""
  config = results[0].config
  tried = {option for row in ROWS[name].tries for option in row}
  cells: dict[str, Any] = {
    "dataset": dataset,
    "row": name,
    "chosen": tuning.describe({name: config[name] for name in sorted(tried)}),
    "embedding_params": results[0].embedding_params,
    "embedding_bytes": results[0].embedding_bytes,
    "compression_ratio": results[0].compression_ratio,
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
    datasets,
    options.workdir,
    rows=options.rows,
    data_dir=options.data_dir or "",
    seeds=options.seeds,
    quick=options.quick,
  )
  print(f"\n{reporting.format_table(cells, COLUMNS)}\n")
  print(f"{options.seeds} seeds; mean ± standard deviation.")


if __name__ == "__main__":
  flags.DEFINE_bool("quick", False, "One run of one epoch for each row.")
  tuning.define_names("datasets", MODELS, "Names of texts.", default=MODELS)
  tuning.define_names("rows", ROWS, "Names of the rows, all by default.")
  flags.DEFINE_integer("seeds", 2, "Runs of each row.", lower_bound=1)
  flags.DEFINE_string("data_dir", None, "Folder of data sets.")
  flags.DEFINE_string(
    "workdir", f"workdir/{NAME}", "Folder for all that the runs leave."
  )
  tuning.run_app(_measure)
