r"""Draws size against quality along prices of a weight, and along budgets.

  python -m experiments.analysis.l1_path --dataset=ml-1m \
      --data_dir=/path/to/data

trains a recommender with anchors for each strength of the l1 penalty, and one
for each number of weights that pruning is to leave: two ways to a small table.
"""

import pathlib
from collections.abc import Sequence
from typing import Any

from absl import flags

from experiments import reporting, tuning
from experiments.analysis import runs
from experiments.datasets import ratings as datasets

NAME = "l1_path"
L1 = (0.0, 1e-6, 1e-5, 3e-5, 1e-4)
MAX_NONZEROS = (15_000, 30_000, 60_000)
COLUMNS = {
  "kind": "By",
  "value": "Value",
  "nonzeros": "Non-zeros",
  "embedding_bytes": "Stored bytes",
  "valid": "Valid MSE",
  "test": "Test MSE",
}
"""Headings of the columns of the table by their names."""
PICTURE = reporting.Picture(
  title="Fewer weights, by price or by budget",
  value="test",
  caption="Test MSE (lower is better)",
  lines=("kind",),
  x="embedding_bytes",
)


def draw_path(
  data: datasets.Ratings,
  workdir: str | pathlib.Path,
  *,
  l1: Sequence[float] = L1,
  max_nonzeros: Sequence[int] = MAX_NONZEROS,
  **settings: Any,
) -> list[dict[str, Any]]:
  """Trains along both paths, and draws size against quality.

  Args:
    data: The ratings.
    workdir: Folder for the runs, `l1_path.png` and `l1_path.md`; a run whose
      record is there is not repeated.
    l1: Strengths of the l1 penalty.
    max_nonzeros: Numbers of weights that are left.
    **settings: More options of all runs.

  Returns:
    The cells of each run by the names of their columns.

  Raises:
    ValueError: If there is nothing to try.
  """
  workdir, cells = pathlib.Path(workdir), []
  tries = [("l1", value) for value in l1]
  tries += [("max_nonzeros", number) for number in max_nonzeros]
  if not tries:
    raise ValueError("`l1` or `max_nonzeros` must hold a value, got none.")
  for kind, value in tries:
    options: dict[str, Any] = {**settings, kind: value}
    config = runs.make_config(data.name, **options)
    result = runs.run_once(config, data, workdir / f"{kind}_{value}")
    cells.append(make_cells(kind, value, result))
    print(f"{kind} {value}: test MSE {cells[-1]['test']}", flush=True)
  reporting.write_table(workdir / NAME, cells, COLUMNS, PICTURE)
  return cells


def make_cells(
  kind: str, value: float, result: reporting.RunResult
) -> dict[str, Any]:
  """Returns the cells of a run by the names of their columns.

  Args:
    kind: The option that is varied.
    value: Its value.
    result: What the run has found.
  """
  metrics = result.metrics
  return {
    "kind": kind,
    "value": f"{value:g}",
    "nonzeros": runs.num_nonzeros(result),
    "embedding_bytes": result.embedding_bytes,
    # As text, for the table would round errors above one to two decimals.
    "valid": f"{metrics['valid_mse']:.4f}",
    "test": f"{metrics['test_mse']:.4f}",
    "test_mse": metrics["test_mse"],
  }


def _analyse() -> None:
  options = flags.FLAGS
  settings: dict[str, Any] = {}
  if options.quick:
    settings = {**runs.QUICK, "l1": (0.0, 0.01), "max_nonzeros": (100,)}
    settings["epochs"] = 3  # One before the pruning, and one behind it.
  draw_path(runs.data_of_flags(), options.workdir, **settings)
  print(f"See {pathlib.Path(options.workdir) / NAME}.png.")


if __name__ == "__main__":
  runs.define_flags(NAME)
  tuning.run_app(_analyse)
