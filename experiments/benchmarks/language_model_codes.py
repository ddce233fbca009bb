r"""Compares anchors and codes with a full table, low rank and random codes.

  python -m experiments.benchmarks.language_model_codes --dataset=ptb \
      --data_dir=/path/to/data

trains the small LSTM of Zaremba et al. (2014) with each embedding on the same
budget. Each row tries as many settings, on a part of the text, with seed 0; the
validation text chooses, and the row is the mean of whole runs with the one that
was chosen. The test text chooses nothing. Low rank and random codes come at the
bytes of DPQ and at those of KD codes; KD codes come without guidance, guided by
a table that is trained alongside, and by that of the full row. All but the full
table are stored as float16. A run with a record is not repeated.
"""

import dataclasses
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from absl import flags

from experiments import language_modeling, reporting, tuning
from experiments.datasets import language_model as datasets
from experiments.datasets import text
from experiments.tuning import Row, grid

NAME = "language_model_codes"
COLUMNS = {
  "row": "Embedding",
  "test": "Test ppl",
  "valid": "Valid ppl",
  "chosen": "Chosen",
  "embedding_bytes": "Stored bytes",
  "compression_ratio": "Ratio",
  "unique": "Unique codes",
  "dead": "Dead entries",
  "training_bytes": "Training bytes",
  "seconds_per_epoch": "s/epoch",
}
"""Headings of the columns of the table by their names."""
PICTURE = reporting.Picture(
  title="One language model, several embeddings",
  value="test",
  caption="Test perplexity (lower is better)",
  label=("row",),
  x="embedding_bytes",
  baseline="full",
)

BUDGET: dict[str, Any] = {
  "epochs": 5,
  "constant_epochs": 2,
  "start_scale": 0.0577,
  "checkpoint_chunks": 0,
}
"""What all runs share: five epochs, and a start as in the paper."""

PILOT: dict[str, Any] = {
  "epochs": 3,
  "max_tokens": 200_000,
  "num_sampled": 512,
}
"""The runs that choose are shorter, and draw some words for the softmax."""

QUICK: dict[str, Any] = {"epochs": 1, "max_tokens": 4_000}


_SHARED_RATES = grid("shared_learning_rate", 0.1, 0.3, 1.0, 3.0)
_LOGIT_RATES = grid("row_learning_rate", 0.001, 0.003, 0.01, 0.03)
# Of .1, .3, 1 and 3 for the anchors .3 was best with a rate of 1 for the rows.
_ANCHOR_RATES = (
  *grid("shared_learning_rate", 0.3, 1.0),
  {"shared_learning_rate": 0.3, "row_learning_rate": 2.0},
  {"shared_learning_rate": 0.3, "row_learning_rate": 4.0},
)
_ANCHORS = {
  "embedding": "anchors",
  "num_anchors": 200,
  "num_nonzeros": 8,
  "weight_scale": 0.1,
}
_SMALL = {"code_length": 25, "codebook_size": 8, "shared_codebook": True}
_LARGE = {"code_length": 32, "codebook_size": 32}
_KD = {
  "embedding": "kd",
  "composition": "linear",
  "code_features": 300,
  "output_norm": True,
  "row_optimizer": "adam",
  **_LARGE,
}
_NEAREST = {
  "embedding": "dpq",
  "relaxation": "nearest",
  **_SMALL,
  "codebook_size": 32,
}
_RANDOM = {"embedding": "fixed", "codes": "random"}

ROWS: dict[str, Row] = {
  "full": Row(
    {"embedding": "full", "stored_dtype": "float32"},
    grid("row_learning_rate", 0.5, 1.0, 2.0, 4.0),
  ),
  "anchors 8 of 200": Row(_ANCHORS, _ANCHOR_RATES),
  "low rank 5": Row({"embedding": "low_rank", "rank": 5}, _SHARED_RATES),
  "low rank 30": Row({"embedding": "low_rank", "rank": 30}, _SHARED_RATES),
  "random codes 25 of 8": Row(
    {**_RANDOM, "composition": "concat", **_SMALL}, _SHARED_RATES
  ),
  "random codes 32 of 32": Row({**_RANDOM, **_LARGE}, _SHARED_RATES),
  "KD": Row(_KD, _LOGIT_RATES),
  "KD guided online": Row({**_KD, "guidance": "online"}, _LOGIT_RATES),
  "KD guided by full": Row({**_KD, "guidance": "pretrained"}, _LOGIT_RATES),
  "DPQ softmax 25 of 8": Row(
    {"embedding": "dpq", "relaxation": "softmax", **_SMALL}, _SHARED_RATES
  ),
  "DPQ nearest 25 of 32": Row(_NEAREST, _SHARED_RATES),
  "DPQ nearest 25 of 32 revived": Row(
    {**_NEAREST, "revival_chunks": 5}, _SHARED_RATES
  ),
}
"""The rows of the table; the full one goes first, for it guides others."""


