"""What the benchmarks of sharing in recommenders have in common.

There are two tables. In the *published* one all options are given, and a row
shows the best of all evaluations on the test ratings, as the papers report it,
beside the last. In the *tuned* one each row gets the same budget: a part of the
training ratings is set aside, chooses the setting and the number of epochs with
seed 0, and comes back for the runs of all seeds, whose last epoch is tested.
There the test chooses nothing.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from absl import flags

from experiments import ranking, recommending, reporting, tuning
from experiments.datasets import ratings as datasets
from experiments.recommender_options import RecommenderConfig

PARTS = ("published", "tuned")
SEEDS = (0, 1, 2)
VALID_SHARE = 0.1


class Row(NamedTuple):
  """One row of a table.

  Attributes:
    name: What it is called.
    settings: The options in which it differs from the others.
    tries: The settings to choose from; one for the published table.
    seeds: The seeds of the runs.
  """

  name: str
  settings: dict[str, Any]
  tries: tuple[dict[str, Any], ...] = ({},)
  seeds: tuple[int, ...] = SEEDS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Benchmark:
  """A benchmark of sharing.

  Attributes:
    name: Its name, which is that of its files.
    base: The options that all rows share.
    metrics: What is measured on the test, and the headings of its columns.
    judge: Where a metric of the validation part is, of which more is better;
      with a minus sign in front, less is.
    rows: The rows of both tables.
  """

  name: str
  base: RecommenderConfig
  metrics: dict[str, str]
  judge: str
  rows: Mapping[str, Sequence[Row]]

  def columns(self, part: str) -> dict[str, str]:
    """Returns the headings of the columns of a table by their names."""
    measured = dict(self.metrics)
    if part == "published":
      measured |= {f"best_{n}": f"{h}, best" for n, h in self.metrics.items()}
    return {
      "name": "Row",
      "chosen": "Chosen",
      **measured,
      "epochs": "Epochs",
      "seconds": "s/run",
    }

  def picture(self, part: str) -> reporting.Picture:
    """Returns how a table is drawn: by the first metric."""
    value, heading = next(iter(self.metrics.items()))
    better = "lower" if self.judge.startswith("-") else "higher"
    return reporting.Picture(
      title=f"Sharing in a recommender, {part} settings",
      value=value,
      caption=f"Test {heading} ({better} is better)",
      label=("name",),
    )

  def error(self, result: reporting.RunResult) -> float:
    """Returns what the validation part has against a run."""
    name = self.judge.removeprefix("-")
    sign = 1 if self.judge.startswith("-") else -1
    return sign * result.metrics[name]

  def run(
    self,
    data: datasets.Ratings,
    workdir: pathlib.Path,
    *,
    parts: Sequence[str] = PARTS,
    names: Sequence[str] = (),
    quick: bool = False,
  ) -> dict[str, list[dict[str, Any]]]:
    """Trains rows; writes a record of each run, and the tables.

    A run whose record is there is not repeated.

    Args:
      data: The ratings.
      workdir: Folder with one folder for each run.
      parts: The tables, of `PARTS`.
      names: The rows by name, all by default.
      quick: Whether each row is one run of two epochs, to see that all works.

    Returns:
      The cells of each row of each table.
    """
    cells: dict[str, list[dict[str, Any]]] = {part: [] for part in parts}
    for part in parts:
      for row in self.rows[part]:
        if names and row.name not in names:
          continue
        run = self._runner(row, data, workdir / part, quick=quick)
        seeds = row.seeds[:1] if quick else row.seeds
        chosen = self._choose(row, run, quick=quick) if part == "tuned" else {}
        found = [run({**chosen, "seed": seed}) for seed in seeds]
        cells[part].append(self.summarize(row, chosen, found))
        path = workdir / f"{self.name}_{part}"
        reporting.write_table(
          path, cells[part], self.columns(part), self.picture(part)
        )
    return cells

  def summarize(
    self,
    row: Row,
    chosen: dict[str, Any],
    results: Sequence[reporting.RunResult],
  ) -> dict[str, Any]:
    """Returns the cells of a row by the names of their columns."""
    config = results[0].config
    shown = {name: config[name] for name in row.tries[0]} if chosen else {}
    cells: dict[str, Any] = {
      "name": row.name,
      "chosen": tuning.describe(shown) or "-",
      "epochs": config["epochs"],
      "seconds": round(sum(r.seconds for r in results) / len(results)),
    }
    for name in (*self.metrics, *(f"best_{name}" for name in self.metrics)):
      found = [r.metrics[name] for r in results]
      cells[name] = tuning.mean_and_spread(found, digits=4)
    return cells

  def _runner(
    self,
    row: Row,
    data: datasets.Ratings,
    workdir: pathlib.Path,
    *,
    quick: bool,
  ) -> Callable[[dict[str, Any]], reporting.RunResult]:
    """Returns what runs a row with more options, or reads its record."""
    kind = recommending.Run if self.base.loss == "mse" else ranking.RankingRun

    def train(config: Any, folder: pathlib.Path) -> reporting.RunResult:
      result = recommending.train_and_evaluate(
        config, folder, data=data, run_type=kind
      )
      found = ", ".join(
        f"{heading} {result.metrics[name]:.4f}"
        for name, heading in self.metrics.items()
      )
      print(f"{row.name}, {folder.name}: {found}", flush=True)
      return result

    def run(more: dict[str, Any]) -> reporting.RunResult:
      settings = {**row.settings, **more}
      if quick:
        settings |= {"epochs": 2, "eval_epochs": 1}
      config = dataclasses.replace(self.base, **settings)
      # Slashes and blanks do no good in the name of a folder.
      name = "".join(c if c.isalnum() or c in ".-" else "_" for c in row.name)
      folder = workdir / name / tuning.folder_name(more)
      return tuning.run_once(config, folder, train)

    return run

  def _choose(
    self,
    row: Row,
    run: Callable[[dict[str, Any]], reporting.RunResult],
    *,
    quick: bool,
  ) -> dict[str, Any]:
    """Returns the setting that validation likes best, and its epochs."""
    tries = row.tries[:1] if quick else row.tries
    share = {"valid_share": VALID_SHARE, "seed": SEEDS[0]}
    found = [run({**tried, **share}) for tried in tries]
    best, result = tuning.choose(
      list(zip(tries, found, strict=True)), [self.error(r) for r in found]
    )
    return {**best, "epochs": int(result.metrics["best_epoch"])}


def run_app(benchmark: Benchmark) -> None:
  """Runs a benchmark as flags describe it."""
  flags.DEFINE_bool("quick", False, "One run of two epochs for each row.")
  tuning.define_names("parts", PARTS, "The tables.", default=PARTS)
  # Names have commas: a flag for each. A row may be in both tables.
  names = dict.fromkeys(
    row.name for part in PARTS for row in benchmark.rows[part]
  )
  flags.DEFINE_multi_enum("rows", [], names, "Rows by name, all by default.")
  flags.DEFINE_string("data_dir", None, "Folder with a folder `ml-1m`.")
  flags.DEFINE_string(
    "workdir", f"workdir/{benchmark.name}", "Folder for what the runs leave."
  )

  def work() -> None:
    options = flags.FLAGS
    data = datasets.load_ratings(
      benchmark.base.dataset, data_dir=options.data_dir
    )
    # Graphs of genres come from the same folder.
    base = dataclasses.replace(benchmark.base, data_dir=options.data_dir or "")
    cells = dataclasses.replace(benchmark, base=base).run(
      data,
      pathlib.Path(options.workdir),
      parts=options.parts,
      names=options.rows,
      quick=options.quick,
    )
    for part, rows in cells.items():
      print(f"\n{part}\n")
      print(reporting.format_table(rows, benchmark.columns(part)))

  tuning.run_app(work)
