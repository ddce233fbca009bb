r"""Measures training steps against the number of rows of a table.

  pip install torch==2.13.0
  python -m experiments.benchmarks.train_step

takes steps on 8,192 fresh random ids with every layer of width 64, by row and
on the whole table, with 10,000 to 10,000,000 rows, as far as they fit; beside
them PyTorch's `nn.Embedding(sparse=True)` with `SparseAdam` and `Adagrad`,
where it is installed. Each case is measured in a process of its own, for its
peak memory, and as one compiled chunk of steps, without the host in between;
the fastest turn of two rounds counts, since a machine with other work to do
slows some. All of them, PyTorch too, run with huge pages where Linux has them:
rows of a large table lie on as many pages, and to find small ones takes time.

Rows are trained by row-wise Adagrad, and the full table also by Adam and
Adagrad; whole tables by Adam. Anchors as a whole have dense rows. Written are
a table, `result.json` and `train_step.png`; under `metrics` stand

* `row_sparse_speedup`: the time of dense Adam over that of Adam by row, for a
  full table of a million rows;
* `growth_1e5_to_1e7_<layer>`: how many times longer a step by row takes;
* `torch_ratio_<optimizer>`: PyTorch's time over ours, for a full table of a
  million rows; more than 1 is in our favour.

`--quick` measures Adam on the full table of a million rows only.
"""

import dataclasses
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from absl import app, flags

from experiments import reporting
from experiments.benchmarks import train_step_sides as sides
from experiments.reporting import files

NAME = "train_step"
ROOT = pathlib.Path(__file__).parents[2]
COLUMNS = {
  "layer": "Layer",
  "mode": "Steps",
  "optimizer": "Optimiser",
  "num_embeddings": "Rows",
  "milliseconds": "ms/step",
  "state": "State MB",
  "peak": "Peak MB",
}
"""Headings of the columns of the table by their names."""
PICTURE = reporting.Picture(
  title="Training steps on 8,192 ids",
  value="milliseconds",
  caption="ms for each step (logarithmic scale, lower is better)",
  lines=("layer", "optimizer"),
  x="num_embeddings",
  x_caption="Rows of the table (logarithmic scale)",
  x_unit="",
  panel="mode",
  log=True,
)
SIZES = (10**4, 10**5, 10**6, 10**7)
"""Numbers of rows."""
HEADLINE = 10**6
"""The number of rows of the ratios."""
HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
"""Has the processes hold tables in huge pages, where the system has them."""
_DENSE_WIDTHS = {"full": 64, "anchors": 256, "low_rank": 16, "kd": 512}

Row = dict[str, Any]
"""A case and what was measured of it, by the names of the columns."""


def quick_cases(size: int = HEADLINE, **options: Any) -> list[sides.Case]:
  """Returns the cases of the ratios, for a full table.

  Args:
    size: Number of rows.
    **options: Other attributes of the cases.
  """
  modes = [("row_sparse", "adam"), ("dense", "adam"), ("row_sparse", "adagrad")]
  if importlib.util.find_spec("torch") is not None:
    modes += [("torch", "adam"), ("torch", "adagrad")]
  # A step on the whole table takes so long that a few of them tell.
  lengths = {"dense": {"steps": 3}}
  return [
    sides.Case(
      layer="full",
      mode=mode,
      optimizer=optimizer,
      num_embeddings=size,
      **(lengths.get(mode, {}) | options),
    )
    for mode, optimizer in modes
  ]


def all_cases(max_bytes: float) -> list[sides.Case]:
  """Returns all cases that fit.

  Args:
    max_bytes: What a process may take.
  """
  found = quick_cases()
  for layer in sides.LAYERS:
    for size in SIZES:
      found += _cases_of(layer, size, max_bytes)
  return list(dict.fromkeys(found))


def _cases_of(layer: str, size: int, max_bytes: float) -> Iterator[sides.Case]:
  """Yields the cases of a layer and a size that fit."""
  width = _DENSE_WIDTHS.get(layer, 64)
  case = sides.Case(
    layer=layer,
    mode="row_sparse",
    optimizer="row_adagrad",
    num_embeddings=size,
  )
  stored = {"anchors": 2 * sides.NUM_NONZEROS, "fixed": 4}.get(layer, width)
  # The start of a table takes about as much again.
  if 2 * 4 * size * stored <= max_bytes:
    yield case
  # The table, its gradient, two moments, and the new table.
  if layer != "fixed" and 5 * 4 * size * width <= max_bytes:
    yield dataclasses.replace(case, mode="dense", optimizer="adam", steps=3)


