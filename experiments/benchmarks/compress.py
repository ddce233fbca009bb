r"""Compares `compress` with other ways to make given vectors small.

  pip install faiss-cpu compress-fasttext scikit-learn
  python -m experiments.benchmarks.compress --data_dir=/path/to/data

takes vectors of words (GloVe and PPMI) and the item factors of a recommender,
which it trains first, and makes them 8, 15, 30 and 50 times smaller: by
`compress`, which chooses a recipe, and by the product, rotated, residual and
local-search codes of faiss, rounded rows, principal components and
compress-fasttext, each in the largest sizes that fit. What is not installed is
named and left out. A row has the squared error as a share of the variance, the
mean cosine, how many of ten neighbours stay, and what the vectors are for: the
agreement with people's judgement of words, analogies, and the recall of a
recommender's lists with its full user factors.

`compress.md` has the tables of all families and of the best of each,
`compress.png` their errors, `compress.json` all that was tried. Each run leaves
a record, so that a benchmark that was stopped goes on; a new version of the
code needs a new `--workdir`. `--quick` is a run of seconds on made-up vectors,
`--scale` compresses a million rows from a file.
"""

import functools
import json
import os
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import flags

from anchor_codes import compression, tables
from experiments import reporting, tuning
from experiments.benchmarks import (
  compress_givens,
  compress_scale,
  compress_tables,
  peers,
)
from experiments.benchmarks.compress_givens import Given, Row
from experiments.reporting import files

NAME = "compress"
RATIOS = (8.0, 15.0, 30.0, 50.0)
COLUMNS = {
  "target": "At",
  "method": "Method",
  "nbytes": "Bytes",
  "ratio": "Ratio",
  "error": "Error",
  "cosine": "Cosine",
  "neighbors": "Neighbours",
}
"""Headings of the columns that all tables have by their names."""
PICTURE = reporting.Picture(
  title="Given vectors, made smaller in several ways",
  value="error",
  caption="Share of the variance that is lost (lower is better)",
  lines=("family",),
  x="nbytes",
  panel="given",
  log=True,
)
LAST_COLUMNS = {"seconds": "s", "cpu_seconds": "CPU s", "note": "Note"}

NOTES = """\
All bytes count: codes, codebooks, rotations, means and scales. Codebooks,
rotations and means of the others count as float16 but are used in float32,
which favours them; ours are stored as they count. The others run in one thread,
`compress` in all. faiss has three to four times the rounds of its defaults; a
note tells where they were lowered, for 450 seconds of a core would not have
been enough by estimate. Additive codes have 128 digits at most. `full` and
`int4 rows` at the top have the sizes that they have.
Rows that begin with `tried` are from the report of `compress`, of rough fits,
of which the best are fitted again with care: of more than 16,384 rows they
were measured on some that were not fitted.
"""

QUICK: dict[str, Any] = {"ratios": (8.0,), "families": ("PQ", "PCA + int8")}
"""What is run to see that all works."""


def run_once(
  path: pathlib.Path, config: Mapping[str, Any], work: Callable[[], list[Row]]
) -> list[Row]:
  """Reads rows that were recorded with these options, or works and records.

  Args:
    path: The file of the record.
    config: What the rows depend on.
    work: Makes the rows.

  Returns:
    The rows.
  """
  if path.exists():
    record = json.loads(path.read_text(encoding="utf-8"))
    if record["config"] == config:
      return record["rows"]
  rows = work()
  record = {"config": config, "rows": rows}
  files.write_atomically(path, json.dumps(record, indent=2) + "\n")
  return rows


def run_ours(given: Given, budget: int, metric: str) -> list[Row]:
  """Compresses; returns the row of the table and those of the report."""
  clock = _Clock()
  table, report = _compress(given, budget, metric)
  chosen = given.row(
    "ours",
    f"auto by {metric}: {report.chosen.recipe}",
    table.nbytes,
    metric=metric,
    **clock.read(),
    **given.measure(table.to_dense()),
  )
  if metric != "error":  # The same was tried.
    return [chosen]
  tried = [
    given.row(
      "tried",
      f"tried {trial.recipe}",
      trial.nbytes,
      **trial.quality,
      seconds=trial.seconds,
    )
    for trial in report.trials
  ]
  return [chosen, *tried]


def run_peer(given: Given, peer: peers.Peer, kind: str = "peer") -> list[Row]:
  """Fits another way; returns its row."""
  clock = _Clock()
  fitted = peer.fit(given.matrix)
  cells = clock.read() | given.measure(fitted.vectors)
  nbytes = peer.nbytes(*given.matrix.shape)
  options = {"family": peer.family, "note": fitted.note or None}
  return [given.row(kind, str(peer), nbytes, **cells, **options)]


