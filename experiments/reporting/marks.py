"""What is drawn of a table: names, places and spreads, read from its cells."""

import dataclasses
import math
import numbers
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

_NUMBER = r"-?\d[\d,]*(?:\.\d*)?(?:e[+-]?\d+)?"
_CELL = re.compile(rf"\s*({_NUMBER})\s*(?:±\s*({_NUMBER}))?")

Row = Mapping[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Picture:
  """How a table is drawn.

  Without `x` each row is a bar or a dot beside its name. With it a row is a
  point with its name, or rows that share `lines` are joined.

  Attributes:
    title: Text above the picture.
    value: Column of what was measured. A cell is a number, or the text of one,
      which may have a spread behind it, "0.71 ± 0.02".
    caption: Caption of its axis, and whether more or less is better.
    label: Columns that name a row.
    lines: Columns that name a line; None for points.
    x: Column of the other axis, drawn on a logarithmic scale; None for bars.
    x_caption: Caption of that axis.
    x_unit: Its unit, with which it is written in thousands and millions.
    panel: Column of which each value has a part of the picture for itself.
    spread: Columns of the ends of an error bar, the lower one first; one column
      is its half length.
    known: Column of a value to compare with, drawn as a tick.
    baseline: Name of what the others are measured against: it has a line at its
      value across the picture.
    from_zero: Whether bars start at zero; else there are dots only.
    log: Whether the scale of the value is logarithmic.
  """

  title: str
  value: str
  caption: str
  label: tuple[str, ...] = ()
  lines: tuple[str, ...] | None = None
  x: str | None = None
  x_caption: str = "Stored bytes (logarithmic scale)"
  x_unit: str = "B"
  panel: str | None = None
  spread: tuple[str, ...] = ()
  known: str | None = None
  baseline: str | None = None
  from_zero: bool = False
  log: bool = False

  @property
  def columns(self) -> tuple[str, ...]:
    """All columns that are read."""
    named = (self.value, self.x, self.panel, self.known)
    found = [name for name in named if name is not None]
    return (*found, *self.label, *(self.lines or ()), *self.spread)


class Mark(NamedTuple):
  """What is drawn of a row.

  Attributes:
    name: Its name, or that of its line.
    x: Where it is, nan without another axis.
    value: What was measured.
    below: How far the error bar goes down.
    above: How far it goes up.
    known: What to compare with, nan if nothing is known.
  """

  name: str
  x: float
  value: float
  below: float = 0.0
  above: float = 0.0
  known: float = math.nan


def read_marks(rows: Sequence[Row], picture: Picture) -> dict[str, list[Mark]]:
  """Reads what can be drawn, in the order of the rows.

  Args:
    rows: Cells by the names of their columns. A row without a finite value, or
      whose place has no logarithm, is left out.
    picture: How they are drawn.

  Returns:
    The marks of each panel by its name, "" if there is only one.
  """
  found: dict[str, list[Mark]] = {}
  for row in rows:
    mark = _read_mark(row, picture)
    if mark is not None:
      name = "" if picture.panel is None else _text(row.get(picture.panel))
      found.setdefault(name, []).append(mark)
  return found


def read_cell(cell: Any) -> tuple[float, float]:
  """Reads a number and its spread.

  Args:
    cell: A number, None, or a text.

  Returns:
    The number, nan if there is none, and the spread, 0 if there is none.

  >>> read_cell("0.7255 ± 0.0005"), read_cell("15,000"), read_cell("-")
  ((0.7255, 0.0005), (15000.0, 0.0), (nan, 0.0))
  """
  if isinstance(cell, numbers.Real) and not isinstance(cell, bool):
    return float(cell), 0.0
  match = _CELL.match(str(cell))
  if not match:
    return math.nan, 0.0
  value, spread = (
    float((part or "0").replace(",", "")) for part in match.groups()
  )
  return value, spread


def _read_mark(row: Row, picture: Picture) -> Mark | None:
  value, spread = read_cell(row.get(picture.value))
  x = math.nan if picture.x is None else read_cell(row.get(picture.x))[0]
  can_be_drawn = (
    math.isfinite(value)
    and (picture.x is None or 0 < x < math.inf)
    and (value > 0 or not picture.log)
  )
  if not can_be_drawn:
    return None
  known = math.nan
  if picture.known is not None:
    known, _ = read_cell(row.get(picture.known))
  below, above = _ends(row, picture, value, spread)
  names = picture.label if picture.lines is None else picture.lines
  name = ", ".join(_text(row.get(column)) for column in names)
  return Mark(name, x, value, below, above, known)


def _ends(
  row: Row, picture: Picture, value: float, spread: float
) -> tuple[float, float]:
  """Returns the lengths of the two halves of an error bar, none negative."""
  if len(picture.spread) == 2:
    low, high = (read_cell(row.get(name))[0] for name in picture.spread)
    lengths = value - low, high - value
  else:
    given = [read_cell(row.get(name))[0] for name in picture.spread]
    lengths = (given[0], given[0]) if given else (spread, spread)
  below, above = (
    length if 0 <= length < math.inf else 0.0 for length in lengths
  )
  return below, above


def _text(cell: Any) -> str:
  if isinstance(cell, numbers.Real) and not isinstance(cell, bool):
    return f"{float(cell):g}"
  return str("" if cell is None else cell).replace("_", " ")
