r"""Compares the serving of compact tables with that of full ones.

  pip install torch==2.13.0 fbgemm-gpu-cpu==1.8.0 faiss-cpu
  python -m experiments.benchmarks.serve

looks up fresh random ids, so that no cache has their rows, in tables of one
million rows and 128 features: full ones (NumPy's fancy indexing, `jnp.take`,
PyTorch's `embedding`, int4 rows of FBGEMM), ours as codes, anchors and int4
rows in NumPy and in JAX, and the same codes in faiss. It also pools bags
(PyTorch's `embedding_bag`), and finds the best rows for queries (all scores and
a partition in NumPy, faiss). What is not installed is named and left out.

All of a task take turns: each turn gives one ratio to the first of the task, of
which the median counts, since a machine with other work to do slows all of
them. More than 1 is faster than the full table. Beside the speed stand the
bytes of the table, the memory that it takes after it has been opened and looked
up once, and the time until then, in a process of its own.
`--quick` is a small run.
"""

import dataclasses
import functools
import json
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np
from absl import app, flags

from anchor_codes import tables
from experiments import reporting
from experiments.benchmarks import serve_sides
from experiments.reporting import files

NAME = "serve"
COLUMNS = {
  "task": "Task",
  "name": "Table",
  "megabytes": "MB",
  "rate": "Per second",
  "milliseconds": "ms",
  "ratio": "Speed",
  "recall": "Recall",
}
"""Headings of the columns of the speed by their names."""
PICTURE = reporting.Picture(
  title="Serving compact tables",
  value="ratio",
  caption="Speed, 1: as the first table of the task (higher is better)",
  label=("name",),
  panel="task",
  from_zero=True,
)
START_COLUMNS = {
  "name": "Table",
  "file": "File MB",
  "memory": "Memory MB",
  "start": "Start ms",
}
"""Headings of the columns of the start by their names."""
START_PICTURE = reporting.Picture(
  title="Memory after opening a table and looking up some rows",
  value="memory",
  caption="Memory, MB (lower is better)",
  label=("name",),
  from_zero=True,
)

# Opens a file, looks up a few rows, and says what that has taken.
_START = """
import resource, sys, time
import numpy as np
from anchor_codes import tables
def memory():
  with open("/proc/self/statm") as file:
    return int(file.read().split()[1]) * resource.getpagesize()
before, start = memory(), time.perf_counter()
if sys.argv[1].endswith(".npy"):
  table = np.load(sys.argv[1])
  table[:64].sum()
else:
  table = tables.load(sys.argv[1], verify=sys.argv[2] == "verify")
  table.lookup(np.arange(64)).sum()
print(time.perf_counter() - start, memory() - before)
"""


QUICK = serve_sides.Sizes(
  num_embeddings=5000, features=32, num_ids=256, num_queries=4, turns=2
)
"""A run of seconds."""


def measure(
  sides: list[serve_sides.Side], batches: list[np.ndarray]
) -> dict[str, list[float]]:
  """Lets all sides take turns.

  Args:
    sides: Who takes part.
    batches: Ids or queries of the turns, the first of which does not count.

  Returns:
    Seconds of each turn by name.
  """
  seconds: dict[str, list[float]] = {side.name: [] for side in sides}
  bar = reporting.progress(batches, description=NAME, unit="turn")
  for number, batch in enumerate(bar):
    # Who goes first alternates: a turn may warm or slow the machine.
    for side in sides if number % 2 else reversed(sides):
      start = time.perf_counter()
      side.serve(batch)
      seconds[side.name].append(time.perf_counter() - start)
  return {name: found[1:] for name, found in seconds.items()}


def summarize(
  task: str,
  sides: list[serve_sides.Side],
  seconds: dict[str, list[float]],
  number: int,
) -> list[dict[str, Any]]:
  """Returns the cells of a task.

  Args:
    task: Its name.
    sides: Who took part.
    seconds: What :func:`measure` has found.
    number: Ids or queries of a turn.

  Returns:
    For each side the medians of the rate, and of the ratio of its paired turns
    to those of the first.
  """
  first = np.array(seconds[sides[0].name])
  return [
    {
      "task": task,
      "name": side.name,
      "megabytes": side.nbytes / 1e6,
      "rate": round(number / np.median(seconds[side.name])),
      "milliseconds": 1e3 * float(np.median(seconds[side.name])),
      "ratio": float(np.median(first / seconds[side.name])),
    }
    for side in sides
  ]


