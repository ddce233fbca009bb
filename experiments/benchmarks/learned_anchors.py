r"""Checks that a learned number of anchors is a good one, and what it costs.

  python -m experiments.benchmarks.learned_anchors --dataset=ml-1m \
      --data_dir=/path/to/data

lets recommenders learn how many anchors they need (NBANT; Liang et al., "Anchor
& Transform", ICLR 2021), and asks five questions. Do runs that start with few
and with many anchors end with the same number? Does a higher price of an anchor
ever give more? Is the objective as good as the best of a grid of fixed numbers,
of which each has as many epochs as the longest of the runs that learn theirs?
What does it cost? What does the rule of the paper, which follows the trend of
the objective, learn? `--dataset=synthetic` needs no download. A run whose
record is in the folder is not repeated.
"""

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from absl import flags

from experiments import reporting, tuning
from experiments.analysis import runs
from experiments.benchmarks import learned_verdicts
from experiments.datasets import ratings as datasets
from experiments.reporting import files

NAME = "learned_anchors"
COLUMNS = {
  "part": "Part",
  "seed": "Seed",
  "start": "Start",
  "price": "Price",
  "users": "Users",
  "items": "Items",
  "objective": "Objective",
  "test": "Test MSE",
  "nonzeros": "Non-zeros",
  "epochs": "Epochs",
  "seconds": "s/run",
}
"""Headings of the columns of the table by their names."""
PICTURE = reporting.Picture(
  title="Learned numbers of anchors, and fixed ones",
  value="objective",
  caption="Objective (lower is better)",
  label=("run",),
  panel="part",
)

Cells = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
  """Which runs there are.

  Attributes:
    seeds: Number of seeds of the runs from several starts and of the grid.
    starts: Anchors of each table at the start.
    price: The price of an anchor, for the starts and the grid.
    l1: The price of a weight.
    prices: Other prices, with seed 0.
    prices_start: Anchors at their start.
    grid: The fixed numbers.
    trend_starts: Anchors at the start with the rule 'trend', with seed 0.
    trend_prices: The prices of an anchor with that rule.
    settings: More options of all runs.
  """

  seeds: int = 3
  starts: Sequence[int] = (2, 10, 20, 40)
  price: float = 0.003
  l1: float = 1e-7
  prices: Sequence[float] = (0.0001, 0.001, 0.01, 0.1)
  prices_start: int = 20
  grid: Sequence[int] = (3, 4, 5, 6, 8, 10, 16)
  trend_starts: Sequence[int] = (10, 20)
  trend_prices: Sequence[float] = (0.0001, 0.1)
  settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)


QUICK_PLAN = Plan(
  seeds=1,
  starts=(2, 4),
  prices=(0.1,),
  prices_start=4,
  grid=(3,),
  trend_starts=(2,),
  trend_prices=(0.1,),
  settings=runs.QUICK,
)
"""A few runs of a few steps, to see that all works."""


class Benchmark:
  """The runs of a plan.

  Args:
    data: The ratings.
    workdir: Folder with one folder for each run.
    plan: Which runs there are.
  """

  def __init__(self, data: datasets.Ratings, workdir: pathlib.Path, plan: Plan):
    self.data, self.workdir, self.plan = data, workdir, plan

  def cells(self) -> Iterator[Cells]:
    """Trains one run after the other; yields the cells of each."""
    plan = self.plan
    longest: dict[int, int] = {}
    for seed in range(plan.seeds):
      for start in plan.starts:
        found = self.run("starts", start, plan.price, seed=seed)
        longest[seed] = max(longest.get(seed, 0), found["epochs"])
        yield found
    for price in plan.prices:
      yield self.run("prices", plan.prices_start, price)
    for seed, epochs in longest.items():
      for number in plan.grid:
        yield self.run(
          "fixed", number, plan.price, seed=seed, rule="", epochs=epochs
        )
    for start in plan.trend_starts:
      for price in plan.trend_prices:
        # 40 would end a number that rises all the time.
        options = {"rule": "trend", "max_anchors": 100}
        yield self.run("trend", start, price, **options)

  def run(
    self, part: str, start: int, price: float, *, seed: int = 0, **options: Any
  ) -> Cells:
    """Trains a run, or reads its record; returns its cells."""
    config = runs.make_config(
      self.data.name,
      **{
        "rule": "marginal",
        **self.plan.settings,
        "num_anchors": start,
        "anchor_penalty": price,
        "l1": self.plan.l1,
        "seed": seed,
        **options,
      },
    )
    name = f"{config.rule or 'fixed'}_{start}_price_{price:g}_seed_{seed}"
    result = runs.run_once(config, self.data, self.workdir / name)
    course = runs.read_course(self.workdir / name)
    fixed = {"num_anchors_users": start, "num_anchors_items": start}
    metrics = {**fixed, **result.metrics}
    return {
      "part": part,
      "seed": seed,
      "start": start,
      "price": f"{price:g}",
      "users": int(metrics["num_anchors_users"]),
      "items": int(metrics["num_anchors_items"]),
      "objective": runs.objective(result, anchor_penalty=price),
      "test": metrics["test_mse"],
      "nonzeros": runs.num_nonzeros(result),
      "epochs": len(course),
      "seconds": result.seconds,
    }


def run_benchmark(
  data: datasets.Ratings,
  workdir: str | pathlib.Path,
  *,
  plan: Plan | None = None,
) -> list[Cells]:
  """Trains all runs; writes the table and the verdicts as they come.

  Args:
    data: The ratings.
    workdir: Folder for what the runs leave, and for `learned_anchors.md`.
    plan: Which runs there are.

  Returns:
    The cells of each run by the names of their columns.
  """
  workdir, found = pathlib.Path(workdir), []
  for cells in Benchmark(data, workdir, plan or Plan()).cells():
    found.append(cells)
    print(", ".join(f"{n} {_text(v)}" for n, v in cells.items()), flush=True)
    files.write_atomically(workdir / f"{NAME}.md", report(found))
    reporting.plot_table(_named(found), workdir / f"{NAME}.png", PICTURE)
  return found


def _named(cells: Sequence[Cells]) -> list[Cells]:
  """Adds the name of each run, as the picture shows it."""
  text = "{start} anchors at the start, price {price}, seed {seed}"
  return [{**row, "run": text.format(**row)} for row in cells]


def report(cells: Sequence[Cells], *, markdown: bool = True) -> str:
  """Returns the table, and below it the verdicts.

  Args:
    cells: Cells of runs by the names of their columns.
    markdown: Whether the table is one in Markdown.
  """
  # As text, for the table would round errors above one to two decimals.
  rows = [
    {**row, **{n: f"{row[n]:.4f}" for n in ("objective", "test")}}
    for row in cells
  ]
  table = reporting.format_table(rows, COLUMNS, markdown=markdown)
  lines = [f"- {line}" for line in learned_verdicts.verdicts(cells)]
  return "\n".join([table, "", *lines, ""])


def _text(value: Any) -> str:
  return f"{value:.4f}" if isinstance(value, float) else str(value)


def _analyse() -> None:
  options = flags.FLAGS
  plan = dataclasses.replace(Plan(), seeds=options.seeds)
  if options.quick:
    plan = QUICK_PLAN
  cells = run_benchmark(runs.data_of_flags(), options.workdir, plan=plan)
  print(f"\n{report(cells, markdown=False)}")


if __name__ == "__main__":
  runs.define_flags(NAME)
  flags.DEFINE_integer("seeds", 3, "Number of seeds.", lower_bound=1)
  tuning.run_app(_analyse)
