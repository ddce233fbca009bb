r"""Draws the objective over numbers of anchors, and the way of a run there.

  python -m experiments.analysis.surface --dataset=ml-1m \
      --data_dir=/path/to/data

trains a recommender for each pair of a number of users' anchors and one of
items', and one that learns the numbers; all have the same number of epochs.
"""

import pathlib
from collections.abc import Sequence
from typing import Any

from absl import flags

from experiments import reporting, tuning
from experiments.analysis import runs
from experiments.datasets import ratings as datasets
from experiments.reporting import anchor_plots, files

NAME = "surface"
SIZES = (2, 4, 8, 16)


def draw_surface(
  data: datasets.Ratings,
  workdir: str | pathlib.Path,
  *,
  user_sizes: Sequence[int] = SIZES,
  item_sizes: Sequence[int] = SIZES,
  start: int = 10,
  anchor_penalty: float = 0.003,
  l1: float = 1e-7,
  **settings: Any,
) -> dict[tuple[int, int], float]:
  """Measures the objective on a grid, and draws it with the path of a run.

  Args:
    data: The ratings.
    workdir: Folder for the runs, `surface.png` and `surface.md`; a run whose
      record is there is not repeated.
    user_sizes: Numbers of anchors of the users.
    item_sizes: Numbers of anchors of the items.
    start: Anchors of each table that the run which learns them starts with.
    anchor_penalty: Price of an anchor.
    l1: Price of a weight.
    **settings: More options of all runs.

  Returns:
    The objective by the numbers of anchors of users and of items.
  """
  workdir = pathlib.Path(workdir)
  prices = {"anchor_penalty": anchor_penalty, "l1": l1}

  def run(name: str, **options: Any) -> reporting.RunResult:
    config = runs.make_config(data.name, **{**settings, **prices, **options})
    return runs.run_once(config, data, workdir / name)

  learned = run("learned", rule="marginal", num_anchors=start)
  course = runs.read_course(workdir / "learned")
  found = {}
  for users in user_sizes:
    for items in item_sizes:
      result = run(
        f"users_{users}_items_{items}",
        num_anchors=users,
        item_anchors=items,
        epochs=len(course),
      )
      value = runs.objective(result, anchor_penalty=anchor_penalty)
      found[users, items] = value
      print(f"{users} + {items} anchors: objective {value:.4f}", flush=True)
  anchor_plots.plot_surface(
    found, workdir / f"{NAME}.png", course=path_of(course)
  )
  files.write_atomically(workdir / f"{NAME}.md", report(found, learned))
  return found


def path_of(course: anchor_plots.Course) -> list[tuple[int, int, float]]:
  """Returns users' anchors, items' anchors and the objective of each epoch.

  >>> path_of([
  ...   {"num_anchors_users": 4.0, "num_anchors_items": 2.0, "objective": 0.8}
  ... ])
  [(4, 2, 0.8)]
  """
  return [
    (
      int(row["num_anchors_users"]),
      int(row["num_anchors_items"]),
      row["objective"],
    )
    for row in course
  ]


def report(
  found: dict[tuple[int, int], float], learned: reporting.RunResult
) -> str:
  """Returns the grid as a table in Markdown, and where the run has ended.

  Args:
    found: The objective by the numbers of anchors.
    learned: The run that learns the numbers.
  """
  users, items = (sorted(set(axis)) for axis in zip(*found, strict=True))
  rows = [
    {"users": f"{u} of users", **{str(i): f"{found[u, i]:.4f}" for i in items}}
    for u in users
  ]
  columns = {"users": "Anchors"}
  columns |= {str(number): f"{number} of items" for number in items}
  best = min(found, key=lambda sizes: found[sizes])
  metrics = learned.metrics
  return (
    f"{reporting.format_table(rows, columns, markdown=True)}\n\n"
    f"The best of the grid: {best[0]} + {best[1]}, objective "
    f"{found[best]:.4f}. Learned: {metrics['num_anchors_users']:.0f} + "
    f"{metrics['num_anchors_items']:.0f}, objective "
    f"{metrics['objective']:.4f}.\n"
  )


def _analyse() -> None:
  options = flags.FLAGS
  sizes: tuple[int, ...] = (2, 3) if options.quick else SIZES
  draw_surface(
    runs.data_of_flags(),
    options.workdir,
    user_sizes=sizes,
    item_sizes=sizes,
    start=2 if options.quick else 10,
    **(runs.QUICK if options.quick else {}),
  )
  print(f"See {pathlib.Path(options.workdir) / NAME}.png.")


if __name__ == "__main__":
  runs.define_flags(NAME)
  tuning.run_app(_analyse)