def run_ratio(
  given: Given, ratio: float, folder: pathlib.Path, families: Sequence[str]
) -> list[Row]:
  """Runs all at a ratio; returns all rows, which have records in a folder.

  Args:
    given: The vectors.
    ratio: How many times smaller they are to be.
    folder: Folder of the records.
    families: Other ways, of `peers.FAMILIES`.
  """
  budget = int(given.dense_bytes / ratio)
  sizes = dict(
    zip(("num_embeddings", "features"), given.matrix.shape, strict=True)
  )
  config = {"matrix": given.digest, "budget": budget}
  runs: dict[str, Callable[[], list[Row]]] = {
    f"auto by {metric}": functools.partial(run_ours, given, budget, metric)
    for metric in ("error", "neighbors")
  }
  for family in filter(peers.is_installed, families):
    for peer in peers.propose(family, budget=budget, **sizes):
      runs[str(peer)] = functools.partial(run_peer, given, peer)
  rows: list[Row] = []
  for name, work in runs.items():
    path = folder / f"{_file_name(name)}.json"
    found = run_once(path, config | {"method": name}, work)
    rows += [{"target": ratio, **row} for row in found]
    print(_describe(given, rows[-len(found)]), flush=True)
  return rows


def verdicts(given: Given, rows: Sequence[Row]) -> list[str]:
  """Compares ours with the best of the others at a ratio.

  Args:
    given: The vectors.
    rows: All rows at the ratio.

  Returns:
    A line for the error, one for the neighbours, and one for each task. By the
    error and the neighbours `compress` has chosen itself, and so have the
    others; for a task it goes by the neighbours, and a family by its error: no
    test chooses sizes.
  """
  ours = {row["metric"]: row for row in rows if row["kind"] == "ours"}
  peers_of = {
    "neighbors": [row for row in rows if row["kind"] == "peer"],
  }
  best_by_error = [
    row for row in compress_tables.shown(rows) if row["kind"] == "peer"
  ]
  names = {"error": min, "neighbors": max, **dict.fromkeys(given.tasks, max)}
  return [
    _verdict(
      given,
      name,
      ours["error" if name == "error" else "neighbors"],
      peers_of.get(name, best_by_error),
      find,
    )
    for name, find in names.items()
  ]


def _verdict(
  given: Given,
  name: str,
  ours: Row,
  others: Sequence[Row],
  find: Callable[..., Row],
) -> str:
  line = (
    f"{given.name}, {ours['target']:g}x, {name}: {ours['method']} "
    f"{ours[name]:.4f}, "
  )
  if not others:
    return f"{line}no peer fits"
  best = find(others, key=lambda row: row[name])
  line += f"best peer {best[name]:.4f} ({best['method']})"
  if best[name]:
    line += f", difference {100 * (ours[name] / best[name] - 1):+.1f} %"
  return line


def run_benchmark(
  givens: Sequence[Given],
  workdir: str | os.PathLike[str],
  *,
  ratios: Sequence[float] = RATIOS,
  families: Sequence[str] = tuple(peers.FAMILIES),
) -> dict[str, dict[str, Any]]:
  """Runs all that has no record yet; writes the tables and their picture.

  Args:
    givens: What is made small.
    workdir: Folder for records and tables.
    ratios: How many times smaller.
    families: Other ways, of `peers.FAMILIES`.

  Returns:
    The `rows` and `verdicts` of each of them by its name.
  """
  workdir = pathlib.Path(workdir)
  missing = [name for name in families if not peers.is_installed(name)]
  results: dict[str, dict[str, Any]] = {}
  for given in givens:
    folder = workdir / "records" / _file_name(given.name)
    found = results[given.name] = {"shape": given.matrix.shape, "verdicts": []}
    config = {"matrix": given.digest, "method": "reference"}
    found["rows"] = run_once(
      folder / "reference.json", config, lambda given=given: references(given)
    )
    for ratio in ratios:
      rows = run_ratio(given, ratio, folder / f"{ratio:g}x", families)
      found["rows"] = [*found["rows"], *rows]
      lines = verdicts(given, rows)
      found["verdicts"] += lines
      print(*lines, sep="\n", flush=True)
      write_report(results, missing, workdir)
  return results


