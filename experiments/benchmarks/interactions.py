r"""Measures how fast interactions are streamed, and what memory that takes.

  python -m experiments.benchmarks.interactions --num_rows=10000000 \
      --workdir=/tmp/interactions

Interactions are made up and written as CSV, CSV with gzip, Parquet and
ArrayRecord, and each file is streamed with hashed ids and a shuffle buffer, in
a process of its own whose peak memory is measured. A file of a tenth of the
rows is streamed, too: memory must not depend on their number. The table is
printed last; `result.json` holds it under `metrics`, and `interactions.png`
shows the rates. `--quick` takes 300,000 rows.

Rates are given by the clock, and by the time of all processors: the latter says
what an idle machine can do where others run, too.
"""

import json
import multiprocessing
import pathlib
import tempfile
import time
from typing import Any

from absl import app, flags

from experiments import reporting, tuning
from experiments.datasets import (
  interactions,
  interactions_ids,
  interactions_made_up,
  interactions_sources,
  interactions_stream,
)
from experiments.datasets.interactions_columns import Column
from experiments.reporting.files import write_atomically

_COLUMNS = {
  "user": Column("user", "symbol"),
  "item": Column("item", "symbol"),
  "rating": Column("rating", "number"),
}
PICTURE = reporting.Picture(
  title="Streaming interactions from files",
  value="rows_per_cpu_second",
  caption="Rows in a second of the processors (higher is better)",
  label=("kind", "rows"),
  from_zero=True,
)
KINDS = ("csv", "csv.gz", "parquet", "array_record")
"""Suffixes of the files."""
_BATCH = 8192
_SHUFFLE_ROWS = 1 << 18


def stream_file(path: str) -> dict[str, float]:
  """Streams one epoch of a file; returns the rates and the peak memory."""
  encoders = {r: interactions_ids.Buckets(1 << 20) for r in ("user", "item")}
  start, start_cpu = time.perf_counter(), time.process_time()
  source = interactions_sources.open_source(path, columns=_COLUMNS)
  stream = interactions_stream.Stream(
    interactions.Part(source), encoders=encoders, shuffle_rows=_SHUFFLE_ROWS
  )
  count = sum(len(batch["user"]) for batch in stream.batches(_BATCH))
  seconds = time.perf_counter() - start
  return {
    "rows": count,
    "rows_per_second": count / seconds,
    "rows_per_cpu_second": count / (time.process_time() - start_cpu),
    "peak_mib": reporting.peak_rss_bytes() / 2**20,
  }


def measure(folder: pathlib.Path, kind: str, num_rows: int) -> dict[str, float]:
  """Writes a file, streams it in a new process, and removes it."""
  path = folder / f"made_up.{kind}"
  interactions_made_up.write_interactions(path, num_rows)
  # Peak memory never falls: a process for each file.
  with multiprocessing.get_context("spawn").Pool(1) as pool:
    found = pool.apply(stream_file, (str(path),))
  path.unlink()
  return found


def main(argv: list[str]) -> None:
  """Measures all kinds of files, and prints the table."""
  if len(argv) > 1:
    raise app.UsageError(f"Unexpected arguments: {argv[1:]}.")
  num_rows = 300_000 if flags.FLAGS.quick else flags.FLAGS.num_rows
  rows: list[dict[str, Any]] = []
  with tempfile.TemporaryDirectory() as folder:
    for kind in flags.FLAGS.kinds:
      for size in (num_rows // 10, num_rows):
        found = measure(pathlib.Path(folder), kind, size)
        rows.append({"kind": kind, **found})
        print(json.dumps(rows[-1]), flush=True)
  if flags.FLAGS.workdir:
    workdir = pathlib.Path(flags.FLAGS.workdir)
    metrics = {f"{row['kind']}_{row['rows']}": row for row in rows}
    text = json.dumps({"metrics": metrics}, indent=2) + "\n"
    write_atomically(workdir / "result.json", text)
    reporting.plot_table(rows, workdir / "interactions.png", PICTURE)
  print(reporting.format_table(rows, list(rows[0])))


if __name__ == "__main__":
  flags.DEFINE_bool("quick", False, "Whether to take few rows.")
  flags.DEFINE_integer("num_rows", 10_000_000, "Rows of each file.")
  tuning.define_names("kinds", KINDS, "Suffixes of files.", default=KINDS)
  flags.DEFINE_string("workdir", "", "Folder of `result.json` and its picture.")
  app.run(main)