def measure(case: sides.Case) -> Row:
  """Measures a case in a process of its own.

  Args:
    case: The case.

  Returns:
    The cells of its row.

  Raises:
    RuntimeError: If the process fails.
  """
  module = "experiments.benchmarks.train_step_sides"
  fields = dataclasses.asdict(case)
  run = subprocess.run(
    [sys.executable, "-m", module, json.dumps(fields)],
    cwd=ROOT,
    env=HUGE_PAGES | os.environ,
    capture_output=True,
    text=True,
    check=False,
  )
  if run.returncode:
    reason = (run.stderr.strip().splitlines() or ["it was killed"])[-1]
    raise RuntimeError(f"the process of {case} has failed: {reason}.")
  found = json.loads(run.stdout.splitlines()[-1])
  found["state"] = found["state_bytes"] / 1e6
  found["peak"] = found["peak_bytes"] / 1e6
  return fields | found


def compute_metrics(
  rows: Sequence[Mapping[str, Any]], *, size: int = HEADLINE
) -> dict[str, float]:
  """Returns the ratios whose parts have been measured.

  Args:
    rows: What :func:`measure` has returned.
    size: Number of rows of the ratios.

  Returns:
    The ratios by name, see the head of this file.
  """
  keys = ("layer", "mode", "optimizer", "num_embeddings")
  times = {tuple(row[k] for k in keys): row["milliseconds"] for row in rows}
  pairs = {
    "row_sparse_speedup": (
      ("full", "dense", "adam", size),
      ("full", "row_sparse", "adam", size),
    )
  }
  for name in ("adam", "adagrad"):
    cases = [("full", mode, name, size) for mode in ("torch", "row_sparse")]
    pairs[f"torch_ratio_{name}"] = (cases[0], cases[1])
  for layer in sides.LAYERS:
    by_row = (layer, "row_sparse", "row_adagrad")
    pair = ((*by_row, 10**7), (*by_row, 10**5))
    pairs[f"growth_1e5_to_1e7_{layer}"] = pair
  return {
    name: times[above] / times[below]
    for name, (above, below) in pairs.items()
    if above in times and below in times
  }


def run_benchmark(
  cases: Sequence[sides.Case],
  workdir: str | pathlib.Path,
  *,
  size: int = HEADLINE,
  repeats: int = 1,
) -> dict[str, float]:
  """Measures, prints a table, and writes the numbers and a picture.

  Args:
    cases: What is measured.
    workdir: Folder for the files.
    size: Number of rows of the ratios.
    repeats: How often each case is measured; the fastest time counts.

  Returns:
    The ratios by name.
  """
  workdir = pathlib.Path(workdir)
  workdir.mkdir(parents=True, exist_ok=True)
  # One round after the other: what slows the machine for a while slows no case
  # in all of them.
  bar = reporting.progress([*cases] * repeats, description=NAME, unit="case")
  found = [measure(case) for case in bar]
  rows = [
    min(found[i :: len(cases)], key=lambda row: row["milliseconds"])
    for i in range(len(cases))
  ]
  metrics = compute_metrics(rows, size=size)
  has_torch = any(case.mode == "torch" for case in cases)
  content = {
    "experiment": NAME,
    "metrics": metrics,
    "rows": rows,
    "missing": [] if has_torch else ["PyTorch"],
    "versions": reporting.library_versions(),
  }
  text = json.dumps(content, indent=2) + "\n"
  files.write_atomically(workdir / "result.json", text)
  reporting.plot_table(rows, workdir / f"{NAME}.png", PICTURE)
  print(reporting.format_table(rows, COLUMNS))
  for name, ratio in metrics.items():
    print(f"{name}: {ratio:.2f}")
  if not has_torch:
    print("Not installed, and so left out: PyTorch.")
  return metrics


def main(argv: list[str]) -> None:
  """Runs the benchmark that the flags describe."""
  if len(argv) > 1:
    raise app.UsageError(f"Unexpected arguments: {argv[1:]}.")
  options = flags.FLAGS
  if options.quick:
    cases = [case for case in quick_cases() if case.optimizer == "adam"]
  else:
    cases = all_cases(1e9 * options.max_gigabytes)
  repeats = 1 if options.quick else options.repeats
  run_benchmark(cases, options.workdir, repeats=repeats)


if __name__ == "__main__":
  flags.DEFINE_bool("quick", False, "Whether to measure the headline only.")
  flags.DEFINE_float("max_gigabytes", 16, "What a process may take.")
  flags.DEFINE_integer(
    "repeats", 2, "How often each case is measured.", lower_bound=1
  )
  flags.DEFINE_string("workdir", f"workdir/{NAME}", "Folder for the numbers.")
  app.run(main)
