"""Writes the page of a table, or of a training run."""

import importlib.util
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from anchor_codes import tables
from anchor_codes.report.runs import Run, read_run
from anchor_codes.report.scope import MAX_SYMBOLS
from anchor_codes.report.sections import Section, make_section
from anchor_codes.tables import storage
from anchor_codes.typing import check_at_least


def write_report(
  table: tables.Table,
  path: str | os.PathLike[str],
  *,
  name: str | None = None,
  original: np.ndarray | None = None,
  curve: Mapping[str, Any] | None = None,
  max_symbols: int = MAX_SYMBOLS,
) -> None:
  """Writes one HTML page on which to explore a table.

  It shows where the bytes are, how symbols use anchors or codes, and finds a
  symbol with its neighbours. The page holds all that it needs, and a browser
  that opens it loads nothing from a network.

  Args:
    table: A table of any kind.
    path: Where to write; an old file is replaced at once.
    name: The headline, the name of the file by default.
    original: The vectors that the table was made of, floats [num_embeddings,
      features]: their neighbours stand beside those of the table.
    curve: What a compression has tried: `Report.to_json`, parsed.
    max_symbols: How many symbols can be looked up, the first ones; neighbours
      are sought among ten times as many.

  Raises:
    ImportError: If a library of the extra `report` is missing.
    ValueError: If `original` is of another shape, or `max_symbols` is not
      positive.
    OSError: If the file cannot be written; an old file stays as it was.

  >>> import tempfile
  >>> table = tables.AnchorTable(
  ...     np.eye(2, dtype=np.float32),
  ...     weights=np.float32([[1, 0], [2, 3]]),
  ...     vocabulary=["cat", "dog"],
  ... )
  >>> with tempfile.TemporaryDirectory() as folder:
  ...   path = pathlib.Path(folder, "table.html")
  ...   write_report(table, path)
  ...   print(path.read_text()[:15])
  <!doctype html>
  """
  check_extra()
  section = make_section(
    table,
    name=name or pathlib.Path(path).stem,
    max_symbols=max_symbols,
    original=original,
    curve=curve,
  )
  _write(path, [section])


def write_run_report(
  folder: str | os.PathLike[str],
  path: str | os.PathLike[str] | None = None,
  *,
  max_symbols: int = MAX_SYMBOLS,
) -> pathlib.Path:
  """Writes one HTML page on a training run and its tables.

  Args:
    folder: What the run has left: `result.json`, and perhaps `metrics.csv` and
      tables.
    path: Where to write, `report.html` in the folder by default.
    max_symbols: How many symbols of all tables can be looked up.

  Returns:
    Where the page is.

  Raises:
    FileNotFoundError: If there is no `result.json`.
    ImportError: If a library of the extra `report` is missing.
    ValueError: If a file is not as runs write it, or `max_symbols` is not
      positive.
    OSError: If the page cannot be written.
  """
  check_extra()
  check_at_least("max_symbols", max_symbols, 1)
  run = read_run(folder)
  sections = [
    make_section(
      table,
      name=name,
      max_symbols=max(1, max_symbols // len(run.tables)),
    )
    for name, table in run.tables.items()
  ]
  path = pathlib.Path(folder, "report.html") if path is None else path
  _write(path, sections, run=run)
  return pathlib.Path(path)


def check_extra() -> None:
  """Raises `ImportError` unless the libraries of a page are installed."""
  for name in ("altair", "vl_convert", "jinja2"):
    if importlib.util.find_spec(name) is None:
      raise ImportError(
        f"A report needs {name}: pip install 'anchor-codes[report]'."
      )


def _write(
  path: str | os.PathLike[str],
  sections: Sequence[Section],
  *,
  run: Run | None = None,
) -> None:
  # Here, and not above: its libraries are those of an extra.
  from anchor_codes.report import pages

  page = pages.render(sections, run=run)
  storage.write_atomically(path, [page.encode()])
