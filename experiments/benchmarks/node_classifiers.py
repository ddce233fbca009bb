r"""Compares a full first layer of a graph network with compact ones.

  python -m experiments.benchmarks.node_classifiers --data_dir=/path/to/data

trains the graph network of Kipf and Welling (2017) on Cora and Citeseer, with
vectors of words of several kinds. Each row gets the same budget: as many
settings are tried, each with the same few seeds, the validation nodes choose,
and the row is the mean of all seeds with the one that was chosen. The test
nodes choose nothing. What to try was itself found by trial on the validation
nodes, mostly of Cora, with more trials for codes than for the other rows.

The ratio is that of the bytes of the full first layer of the paper, 16 wide, to
those of the row, codebooks included. The hidden layer of a compact row may be
wider, which costs its codebooks, anchors or inner factor, but not its words.
"""

import dataclasses
import json
import pathlib
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import flags

from experiments import embeddings, node_classification, reporting, tuning
from experiments.datasets import node_graphs
from experiments.reporting import files
from experiments.tuning import Row, grid

NAME = "node_classifiers"
DATASETS = ("cora", "citeseer")
NUM_SEEDS = 10
TUNING_SEEDS = 2
COLUMNS = {
  "dataset": "Graph",
  "row": "First layer",
  "test": "Test accuracy",
  "valid": "Valid accuracy",
  "chosen": "Chosen",
  "embedding_params": "Params",
  "embedding_bytes": "Stored bytes",
  "ratio": "Ratio",
  "seconds_per_epoch": "s/epoch",
}
"""Headings of the columns of the table by their names."""
PICTURE = reporting.Picture(
  title="One graph network, several first layers",
  value="test",
  caption="Test accuracy, % (higher is better)",
  label=("row",),
  x="embedding_bytes",
  panel="dataset",
  baseline="full",
)


_HALF = {"stored_dtype": "float16"}
_CODES = {**_HALF, "code_length": 8, "codebook_size": 16}

ROWS: dict[str, Row] = {
  "full": Row(
    {"embedding": "full"},
    grid("learning_rate", 0.005, 0.01, 0.02),
  ),
  # A product of two small factors starts slowly: it needs larger rates.
  "low rank": Row(
    {**_HALF, "embedding": "low_rank", "rank": 2, "features": 32},
    grid("learning_rate", 0.02, 0.05, 0.1),
  ),
  # The penalty weighs more where all words share the few vectors there are.
  "random codes": Row(
    {**_CODES, "embedding": "fixed", "features": 32, "learning_rate": 0.02},
    grid("l2", 5e-4, 2e-5, 0.0),
  ),
  "KD codes": Row(
    {**_CODES, "embedding": "kd", "row_learning_rate": 2.0},
    grid("features", 16, 32, 64),
  ),
  "DPQ": Row(
    {
      **_HALF,
      "embedding": "dpq",
      "relaxation": "nearest",
      "code_length": 16,
      "codebook_size": 4,
      "shared_codebook": False,
    },
    (
      {"features": 16, "start_scale": 0.3},
      {"features": 32, "start_scale": 0.3},
      {"features": 16, "start_scale": 1.0},
    ),
  ),
  "anchors": Row(
    {
      **_HALF,
      "embedding": "anchors",
      "num_anchors": 8,
      "num_nonzeros": 2,
      "l1": 1e-5,
    },
    (
      {"features": 16, "row_learning_rate": 2.0},
      {"features": 32, "row_learning_rate": 2.0},
      {"features": 32, "row_learning_rate": 5.0},
    ),
  ),
}
"""The rows of the table. Low rank and codes store four bytes for each word,
anchors six."""


def run_benchmark(
  datasets: Mapping[str, node_graphs.NodeGraph],
  workdir: str | pathlib.Path,
  *,
  rows: Sequence[str] = (),
  num_seeds: int = NUM_SEEDS,
  quick: bool = False,
) -> list[dict[str, Any]]:
  """Trains all rows; writes a record of each run, and the table.

  A run whose record is there is not repeated.

  Args:
    datasets: The graphs by their names.
    workdir: Folder with one folder for each run.
    rows: Names of the rows, by default all whose embedding there is.
    num_seeds: Number of seeds of the setting that was chosen.
    quick: Whether each row is one run of five epochs, to see that all works.

  Returns:
    The cells of each row.
  """
  workdir, cells = pathlib.Path(workdir), []
  chosen = rows or available_rows()
  for dataset, data in datasets.items():
    for name in chosen:
      results = _run_row(
        dataset, name, data, workdir, num_seeds=num_seeds, quick=quick
      )
      cells.append(summarize(dataset, name, results))
      _write(workdir, cells)
  return cells


