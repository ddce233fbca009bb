r"""Compares embeddings by size and quality in one language model, on real text.

  python -m experiments.compare

trains the same LSTM with a full table and with compact ones, all with the same
data, steps and seed, each with settings of its own. It needs
no download: the text is the documentation that comes with Python. Each row
leaves `result.json`, `metrics.csv` and `embedding.safetensors` in
a folder of its own; `comparison.png` and `comparison.md` show them all. A row
that has its result already is not trained again.
"""

import dataclasses
import functools
import pathlib
import time
from typing import Any

from absl import flags

from experiments import language_modeling, reporting, tuning
from experiments.datasets import language_model as datasets

ROWS: dict[str, dict[str, Any]] = {
  "full": {"embedding": "full", "start_scale": 0.0577},
  "full + SSE-SE": {
    "embedding": "full",
    "sharing": "se",
    "start_scale": 0.0577,
  },
  "anchors": {
    "embedding": "anchors",
    "num_anchors": 256,
    "weight_scale": 0.1,
    "shared_learning_rate": 0.3,
  },
  "KD codes": {
    "embedding": "kd",
    "code_length": 32,
    "codebook_size": 16,
    "composition": "concat",
    "row_optimizer": "adam",
    "row_learning_rate": 0.01,
  },
  "DPQ": {
    "embedding": "dpq",
    "code_length": 128,
    "codebook_size": 8,
    "relaxation": "nearest",
  },
  "low rank": {
    "embedding": "low_rank",
    "rank": 12,
    "shared_learning_rate": 0.1,
  },
  "hash": {
    "embedding": "hash",
    "num_buckets": 256,
    "num_hashes": 4,
    "shared_learning_rate": 0.5,
  },
}
"""The rows of the table: the settings in which each differs from the others."""

PICTURE = reporting.Picture(
  title="One language model, several embeddings",
  value="test_perplexity",
  caption="Test perplexity (lower is better)",
  label=("label",),
  x="embedding_bytes",
  baseline="full",
)


def compare(
  workdir: str | pathlib.Path, *, quick: bool = False
) -> list[dict[str, Any]]:
  """Trains all rows, and writes the table and the picture.

  A row with a result of the same options in its folder is not trained again.

  Args:
    workdir: Folder with one folder for each row.
    quick: Whether to train on a small part of the text, to see that all works.

  Returns:
    The cells of each row.
  """
  workdir = pathlib.Path(workdir)
  data = datasets.load_text("stdlib")
  rows = []
  for label, settings in ROWS.items():
    begin = time.perf_counter()
    result = tuning.run_once(
      base_config(quick=quick, **settings),
      workdir / label.replace(" ", "_"),
      functools.partial(language_modeling.train_and_evaluate, data=data),
    )
    rows.append(reporting.row(result, label=label))
    perplexity = result.metrics["test_perplexity"]
    seconds = time.perf_counter() - begin
    print(f"{label}: test perplexity {perplexity:.2f}, {seconds:.0f} s")
  write_report(rows, workdir)
  return rows


def base_config(
  *, quick: bool = False, **settings: Any
) -> language_modeling.LanguageModelConfig:
  """Returns the setting that all rows share, and what a row changes."""
  config = language_modeling.LanguageModelConfig(
    dataset="stdlib",
    features=128,
    hidden=128,
    num_layers=1,
    dropout=0.2,
    num_sampled=512,
    epochs=4,
    learning_rate=1.0,
    constant_epochs=2,
    decay=0.4,
    validate_epochs=False,
    checkpoint_chunks=0,
  )
  if quick:
    config = dataclasses.replace(config, epochs=1, max_tokens=30_000)
  return dataclasses.replace(config, **settings)


def write_report(rows: list[dict[str, Any]], workdir: pathlib.Path) -> None:
  """Writes the table as Markdown, and the picture of size against quality."""
  path = workdir / "comparison"
  reporting.write_table(path, rows, reporting.COLUMNS, PICTURE)


def main() -> None:
  """Runs the comparison that the flags describe."""
  begin = time.perf_counter()
  workdir = pathlib.Path(flags.FLAGS.workdir)
  rows = compare(workdir, quick=flags.FLAGS.quick)
  print(f"\n{reporting.format_table(rows, reporting.COLUMNS)}\n")
  seconds = time.perf_counter() - begin
  print("NumPy reads from each file what its layer has learned.")
  print(f"{seconds:.0f} s in all; see {workdir / 'comparison.png'}.")


if __name__ == "__main__":
  flags.DEFINE_bool("quick", False, "Train on a small part of the text.")
  flags.DEFINE_string(
    "workdir", "workdir/compare", "Folder for all that the runs leave."
  )
  tuning.run_app(main)
