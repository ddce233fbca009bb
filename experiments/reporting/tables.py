"""Plain tables for terminals and Markdown files."""

import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Any


def format_table(
  rows: Sequence[Mapping[str, Any]],
  columns: Mapping[str, str] | Sequence[str],
  *,
  markdown: bool = False,
) -> str:
  """Lays out rows as an aligned table.

  Args:
    rows: Cells by the name of their column. Numbers are set to the right and
      rounded (to one decimal from 100 on, two from 1 on, else four); a missing
      cell or None is shown as "-".
    columns: Names of the columns in order, or the heading of each name.
    markdown: Whether to write a Markdown table.

  Returns:
    The lines of the table, without a newline at the end.

  Raises:
    ValueError: If there are no columns.

  >>> rows = [{"name": "full", "bytes": 8000000}, {"name": "anchors"}]
  >>> print(format_table(rows, {"name": "Embedding", "bytes": "Bytes"}))
  Embedding      Bytes
  ---------  ---------
  full       8,000,000
  anchors            -
  """
  names = list(columns)
  if not names:
    raise ValueError("`columns` must name at least one column, got none.")
  headings = list(columns.values() if isinstance(columns, Mapping) else columns)
  cells = [[_format(row.get(name)) for name in names] for row in rows]
  right = [_is_numeric([row.get(name) for row in rows]) for name in names]
  lines = [headings, *cells]
  if markdown:
    lines = [[cell.replace("|", "\\|") for cell in line] for line in lines]
  widths = [max(3, *map(len, column)) for column in zip(*lines, strict=True)]
  lines.insert(1, _rule(widths, right, markdown=markdown))
  aligned = [_align(line, widths, right) for line in lines]
  if markdown:
    return "\n".join(f"| {' | '.join(line)} |" for line in aligned)
  return "\n".join("  ".join(line).rstrip() for line in aligned)


def _format(value: Any) -> str:
  if value is None:
    return "-"
  if isinstance(value, bool) or not isinstance(value, numbers.Real):
    return str(value)
  if isinstance(value, numbers.Integral):
    return f"{int(value):,}"
  number = float(value)
  if not math.isfinite(number):
    return str(number)
  decimals = 1 if abs(number) >= 100 else 2 if abs(number) >= 1 else 4
  return f"{number:,.{decimals}f}"


def _is_numeric(values: Sequence[Any]) -> bool:
  present = [value for value in values if value is not None]
  return bool(present) and all(
    isinstance(value, numbers.Real) and not isinstance(value, bool)
    for value in present
  )


def _rule(
  widths: Sequence[int], right: Sequence[bool], *, markdown: bool
) -> list[str]:
  ends = ["-" + (":" if markdown and end else "-") for end in right]
  pairs = zip(widths, ends, strict=True)
  return ["-" * (width - 2) + end for width, end in pairs]


def _align(
  cells: Sequence[str], widths: Sequence[int], right: Sequence[bool]
) -> list[str]:
  return [
    cell.rjust(width) if is_right else cell.ljust(width)
    for cell, width, is_right in zip(cells, widths, right, strict=True)
  ]
