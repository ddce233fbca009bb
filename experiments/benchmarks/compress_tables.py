"""Tables of the benchmark of `compress`."""

import re
from collections.abc import Sequence
from typing import Any

from experiments.benchmarks.compress_givens import Row

_SIZES = re.compile(r":[\dx]+")


def shown(rows: Sequence[Row]) -> list[Row]:
  """Returns the rows of a table: of each family only the best by error."""
  best: dict[tuple[Any, ...], Row] = {}
  for row in rows:
    if row["kind"] == "peer":
      key = row["target"], row["family"]
      best[key] = min(row, best.get(key, row), key=lambda r: r["error"])
  kept = {id(row) for row in best.values()}
  return [r for r in rows if r["kind"] != "peer" or id(r) in kept]


def by_family(rows: Sequence[Row]) -> list[Row]:
  """Returns a row for each family, with its best at each ratio.

  Args:
    rows: All rows of some vectors.

  Returns:
    Rows with the name of the `family` and, by each ratio as text, the lowest
    error and the most neighbours of its sizes, which may be of two sizes.
    First `auto`, then what it tried, then the others.

  >>> tried = {"kind": "tried", "target": 8.0, "neighbors": 0.5}
  >>> rows = [{**tried, "method": "tried norm+opq:8x16x2", "error": 0.25}]
  >>> rows.append({**tried, "method": "tried norm+opq:9x16x2", "error": 0.2})
  >>> by_family(rows)
  [{'family': '`norm+opq`', '8': '.2000 / .500'}]
  """
  best: dict[str, dict[str, tuple[float, float]]] = {}
  for kind in ("ours", "tried", "peer"):
    for row in (r for r in rows if r["kind"] == kind):
      cells = best.setdefault(_family(row), {})
      target = f"{row['target']:g}"
      error, neighbors = cells.get(target, (row["error"], 0.0))
      cells[target] = (
        min(error, row["error"]),
        max(neighbors, row["neighbors"]),
      )
  return [
    {"family": family}
    | {target: _pair(*values) for target, values in cells.items()}
    for family, cells in best.items()
  ]


def _family(row: Row) -> str:
  if row["kind"] == "peer":
    return row["family"]
  if row["kind"] == "ours":
    return "auto"
  return f"`{_SIZES.sub('', row['method'].removeprefix('tried '))}`"


def _pair(error: float, neighbors: float) -> str:
  return f"{_short(error, 4)} / {_short(neighbors, 3)}"


def _short(value: float, decimals: int) -> str:
  return f"{value:.{decimals}f}".removeprefix("0")
