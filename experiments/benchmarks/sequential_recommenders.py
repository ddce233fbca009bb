r"""Compares recommenders of the next item, with full and with compact items.

  python -m experiments.benchmarks.sequential_recommenders \
      --data_dir=/path/to/data --workdir=/tmp/sequential

trains PT, SASRec and SSE-PT on MovieLens 1M and on Amazon's video games, and
SSE-PT with items by anchors and by codes: learned ones, those of clusters of
the items that the full SSE-PT of the same seed has learned, and its items
compressed after the training. Each row gets the same budget: as many settings
are tried with the first seed, the validation items choose, and the row is the
mean of all seeds with the one that was chosen. The test items choose nothing. A
benchmark that was stopped goes on with the same command.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags

from experiments import (
  reporting,
  sequential_compression,
  sequential_options,
  sequential_recommending,
  tuning,
)
from experiments.datasets import sequences
from experiments.sequential_evaluation import METRICS

NAME = "sequential_recommenders"
COLUMNS = {
  "dataset": "Sequences",
  "row": "Model",
  "test_ndcg_at_10": "NDCG@10",
  "test_recall_at_10": "Recall@10",
  "test_full_ndcg_at_10": "NDCG@10, all items",
  "test_full_recall_at_10": "Recall@10, all items",
  "valid_ndcg_at_10": "Valid NDCG@10",
  "chosen": "Chosen",
  "item_bytes": "Item bytes",
  "item_compression_ratio": "Ratio",
  "seconds_per_epoch": "s/epoch",
}
"""Headings of the columns of the table by their names."""
PICTURE = reporting.Picture(
  title="One sequential recommender, several embeddings of items",
  value="test_ndcg_at_10",
  caption="Test NDCG@10 (higher is better)",
  label=("row",),
  x="item_bytes",
  panel="dataset",
)

FULL, COMPRESSED = "SSE-PT", "SSE-PT with compressed items"
"""The row that others start from, and the one that is not trained."""

MODELS: dict[str, dict[str, Any]] = {
  "ml-1m": {"epochs": 200, "eval_epochs": 5, "patience": 50},
  "video": {"epochs": 40, "eval_epochs": 1, "patience": 10},
  "synthetic": {"epochs": 40, "eval_epochs": 5, "patience": 0},
}
"""What all rows of a data set share; about as many steps for the first two."""

_SSE = {"model": "sse_pt"}
_DROPOUTS = tuning.grid("dropout", 0.2, 0.35, 0.5)
# A code of 125 bits, or five weights of one byte for the anchor and two for
# itself, in place of fifty numbers of four bytes.
_CODES = {
  "embedding": "dpq",
  "code_length": 25,
  "codebook_size": 32,
  "stored_dtype": "float16",
}
_GIVEN_CODES = {
  **_CODES,
  "embedding": "fixed",
  "codes": "vectors",
  "composition": "concat",
  "dropout": 0.2,
}
_ANCHORS = {
  "embedding": "anchors",
  "num_anchors": 100,
  "num_nonzeros": 5,
  "l1": 0.0,
  "stored_dtype": "float16",
}

ROWS: dict[str, tuning.Row] = {
  "PT": tuning.Row({"model": "pt"}, _DROPOUTS),
  "SASRec": tuning.Row({"model": "sasrec"}, _DROPOUTS),
  FULL: tuning.Row(
    _SSE,
    (
      {"dropout": 0.2, "item_sharing_rate": 0.1},
      {"dropout": 0.2, "item_sharing_rate": 0.0},
      {"dropout": 0.35, "item_sharing_rate": 0.1},
    ),
  ),
  "SSE-PT with anchors": tuning.Row(
    {**_SSE, **_ANCHORS}, tuning.grid("row_learning_rate", 1.0, 3.0, 10.0)
  ),
  "SSE-PT with DPQ": tuning.Row(
    {**_SSE, **_CODES},
    (
      {"relaxation": "softmax", "row_learning_rate": 1.0},
      {"relaxation": "softmax", "row_learning_rate": 3.0},
      {"relaxation": "nearest", "row_learning_rate": 1.0},
    ),
  ),
  "SSE-PT with codes of its items": tuning.Row(
    {**_SSE, **_GIVEN_CODES},
    (
      {"item_sharing_rate": 0.0, "shared_learning_rate": 1.0},
      {"item_sharing_rate": 0.0, "shared_learning_rate": 0.3},
      {"item_sharing_rate": 0.1, "shared_learning_rate": 1.0},
    ),
  ),
  COMPRESSED: tuning.Row({}, tuning.grid("count_power", 0.0, 0.5, 1.0)),
}
"""The rows of the table, each with as many tries; the full SSE-PT goes before
those whose codes are made of its items. The last one trains nothing."""


def run_benchmark(
  datasets: Mapping[str, sequences.Sequences],
  workdir: str | pathlib.Path,
  *,
  rows: Sequence[str] = (),
  seeds: int = 2,
  settings: Mapping[str, Any] | None = None,
  quick: bool = False,
) -> list[dict[str, Any]]:
  """Trains all rows; writes a record of each run, and the table.

  A run whose record is there is not repeated.

  Args:
    datasets: The sequences by the names of `MODELS`.
    workdir: Folder with one folder for each run.
    rows: Names of the rows, all by default.
    seeds: Number of seeds; the first one is that of the tries.
    settings: Options of all runs, in place of those of `MODELS`.
    quick: Whether each row has one try and one seed, to see that all works.

  Returns:
    The cells of each row.
  """
  workdir, cells = pathlib.Path(workdir), []
  for dataset, data in datasets.items():
    for name in rows or ROWS:
      row = ROWS[name]
      if quick:
        row, seeds = row._replace(tries=row.tries[:1]), 1
      run = functools.partial(
        _run,
        dataset,
        name,
        data=data,
        workdir=workdir,
        settings=settings,
      )
      errors = [
        -run(tried, 0).metrics["valid_ndcg_at_10"] for tried in row.tries
      ]
      best = tuning.choose(row.tries, errors)
      results = [run(best, seed) for seed in range(seeds)]
      cells.append(summarize(dataset, name, best, results))
      reporting.write_table(workdir / NAME, cells, COLUMNS, PICTURE)
  return cells


def _run(
  dataset: str,
  name: str,
  tried: Mapping[str, Any],
  seed: int,
  *,
  data: sequences.Sequences,
  workdir: pathlib.Path,
  settings: Mapping[str, Any] | None,
) -> reporting.RunResult:
  """Runs a setting of a row with a seed, unless its record is there."""
  full = functools.partial(find_run, workdir / dataset / FULL, seed)
  config: Any
  if name == COMPRESSED:
    train = sequential_compression.compress_items
    config = sequential_compression.CompressionOptions(
      run=str(full()), seed=seed, **tried
    )
  else:
    train = functools.partial(
      sequential_recommending.train_and_evaluate, resume=True
    )
    config = make_config(dataset, name, tried, seed=seed, settings=settings)
    if config.codes == "vectors":
      vectors = str(full() / sequential_compression.ITEMS_FILE)
      config = dataclasses.replace(config, vectors=vectors)
  folder = tuning.folder_name(tried)
  path = workdir / dataset / name.replace(" ", "_") / f"{folder}_seed_{seed}"
  result = tuning.run_once(config, path, functools.partial(train, data=data))
  ndcg = result.metrics["valid_ndcg_at_10"]
  print(f"{dataset}, {name}, {folder}, seed {seed}: valid {ndcg:.4f}, "
        f"{result.seconds:.0f} s", flush=True)  # fmt: skip
  return result


def find_run(folder: pathlib.Path, seed: int) -> pathlib.Path:
  """Returns the folder of the run of a row that validation likes best.

  Args:
    folder: That of the row.
    seed: The seed of the run.

  Raises:
    FileNotFoundError: If there is no such run yet.
  """
  found = {
    path.parent: reporting.read_result(path.parent).metrics["valid_ndcg_at_10"]
    for path in sorted(folder.glob(f"*_seed_{seed}/result.json"))
  }
  if not found:
    raise FileNotFoundError(
      f"{folder} has no run of the seed {seed} whose items could be "
      f"compressed: run the row {folder.name!r} first."
    )
  return max(found, key=lambda path: found[path])


def make_config(
  dataset: str,
  name: str,
  tried: Mapping[str, Any],
  *,
  seed: int = 0,
  settings: Mapping[str, Any] | None = None,
) -> sequential_options.SequentialConfig:
  """Returns the options of a run of a row.

  >>> make_config("video", "PT", {"dropout": 0.5}).epochs
  40
  """
  config = sequential_options.SequentialConfig(dataset=dataset, seed=seed)
  changes = {**MODELS[dataset], **ROWS[name].settings, **tried}
  return dataclasses.replace(config, **(changes | dict(settings or {})))


def summarize(
  dataset: str,
  name: str,
  tried: Mapping[str, Any],
  results: Sequence[reporting.RunResult],
) -> dict[str, Any]:
  """Returns the cells of a row by the names of their columns."""
  metrics = [result.metrics for result in results]
  cells: dict[str, Any] = {
    "dataset": dataset,
    "row": name,
    "chosen": ", ".join(f"{name} {value}" for name, value in tried.items()),
    "item_bytes": int(metrics[0]["item_bytes"]),
    "item_compression_ratio": metrics[0]["item_compression_ratio"],
    "seconds_per_epoch": float(np.mean([r.seconds_per_epoch for r in results])),
  }
  for column in (*(f"test_{metric}" for metric in METRICS), "valid_ndcg_at_10"):
    cells[column] = tuning.mean_and_spread(
      [found[column] for found in metrics], digits=4
    )
  return cells


def _measure() -> None:
  options = flags.FLAGS
  datasets = {
    name: sequences.load_sequences(name, data_dir=options.data_dir)
    for name in options.datasets
  }
  settings: dict[str, Any] = {}
  if options.epochs:
    settings = {"epochs": options.epochs, "patience": 0}
  if options.quick:
    settings = {"epochs": 1, "patience": 0, "checkpoint_chunks": 1}
  cells = run_benchmark(
    datasets,
    options.workdir,
    rows=options.rows,
    seeds=options.seeds,
    settings=settings,
    quick=options.quick,
  )
  print(f"\n{reporting.format_table(cells, COLUMNS)}\n")
  print(f"{options.seeds} seeds; mean ± standard deviation.")


if __name__ == "__main__":
  flags.DEFINE_bool("quick", False, "One run of one epoch for each row.")
  tuning.define_names(
    "datasets", MODELS, "Names of sequences.", default=("ml-1m", "video")
  )
  tuning.define_names("rows", ROWS, "Names of the rows, all by default.")
  flags.DEFINE_integer("seeds", 2, "Number of seeds.", lower_bound=1)
  flags.DEFINE_integer("epochs", 0, "Epochs of each run, 0 for the usual.")
  flags.DEFINE_string("data_dir", None, "Folder of data sets.")
  flags.DEFINE_string(
    "workdir", f"workdir/{NAME}", "Folder for all that the runs leave."
  )
  tuning.run_app(_measure)
