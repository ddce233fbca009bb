r"""Compares translators with and without stochastic sharing.

  python -m experiments.benchmarks.translators --data_dir=/path/to/data

trains a small transformer on Multi30k, English to German, with labels smoothed
by 0.1 in all rows. Each row gets the same budget: as many settings are tried
with the first seed, BLEU on the validation text chooses, and the row is the
mean of all seeds with the setting that was chosen. Without sharing, all tries
go to the rate of the dropout. A run ends after two epochs without a better loss
on the validation text. The test text chooses nothing. A run whose record is
there is not repeated.
"""

import dataclasses
import itertools
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import flags

from experiments import reporting, translating, translation_options, tuning
from experiments.datasets import translation

NAME = "translators"
SEEDS = (0, 1, 2)
COLUMNS = {
  "row": "Sharing",
  "test": "Test BLEU",
  "valid": "Valid BLEU",
  "perplexity": "Valid ppl",
  "chosen": "Chosen",
  "seconds_per_epoch": "s/epoch",
}
"""Headings of the columns of the table by their names."""
PICTURE = reporting.Picture(
  title="Sharing in a translator",
  value="test",
  caption="Test BLEU (higher is better)",
  label=("row",),
  baseline="none",
)

_GRID = tuple(
  {"dropout": dropout, "sharing_rate": rate}
  for dropout, rate in itertools.product((0.2, 0.3), (0.01, 0.05))
)

ROWS: dict[str, tuning.Row] = {
  "none": tuning.Row({}, tuning.grid("dropout", 0.1, 0.2, 0.3, 0.4)),
  "SSE-SE": tuning.Row({"sharing": "se"}, _GRID),
  "SSE-SE, labels too": tuning.Row(
    {"sharing": "se", "label_sharing_rate": 0.01}, _GRID
  ),
}
"""The rows of the table; the last one is made on demand."""

DEFAULT_ROWS = ("none", "SSE-SE")


def run_benchmark(
  config: translation_options.TranslationConfig,
  data: translation.ParallelText,
  workdir: str | pathlib.Path,
  *,
  rows: Sequence[str] = DEFAULT_ROWS,
  quick: bool = False,
) -> list[dict[str, Any]]:
  """Trains all rows; writes a record of each run, and the table.

  Args:
    config: What all rows share.
    data: The pairs.
    workdir: Folder with one folder for each run, and the subwords of all.
    rows: Names of the rows.
    quick: Whether each row is one run of one epoch, to see that all works.

  Returns:
    The cells of each row.
  """
  workdir, cells = pathlib.Path(workdir), []
  translating.find_subwords(config, data.train, workdir)
  config = dataclasses.replace(
    config, subword_model=str(workdir / translating.SUBWORDS_FILE)
  )
  if quick:
    config = dataclasses.replace(config, epochs=1)
  for name in rows:
    results = _run_row(config, name, data, workdir, quick=quick)
    cells.append(summarize(name, results))
    reporting.write_table(workdir / NAME, cells, COLUMNS, PICTURE)
  return cells


def _run_row(
  config: translation_options.TranslationConfig,
  name: str,
  data: translation.ParallelText,
  workdir: pathlib.Path,
  *,
  quick: bool,
) -> list[reporting.RunResult]:
  """Chooses a setting on the validation text; runs all seeds."""

  def run(tried: dict[str, Any], seed: int) -> reporting.RunResult:
    changes = {**ROWS[name].settings, **tried, "seed": seed}
    folder = f"{tuning.folder_name(tried)}_seed_{seed}"
    result = tuning.run_once(
      dataclasses.replace(config, **changes),
      workdir / name.replace(", ", "_").replace(" ", "_") / folder,
      lambda *args: translating.train_and_evaluate(*args, data=data),
    )
    bleu = result.metrics["valid_bleu"]
    print(f"{name}, {folder}: valid BLEU {bleu:.2f}, {result.seconds:.0f} s",
          flush=True)  # fmt: skip
    return result

  tries, seeds = ROWS[name].tries, SEEDS
  if quick:
    tries, seeds = tries[:1], SEEDS[:1]
  errors = [-run(tried, seeds[0]).metrics["valid_bleu"] for tried in tries]
  best = tuning.choose(tries, errors)
  return [run(best, seed) for seed in seeds]


def summarize(
  name: str, results: Sequence[reporting.RunResult]
) -> dict[str, Any]:
  """Returns the cells of a row by the names of their columns."""
  config, tried = results[0].config, ROWS[name].tries[0]
  of = lambda metric: [result.metrics[metric] for result in results]
  return {
    "row": name,
    "test": tuning.mean_and_spread(of("test_bleu")),
    "valid": tuning.mean_and_spread(of("valid_bleu")),
    "perplexity": float(np.mean(of("valid_perplexity"))),
    "chosen": tuning.describe({option: config[option] for option in tried}),
    "seconds_per_epoch": float(np.mean([r.seconds_per_epoch for r in results])),
  }


def _measure() -> None:
  options = flags.FLAGS
  config = translation_options.TranslationConfig(
    dataset=options.dataset,
    source=options.source,
    target=options.target,
    data_dir=options.data_dir or "",
    patience=2,
    checkpoint_chunks=0,
  )
  if options.epochs:
    config = dataclasses.replace(config, epochs=options.epochs, patience=0)
  data = translation.load_parallel(
    config.dataset,
    source=config.source,
    target=config.target,
    data_dir=options.data_dir,
  )
  cells = run_benchmark(
    config, data, options.workdir, rows=options.rows, quick=options.quick
  )
  print(f"\n{reporting.format_table(cells, COLUMNS)}\n")
  print(f"{len(SEEDS)} seeds; mean ± standard deviation.")


if __name__ == "__main__":
  flags.DEFINE_bool("quick", False, "One run of one epoch for each row.")
  flags.DEFINE_multi_enum(
    "rows", list(DEFAULT_ROWS), list(ROWS), "Names of the rows."
  )
  flags.DEFINE_string("dataset", "multi30k", "Name of the pairs.")
  flags.DEFINE_string("source", "en", "Language to translate from.")
  flags.DEFINE_string("target", "de", "Language to translate into.")
  flags.DEFINE_integer("epochs", 0, "Epochs, those of the options by default.")
  flags.DEFINE_string("data_dir", None, "Folder of data sets.")
  flags.DEFINE_string(
    "workdir", f"workdir/{NAME}", "Folder for all that the runs leave."
  )
  tuning.run_app(_measure)