@dataclasses.dataclass(frozen=True)
class Benchmark:
  """The runs of some rows.

  Attributes:
    data: The text.
    workdir: Folder with one folder for each run.
    seeds: Number of seeds of whole runs.
    changes: More options of whole runs.
    quick: Whether each row is one short run, to see that all works.
  """

  data: text.TextDataset
  workdir: pathlib.Path
  seeds: int = 2
  changes: dict[str, Any] = dataclasses.field(default_factory=dict)
  quick: bool = False

  def cells(self, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Trains one row after the other; yields the cells of each."""
    for name in names:
      tries = ROWS[name].tries
      if self.quick:
        best, seeds = tries[0], 1
      else:
        found = [self.run(name, tried, 0, pilot=True) for tried in tries]
        errors = [result.metrics["valid_perplexity"] for result in found]
        best = tuning.choose(tries, errors)
        seeds = self.seeds
      results = [self.run(name, best, seed) for seed in range(seeds)]
      yield summarize(name, best, results)

  def run(
    self,
    name: str,
    tried: dict[str, float],
    seed: int,
    *,
    pilot: bool = False,
  ) -> reporting.RunResult:
    """Trains a run, or reads its record."""
    path = self.folder(name, tried, seed, pilot=pilot)
    config = self.config(name, tried, seed, pilot=pilot)
    result = tuning.run_once(
      config,
      path,
      lambda *args: language_modeling.train_and_evaluate(*args, data=self.data),
    )
    print(
      f"{path.parent.name}, {path.name}: valid "
      f"{result.metrics['valid_perplexity']:.2f}, {result.seconds:.0f} s",
      flush=True,
    )
    return result

  def folder(
    self, name: str, tried: dict[str, float], seed: int, *, pilot: bool = False
  ) -> pathlib.Path:
    """Returns the folder of a run."""
    options = tuning.folder_name(tried)
    kind = "pilot" if pilot else "seed"
    row = name.replace(" ", "_")
    return self.workdir / row / f"{kind}_{seed}_{options}"

  def config(
    self, name: str, tried: dict[str, float], seed: int, *, pilot: bool
  ) -> language_modeling.LanguageModelConfig:
    """Returns the options of a run."""
    options = {
      **BUDGET,
      "dataset": self.data.name,
      "seed": seed,
      "stored_dtype": "float16",
      **ROWS[name].settings,
      **tried,
      **(PILOT if pilot else self.changes),
      **(QUICK if self.quick else {}),
    }
    if options.get("guidance") == "pretrained":
      options["vectors"] = str(self.guide())
    return language_modeling.LanguageModelConfig(**options)

  def guide(self) -> pathlib.Path:
    """Returns the table of the first whole run of the full row.

    Raises:
      FileNotFoundError: If there is none yet.
    """
    folder = self.workdir / "full"
    found = sorted(folder.glob("seed_0_*/embedding.safetensors"))
    if not found:
      raise FileNotFoundError(
        f"{folder} has no table to guide others: run the row 'full' first."
      )
    return found[0]


def run_benchmark(
  benchmark: Benchmark, rows: Sequence[str] = ()
) -> list[dict[str, Any]]:
  """Trains all rows; writes a record of each run, and the table.

  Args:
    benchmark: What to train on, and where.
    rows: Names of the rows, all by default.

  Returns:
    The cells of each row.
  """
  cells = []
  for found in benchmark.cells(rows or tuple(ROWS)):
    cells.append(found)
    reporting.write_table(benchmark.workdir / NAME, cells, COLUMNS, PICTURE)
  return cells


def summarize(
  name: str, tried: dict[str, float], results: Sequence[reporting.RunResult]
) -> dict[str, Any]:
  """Returns the cells of a row by the names of their columns."""
  first = results[0]
  cells: dict[str, Any] = {
    "row": name,
    "chosen": tuning.describe(tried),
    "embedding_bytes": first.embedding_bytes,
    "compression_ratio": first.compression_ratio,
    "training_bytes": first.training_bytes,
    "seconds_per_epoch": float(np.mean([r.seconds_per_epoch for r in results])),
  }
  for part in ("unique", "dead"):
    shares = [r.metrics.get(f"{part}_codes", np.nan) for r in results]
    share = float(np.mean(shares))
    cells[part] = "" if np.isnan(share) else f"{share:.1%}"
  for part in ("test", "valid"):
    cells[part] = tuning.mean_and_spread(
      [r.metrics[f"{part}_perplexity"] for r in results]
    )
  return cells


def _measure() -> None:
  options = flags.FLAGS
  changes = {}
  if options.epochs:
    changes = {"epochs": options.epochs, "constant_epochs": 4}
  data = datasets.load_text(options.dataset, data_dir=options.data_dir)
  benchmark = Benchmark(
    data,
    pathlib.Path(options.workdir),
    seeds=options.seeds,
    changes=changes,
    quick=options.quick,
  )
  cells = run_benchmark(benchmark, options.rows)
  print(f"\n{reporting.format_table(cells, COLUMNS)}")


if __name__ == "__main__":
  flags.DEFINE_bool("quick", False, "One short run for each row.")
  flags.DEFINE_integer("seeds", 2, "Number of seeds.", lower_bound=1)
  flags.DEFINE_integer(
    "epochs", 0, "Epochs of whole runs, of which the first four are constant."
  )
  flags.DEFINE_string("dataset", "ptb", "What `load_text` takes.")
  tuning.define_names("rows", ROWS, "Names of the rows, all by default.")
  flags.DEFINE_string("data_dir", None, "Folder of data sets.")
  flags.DEFINE_string(
    "workdir", f"workdir/{NAME}", "Folder for all that the runs leave."
  )
  tuning.run_app(_measure)