def recalls(
  sides: list[serve_sides.Side],
  compact: dict[str, tables.Table],
  queries: np.ndarray,
  k: int,
) -> dict[str, float]:
  """Returns the share of the exact best rows of a compact table that it finds.

  Args:
    sides: Who searches.
    compact: The compact tables, whose names those of the sides begin with.
    queries: Queries.
    k: How many rows to find.
  """
  found = {}
  for side in sides:
    for name, table in compact.items():
      if side.name.startswith(name):
        exact = np.argsort(-table.attend(queries), axis=1, kind="stable")[:, :k]
        pairs = zip(side.serve(queries), exact, strict=True)
        found[side.name] = float(np.mean([len({*a} & {*b}) for a, b in pairs]))
  return {name: number / k for name, number in found.items()}


def measure_starts(
  dense: np.ndarray, compact: dict[str, tables.Table]
) -> list[dict[str, Any]]:
  """Returns the time until the first rows, and the memory, of each table.

  Args:
    dense: The full table, kept as `.npy`.
    compact: The compact ones.
  """
  with tempfile.TemporaryDirectory() as folder:
    full = pathlib.Path(folder, "full.npy")
    np.save(full, dense)
    runs = [("full, NumPy", full, "verify")]
    for name, table in compact.items():
      path = pathlib.Path(folder, f"{len(runs)}.safetensors")
      table.save(path)
      runs.append((f"{name}, verified", path, "verify"))
      runs.append((f"{name}, mapped", path, "map"))
    return [_start(*run) for run in runs]


def _start(name: str, path: pathlib.Path, how: str) -> dict[str, Any]:
  run = subprocess.run(
    [sys.executable, "-c", _START, str(path), how],
    capture_output=True,
    text=True,
    check=True,
  )
  seconds, memory = map(float, run.stdout.split())
  return {
    "name": name,
    "file": path.stat().st_size / 1e6,
    "memory": memory / 1e6,
    "start": 1e3 * seconds,
  }


def run_benchmark(
  sizes: serve_sides.Sizes, workdir: str | pathlib.Path
) -> dict[str, list[dict[str, Any]]]:
  """Measures, prints tables, and writes `serve.json` and pictures.

  Args:
    sizes: What is measured.
    workdir: Folder for the files.

  Returns:
    The cells of the tables, `speed` and `start`.
  """
  missing = [
    name
    for module, name in serve_sides.PEERS.items()
    if not serve_sides.is_installed(module)
  ]
  compact, rng = serve_sides.make_tables(sizes), np.random.default_rng(1)
  shape = sizes.num_embeddings, sizes.features
  dense = rng.standard_normal(shape, np.float32)
  draw = lambda: rng.integers(0, shape[0], sizes.num_ids)
  ids = [draw() for _ in range(sizes.turns + 1)]
  query_shape = sizes.num_queries, sizes.features
  queries = [
    rng.standard_normal(query_shape, np.float32)
    for _ in range(max(2, sizes.turns // 3 + 1))
  ]
  cells: list[dict[str, Any]] = []
  for task, make, batches in (
    ("lookup", serve_sides.lookup_sides, ids),
    ("lookup in JAX", serve_sides.jax_sides, ids),
    ("bags of 32", serve_sides.bag_sides, ids),
    ("top_k", functools.partial(serve_sides.search_sides, k=sizes.k), queries),
  ):
    sides = list(make(dense, compact))
    found = measure(sides, batches)
    cells += summarize(task, sides, found, len(batches[0]))
  shares = recalls(sides, compact, queries[0], sizes.k)
  for cell in cells[-len(sides) :]:
    cell["recall"] = shares.get(cell["name"])
  record = {"speed": cells, "start": measure_starts(dense, compact)}
  content = {"sizes": dataclasses.asdict(sizes), "missing": missing, **record}
  workdir = pathlib.Path(workdir)
  text = json.dumps(content, indent=2) + "\n"
  files.write_atomically(workdir / f"{NAME}.json", text)
  reporting.plot_table(cells, workdir / f"{NAME}.png", PICTURE)
  starts = record["start"]
  reporting.plot_table(starts, workdir / f"{NAME}_start.png", START_PICTURE)
  print(reporting.format_table(cells, COLUMNS))
  print("\n" + reporting.format_table(starts, START_COLUMNS))
  if missing:
    print(f"\nNot installed, and so left out: {', '.join(missing)}.")
  return record


def main(argv: list[str]) -> None:
  """Runs the benchmark that the flags describe."""
  if len(argv) > 1:
    raise app.UsageError(f"Unexpected arguments: {argv[1:]}.")
  options = flags.FLAGS
  sizes = QUICK if options.quick else serve_sides.Sizes()
  run_benchmark(sizes, options.workdir)


if __name__ == "__main__":
  flags.DEFINE_bool("quick", False, "Whether to make a small run.")
  flags.DEFINE_string("workdir", f"workdir/{NAME}", "Folder for the numbers.")
  app.run(main)