def _write(workdir: pathlib.Path, cells: Sequence[dict[str, Any]]) -> None:
  reporting.write_table(workdir / NAME, cells, COLUMNS, PICTURE)
  files.write_atomically(
    workdir / f"{NAME}.json", json.dumps(list(cells), indent=2) + "\n"
  )


def available_rows() -> list[str]:
  """Returns the names of the rows whose kind of embedding there is."""
  kinds = embeddings.KINDS
  return [name for name in ROWS if ROWS[name].settings["embedding"] in kinds]


def _run_row(
  dataset: str,
  name: str,
  data: node_graphs.NodeGraph,
  workdir: pathlib.Path,
  *,
  num_seeds: int,
  quick: bool,
) -> list[reporting.RunResult]:
  """Chooses a setting on the validation nodes; runs all seeds."""

  def run(tried: dict[str, Any], seeds: int) -> list[reporting.RunResult]:
    results = []
    for seed in range(seeds):
      config = make_config(dataset, name, tried, seed=seed, quick=quick)
      folder = tuning.folder_name(tried)
      path = workdir / dataset / name.replace(" ", "_")
      result = tuning.run_once(
        config,
        path / f"{folder}_seed_{seed}",
        lambda *args: node_classification.train_and_evaluate(*args, data=data),
      )
      results.append(result)
    accuracy = np.mean([r.metrics["valid_accuracy"] for r in results])
    print(f"{dataset}, {name}, {tried}, {seeds} seeds: valid {accuracy:.4f}",
          flush=True)  # fmt: skip
    return results

  tries, few = ROWS[name].tries, min(TUNING_SEEDS, num_seeds)
  if quick:
    tries, num_seeds = tries[:1], 1
  found = [run(tried, few) for tried in tries] if len(tries) > 1 else [[]]
  errors = [-sum(r.metrics["valid_accuracy"] for r in runs) for runs in found]
  return run(tuning.choose(tries, errors), num_seeds)


def make_config(
  dataset: str,
  name: str,
  tried: dict[str, Any],
  *,
  seed: int,
  quick: bool = False,
) -> node_classification.NodeClassificationConfig:
  """Returns the options of a run of a row."""
  config = node_classification.NodeClassificationConfig(
    dataset=dataset, checkpoint_chunks=0, seed=seed
  )
  settings = {**ROWS[name].settings, **tried}
  if quick:
    settings["epochs"] = config.chunk_steps
  return dataclasses.replace(config, **settings)


def summarize(
  dataset: str, name: str, results: Sequence[reporting.RunResult]
) -> dict[str, Any]:
  """Returns the cells of a row by the names of their columns."""
  config, tried = results[0].config, ROWS[name].tries[0]
  num_words = results[0].dense_bytes // (4 * config["features"])
  width = node_classification.NodeClassificationConfig().features
  cells: dict[str, Any] = {
    "dataset": dataset,
    "row": name,
    "chosen": tuning.describe({name: config[name] for name in tried}),
    "embedding_params": results[0].embedding_params,
    "embedding_bytes": results[0].embedding_bytes,
    "ratio": 4 * num_words * width / results[0].embedding_bytes,
    "seconds_per_epoch": float(np.mean([r.seconds_per_epoch for r in results])),
  }
  for part in ("test", "valid"):
    found = [100 * r.metrics[f"{part}_accuracy"] for r in results]
    cells[part] = tuning.mean_and_spread(found)
  return cells


def _measure() -> None:
  options = flags.FLAGS
  datasets = {
    name: node_graphs.load_node_graph(name, data_dir=options.data_dir)
    for name in options.datasets
  }
  with tempfile.TemporaryDirectory() as folder:
    # Runs that differ in their seed alone are compiled once.
    jax.config.update("jax_compilation_cache_dir", folder)
    cells = run_benchmark(
      datasets,
      options.workdir,
      rows=options.rows,
      num_seeds=options.seeds,
      quick=options.quick,
    )
  print(f"\n{reporting.format_table(cells, COLUMNS)}\n")
  print(f"{options.seeds} seeds; mean ± standard deviation.")


if __name__ == "__main__":
  flags.DEFINE_bool("quick", False, "One run of five epochs for each row.")
  tuning.define_names(
    "datasets", DATASETS, "Names of graphs.", default=DATASETS
  )
  tuning.define_names("rows", ROWS, "Names of the rows, all by default.")
  flags.DEFINE_integer(
    "seeds", NUM_SEEDS, "Number of seeds of each row.", lower_bound=1
  )
  flags.DEFINE_string("data_dir", None, "Folder of data sets.")
  flags.DEFINE_string(
    "workdir", f"workdir/{NAME}", "Folder for all that the runs leave."
  )
  tuning.run_app(_measure)
