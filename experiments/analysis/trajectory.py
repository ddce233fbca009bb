r"""Draws how a run has come to its number of anchors.

  python -m experiments.analysis.trajectory --run=/tmp/learned --run=/tmp/online

reads the metrics of runs that learn the number of anchors, and draws the
numbers, the objective and the validation error against the step; where ratings
come in time, a dotted line marks where the next batch came. `--quick` trains a
small run of either kind first.
"""

import itertools
import pathlib
from typing import Any

from absl import flags

from experiments import reporting, tuning
from experiments.analysis import runs
from experiments.datasets import ratings as datasets
from experiments.reporting import anchor_plots, files

NAME = "trajectory"
PANELS = {
  "Anchors": {
    "num_anchors_users": "of users",
    "num_anchors_items": "of items",
  },
  "Objective": {"objective": "objective"},
  "Validation MSE": {"valid_mse": "validation"},
}
"""For each panel the names of its metrics, and how the legend calls them."""

COLUMNS = {
  "epoch": "Epoch",
  "step": "Step",
  "batch": "Time",
  "users": "Users",
  "items": "Items",
  "nonzeros": "Non-zeros",
  "objective": "Objective",
  "valid": "Valid MSE",
}
"""Headings of the columns of the table by their names."""


def draw_trajectory(
  run: str | pathlib.Path, workdir: str | pathlib.Path | None = None
) -> anchor_plots.Course:
  """Draws the course of a run, and writes it as a table.

  Args:
    run: Folder of a run with a rule, with `metrics.csv`.
    workdir: Folder for `trajectory.png` and `trajectory.md`, that of the run by
      default.

  Returns:
    The metrics of each epoch.

  Raises:
    FileNotFoundError: If there are no metrics.
    ValueError: If the run has not learned a number of anchors.
  """
  workdir = pathlib.Path(workdir or run)
  course = runs.read_course(run)
  if not course or "objective" not in course[0]:
    raise ValueError(f"{run} must hold a run with a `rule`, got another one.")
  anchor_plots.plot_courses(
    course,
    workdir / f"{NAME}.png",
    panels=PANELS,
    breaks=batch_starts(course),
    title="How many anchors, and how well they serve",
  )
  cells = [make_cells(number, row) for number, row in enumerate(course, 1)]
  known = {k: v for k, v in COLUMNS.items() if cells[-1][k] is not None}
  table = reporting.format_table(cells, known, markdown=True)
  files.write_atomically(workdir / f"{NAME}.md", f"{table}\n")
  return course


def batch_starts(course: anchor_plots.Course) -> list[float]:
  """Returns the steps after which another batch of ratings came.

  >>> batch_starts([
  ...   {"step": 10.0, "time_batch": 0.0}, {"step": 20.0, "time_batch": 1.0}
  ... ])
  [10.0]
  """
  return [
    before["step"]
    for before, after in itertools.pairwise(course)
    if before.get("time_batch", 0) != after.get("time_batch", 0)
  ]


def make_cells(epoch: int, row: dict[str, float]) -> dict[str, Any]:
  """Returns the cells of an epoch by the names of their columns.

  Args:
    epoch: Its number, from 1 on.
    row: Its metrics.
  """
  time = row.get("time_batch")
  return {
    "epoch": epoch,
    "step": int(row["step"]),
    "batch": None if time is None else int(time) + 1,
    "users": int(row["num_anchors_users"]),
    "items": int(row["num_anchors_items"]),
    "nonzeros": int(row["num_nonzeros"]),
    "objective": f"{row['objective']:.4f}",
    "valid": f"{row['valid_mse']:.4f}",
  }


def train_quickly(data: datasets.Ratings, workdir: pathlib.Path) -> list[str]:
  """Trains a small run offline, and one online; returns their folders."""
  folders = []
  for name, batches in {"offline": 0, "online": 2}.items():
    config = runs.make_config(
      data.name,
      quick=True,
      rule="marginal",
      num_anchors=2,
      online_batches=batches,
    )
    runs.run_once(config, data, workdir / name)
    folders.append(str(workdir / name))
  return folders


def _analyse() -> None:
  options = flags.FLAGS
  folders = options.run
  if options.quick:
    workdir = pathlib.Path(options.workdir)
    folders = train_quickly(runs.data_of_flags(), workdir)
  if not folders:
    raise ValueError("`--run` must name the folder of a run, or use `--quick`.")
  for folder in folders:
    draw_trajectory(folder)
    print(f"See {pathlib.Path(folder) / NAME}.png.")


if __name__ == "__main__":
  runs.define_flags(NAME)
  flags.DEFINE_multi_string("run", [], "Folder of a run; may come repeatedly.")
  tuning.run_app(_analyse)