def references(given: Given) -> list[Row]:
  """Measures the vectors themselves, and rows of int4, at their own sizes."""
  full = given.row(
    "reference", "full", given.dense_bytes, **given.measure(given.matrix)
  )
  return [full, *run_peer(given, peers.Int4Rows(), "reference")]


def write_report(
  results: Mapping[str, Mapping[str, Any]],
  missing: Sequence[str],
  workdir: pathlib.Path,
) -> None:
  """Writes the tables as Markdown, and all rows as JSON."""
  parts = []
  for name, found in results.items():
    size, features = found["shape"]
    tasks = {
      n: h for n, h in compress_givens.TASKS.items() if n in found["rows"][0]
    }
    columns = COLUMNS | tasks | LAST_COLUMNS
    table = reporting.format_table(
      compress_tables.shown(found["rows"]), columns, markdown=True
    )
    lines = "\n".join(f"- {line}" for line in found["verdicts"])
    families = _families(found["rows"])
    title = f"## {name}, {size:,} x {features}"
    parts.append(f"{title}\n\n{families}\n\n{table}\n\n{lines}\n")
  absent = f"Not installed: {', '.join(missing)}.\n" if missing else ""
  text = "\n".join([*parts, NOTES + absent])
  files.write_atomically(workdir / f"{NAME}.md", text)
  reporting.plot_table(_drawn(results), workdir / f"{NAME}.png", PICTURE)
  record = {"notes": NOTES, "missing": list(missing), "tables": results}
  content = json.dumps(record, indent=2) + "\n"
  files.write_atomically(workdir / f"{NAME}.json", content)


def _families(rows: Sequence[Row]) -> str:
  """Returns the table of all families and ratios."""
  targets = dict.fromkeys(f"{r['target']:g}" for r in rows if "target" in r)
  columns = {"family": "Error / neighbours"} | {t: f"{t}x" for t in targets}
  found = compress_tables.by_family(rows)
  return reporting.format_table(found, columns, markdown=True)


def _drawn(results: Mapping[str, Mapping[str, Any]]) -> list[Row]:
  """Returns the rows of the picture: ours by the error, and the others."""
  return [
    {**row, "given": name, "family": row.get("family", "ours")}
    for name, found in results.items()
    for row in compress_tables.shown(found["rows"])
    if row["kind"] == "peer" or row.get("metric") == "error"
  ]


class _Clock:
  """Measures the time, and that of all threads of this process."""

  def __init__(self) -> None:
    self._begin = time.perf_counter(), time.process_time()

  def read(self) -> dict[str, float]:
    """Returns the seconds since it was made."""
    return {
      "seconds": time.perf_counter() - self._begin[0],
      "cpu_seconds": time.process_time() - self._begin[1],
    }


def _compress(
  given: Given, budget: int, metric: str
) -> tuple[tables.Table, compression.Report]:
  found = compression.compress(given.matrix, budget=budget, metric=metric)
  return found.table, found.report


def _describe(given: Given, row: Row) -> str:
  return (
    f"{given.name}, {row['target']:g}x, {row['method']}: {row['nbytes']:,} "
    f"bytes, error {row['error']:.4f}, {row['seconds']:.0f} s"
  )


def _file_name(name: str) -> str:
  return "".join(c if c.isalnum() else "_" for c in name)


def _measure() -> None:
  options = flags.FLAGS
  workdir = pathlib.Path(options.workdir)
  if options.scale:
    found = compress_scale.measure(workdir)
    print(reporting.format_table([found], compress_scale.COLUMNS))
    return
  if options.quick:
    run_benchmark([compress_givens.make_up()], workdir, **QUICK)
    return
  load = functools.partial(
    compress_givens.load_given, data_dir=options.data_dir, workdir=workdir
  )
  givens = [load(name) for name in options.tables]
  run_benchmark(givens, workdir, ratios=options.ratios)
  print(f"See {workdir / NAME}.md.")


if __name__ == "__main__":
  names = tuple(compress_givens.TABLES)
  tuning.define_names("tables", names, "What is made small.", default=names)
  flags.DEFINE_multi_float(
    "ratios",
    RATIOS,
    "How many times smaller; give the flag again for another one.",
    lower_bound=1.0,
  )
  flags.DEFINE_bool("quick", False, "A run of seconds on made-up vectors.")
  flags.DEFINE_bool("scale", False, "A million rows from a file instead.")
  flags.DEFINE_string("data_dir", None, "Folder of data sets.")
  flags.DEFINE_string(
    "workdir", f"workdir/{NAME}", "Folder for what it leaves."
  )
  tuning.run_app(_measure)
