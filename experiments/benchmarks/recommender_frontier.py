r"""Compares embeddings of a recommender by size and quality.

  python -m experiments.benchmarks.recommender_frontier --dataset=ml-1m \
      --data_dir=/path/to/data

factorises ratings with full tables and with compact ones at several sizes,
stored as float16 all but the first. Each row gets the same budget: three
weights of the l2 penalty are tried with seed 0, the validation ratings choose,
and the row is the mean of three seeds with the one that was chosen. The test
ratings choose nothing. Hash tables and anchors get as many buckets and weights
as make their files as large as those of low rank; `narrow` is a full table of
fewer features.

Start scale, learning rates and their decay were chosen on the validation
ratings of MovieLens 1M, at one penalty, and not with equal effort: five tries
for low rank, where the rate of the shared factor decides, three for DPQ, two
for hash; narrow tables and anchors keep the defaults of the recommender, which
were found for anchors.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from anchor_codes import accounting
from experiments import recommending, reporting, tuning
from experiments.datasets import ratings as datasets

NAME = "recommender_frontier"
COLUMNS = {
  "kind": "Embedding",
  "size": "Size",
  "test": "Test MSE",
  "valid": "Valid MSE",
  "l2": "l2",
  "embedding_params": "Params",
  "embedding_bytes": "Stored bytes",
  "compression_ratio": "Ratio",
  "seconds": "s/run",
}
"""Headings of the columns of the table by their names."""
PICTURE = reporting.Picture(
  title="One recommender, several embeddings",
  value="test",
  caption="Test MSE (lower is better)",
  lines=("kind",),
  x="embedding_bytes",
  baseline="full",
)

KINDS = ("full", "narrow", "low rank", "hash", "DPQ", "anchors")
"""The kinds of rows, in the order of the table."""
FEATURES = 16
SEEDS = (0, 1, 2)
WEAK_TRIES = (0.03, 0.04, 0.06)
STRONG_TRIES = (0.04, 0.06, 0.08)
DECAY: dict[str, Any] = {"epochs": 22, "decay_epochs": 22}
"""A learning rate that falls from the start on."""

_WEIGHT_BYTES = 2  # float16.
# One bucket of two hash functions, for users and for items.
_BUCKET_BYTES = 2 * 2 * FEATURES * _WEIGHT_BYTES


class Row(NamedTuple):
  """One row of the table.

  Attributes:
    kind: What it is called.
    size: Its size, as the table names it.
    settings: The options in which it differs from the others.
    tries: The weights of the l2 penalty to choose from.
  """

  kind: str
  size: str
  settings: dict[str, Any]
  tries: tuple[float, ...] = WEAK_TRIES

  @property
  def folder(self) -> str:
    """Name of the folder of its runs."""
    return f"{self.kind}, {self.size}".replace(", ", "_").replace(" ", "_")


def make_rows(num_symbols: int) -> list[Row]:
  """Returns the rows of the table.

  Args:
    num_symbols: Number of users and items together, which sets how many
      buckets and weights take the bytes of low rank.
  """
  nonzeros = functools.partial(anchor_nonzeros, num_symbols)
  equal = lambda rank: low_rank_bytes(num_symbols, rank)
  return [
    full_row(),
    *(narrow_row(features) for features in (16, 8, 4, 2)),
    *(low_rank_row(rank) for rank in (8, 4, 2)),
    *(hash_row(equal(rank) // _BUCKET_BYTES) for rank in (4, 2)),
    *(dpq_row(*sizes) for sizes in ((16, 16), (16, 8), (8, 16))),
    *(
      anchor_row(num_anchors, num_nonzeros)
      for num_anchors, num_nonzeros in (
        (16, nonzeros(16, rank=8)),
        (16, 60_000),
        (16, nonzeros(16, rank=4)),
        (8, nonzeros(8, rank=2)),
      )
    ),
  ]


def low_rank_bytes(num_symbols: int, rank: int) -> int:
  """Returns the bytes of two tables of low rank.

  >>> low_rank_bytes(1000, 4)
  8256
  """
  return _WEIGHT_BYTES * rank * (num_symbols + 2 * FEATURES)


def anchor_nonzeros(num_symbols: int, num_anchors: int, *, rank: int) -> int:
  """Returns how many weights two tables of anchors have at a size of low rank.

  >>> anchor_nonzeros(1000, 16, rank=4)
  2616
  """
  others = accounting.masked_rows_bytes(num_symbols, num_anchors, 0)
  others += _WEIGHT_BYTES * 2 * num_anchors * FEATURES
  return (low_rank_bytes(num_symbols, rank) - others) // _WEIGHT_BYTES


def full_row() -> Row:
  """Returns the row that the others are measured against."""
  settings = {
    **DECAY,
    "embedding": "full",
    "stored_dtype": "float32",
    "start_scale": 0.1,
  }
  return Row("full", "32 bit", settings, STRONG_TRIES)


def narrow_row(features: int) -> Row:
  """Returns a row of full tables with fewer features."""
  settings = {"embedding": "full", "features": features, "start_scale": 0.2}
  return Row("narrow", f"{features} features", settings)


def low_rank_row(rank: int) -> Row:
  """Returns a row of two factors."""
  settings = {
    "embedding": "low_rank",
    "rank": rank,
    "start_scale": 0.2,
    "shared_learning_rate": 0.1,
  }
  return Row("low rank", f"rank {rank}", settings)


def hash_row(num_buckets: int) -> Row:
  """Returns a row of two hash functions with so many buckets each."""
  settings = {
    **DECAY,
    "embedding": "hash",
    "num_buckets": num_buckets,
    "shared_learning_rate": 1.0,
  }
  return Row("hash", f"2 x {num_buckets} buckets", settings, STRONG_TRIES)


def dpq_row(code_length: int, codebook_size: int) -> Row:
  """Returns a row of codes."""
  settings = {
    **DECAY,
    "embedding": "dpq",
    "code_length": code_length,
    "codebook_size": codebook_size,
    "relaxation": "nearest",
  }
  size = f"{code_length} digits of {codebook_size}"
  return Row("DPQ", size, settings, STRONG_TRIES)


def anchor_row(num_anchors: int, max_nonzeros: int) -> Row:
  """Returns a row of anchors with so many weights, users and items together."""
  settings = {
    "embedding": "anchors",
    "num_anchors": num_anchors,
    "max_nonzeros": max_nonzeros,
  }
  return Row("anchors", f"{num_anchors} anchors, {max_nonzeros:,}", settings)


def run_benchmark(
  data: datasets.Ratings,
  workdir: str | pathlib.Path,
  *,
  kinds: Sequence[str] = (),
  quick: bool = False,
) -> list[dict[str, Any]]:
  """Trains all rows; writes a record of each run, the table and the picture.

  A run with a record of the same options is not repeated.

  Args:
    data: The ratings.
    workdir: Folder for what the runs leave: a folder for each row with one for
      each run, `recommender_frontier.md` and `recommender_frontier.png`.
    kinds: The kinds of the rows, all by default.
    quick: Whether each row is one run of a few epochs, to see that all works.

  Returns:
    The cells of each row.
  """
  workdir, cells = pathlib.Path(workdir), []
  for row in make_rows(len(data.user_names) + len(data.item_names)):
    if kinds and row.kind not in kinds:
      continue
    results = run_row(row, data, workdir / row.folder, quick=quick)
    cells.append(summarize(row, results))
    reporting.write_table(workdir / NAME, cells, COLUMNS, PICTURE)
  return cells


def run_row(
  row: Row, data: datasets.Ratings, workdir: pathlib.Path, *, quick: bool
) -> list[reporting.RunResult]:
  """Chooses the penalty of a row on the validation ratings; runs all seeds."""

  def run(l2: float, seed: int) -> reporting.RunResult:
    config = make_config(row, data.name, l2=l2, seed=seed, quick=quick)
    result = tuning.run_once(
      config,
      workdir / f"l2_{l2}_seed_{seed}",
      lambda *args: recommending.train_and_evaluate(*args, data=data),
    )
    print(
      f"{row.kind}, {row.size}, l2 {l2}, seed {seed}: "
      f"valid {result.metrics['valid_mse']:.4f}, "
      f"test {result.metrics['test_mse']:.4f}, {result.seconds:.0f} s",
      flush=True,
    )
    return result

  tries, seeds = (row.tries[:1], SEEDS[:1]) if quick else (row.tries, SEEDS)
  errors = [run(l2, seeds[0]).metrics["valid_mse"] for l2 in tries]
  best = tuning.choose(tries, errors)
  return [run(best, seed) for seed in seeds]


def make_config(
  row: Row, dataset: str, *, l2: float, seed: int, quick: bool = False
) -> recommending.RecommenderConfig:
  """Returns the options of a run of a row."""
  config = recommending.RecommenderConfig(
    dataset=dataset,
    features=FEATURES,
    stored_dtype="float16",
    l2=l2,
    checkpoint_chunks=0,
    seed=seed,
  )
  config = dataclasses.replace(config, **row.settings)
  if quick:
    config = dataclasses.replace(
      config, epochs=3, decay_epochs=2, prune_from=1, prune_epochs=1
    )
  return config


def summarize(
  row: Row, results: Sequence[reporting.RunResult]
) -> dict[str, Any]:
  """Returns the cells of a row by the names of their columns.

  Args:
    row: What was run.
    results: The runs of all seeds.

  Returns:
    Means over the runs, with standard deviations of the errors.
  """
  mean = lambda values: float(np.mean(list(values)))
  cells: dict[str, Any] = {
    "kind": row.kind,
    "size": row.size,
    "l2": f"{results[0].config['l2']:g}",
    "embedding_params": round(mean(r.embedding_params for r in results)),
    "embedding_bytes": round(mean(r.embedding_bytes for r in results)),
    # Against the table of all features, of which a narrow one knows nothing.
    "compression_ratio": mean(
      r.compression_ratio * FEATURES / r.config["features"] for r in results
    ),
    "seconds": round(mean(r.seconds for r in results)),
  }
  for part in ("test", "valid"):
    errors = [r.metrics[f"{part}_mse"] for r in results]
    # As text, for the table would round errors above one to two decimals.
    cells[part] = tuning.mean_and_spread(errors, digits=4)
    std = float(np.std(errors, ddof=1)) if len(errors) > 1 else 0.0
    cells |= {f"{part}_mse": mean(errors), f"{part}_mse_std": std}
  return cells


def _measure() -> None:
  options = flags.FLAGS
  data = datasets.load_ratings(options.dataset, data_dir=options.data_dir)
  cells = run_benchmark(
    data, options.workdir, kinds=options.kinds, quick=options.quick
  )
  print(f"\n{reporting.format_table(cells, COLUMNS)}\n")
  print(f"{len(SEEDS)} seeds; mean ± standard deviation.")
  print(f"See {pathlib.Path(options.workdir) / NAME}.png.")


if __name__ == "__main__":
  flags.DEFINE_bool("quick", False, "One run of a few epochs for each row.")
  tuning.define_names("kinds", KINDS, "Kinds of the rows, all by default.")
  flags.DEFINE_string("dataset", "ml-1m", "What `load_ratings` takes.")
  flags.DEFINE_string("data_dir", None, "Folder with a folder `ml-1m`.")
  flags.DEFINE_string(
    "workdir", f"workdir/{NAME}", "Folder for all that the runs leave."
  )
  tuning.run_app(_measure)
