"""Pictures of tables: points of size and quality, lines, and bars."""

import itertools
import math
import os
import pathlib
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.reporting import files
from experiments.reporting.labels import Label, put_labels
from experiments.reporting.marks import Mark, Picture, Row, read_marks
from experiments.reporting.style import (
  BASELINE_COLOR,
  COLORS,
  FAINT_COLOR,
  MARKERS,
  SIZE,
  new_figure,
)
from experiments.reporting.tables import format_table

if TYPE_CHECKING:
  from matplotlib.axes import Axes
  from matplotlib.figure import Figure

_BAR_INCHES = 0.34
_MANY = 20  # Labels beyond which their letters are smaller.
_NAME_WIDTH = 44  # Letters of a name on a line.


def write_table(
  path: str | os.PathLike[str],
  rows: Sequence[Row],
  columns: Mapping[str, str] | Sequence[str],
  picture: Picture,
) -> None:
  """Writes a table as Markdown, and beside it its picture.

  Args:
    path: The files without their suffixes, which are `.md` and `.png`.
    rows: Cells by the names of their columns.
    columns: What :func:`format_table` takes.
    picture: How they are drawn.
  """
  table = format_table(rows, columns, markdown=True)
  files.write_atomically(f"{os.fspath(path)}.md", f"{table}\n")
  plot_table(rows, f"{os.fspath(path)}.png", picture)


def plot_table(
  rows: Sequence[Row], path: str | os.PathLike[str], picture: Picture
) -> pathlib.Path:
  """Draws a table.

  Args:
    rows: Cells by the names of their columns; what cannot be drawn is left
      out. Without any row an empty picture says so.
    path: The PNG file to write, 1200 pixels wide, and as high as the rows need;
      its folder is made if missing.
    picture: How they are drawn.

  Returns:
    The path of the file.
  """
  panels = read_marks(rows, picture) or {"": []}
  draw = _draw_bars
  if picture.x is not None:
    draw = _draw_points if picture.lines is None else _draw_lines
  with new_figure(path, size=_size(panels, picture)) as figure:
    parts = _split(figure, panels, picture)
    labels = [draw(axes, marks, picture) for axes, marks in parts]
    _write_titles(figure, list(panels), picture)
    figure.draw_without_rendering()  # The labels need the final layout.
    for (axes, marks), found in zip(parts, labels, strict=True):
      _put(axes, found, marks, joined=picture.lines is not None)
  return pathlib.Path(path)


def _write_titles(
  figure: "Figure", names: Sequence[str], picture: Picture
) -> None:
  """Writes the title, those of the panels, and the caption of bars."""
  if picture.x is None:
    figure.axes[-1].set_xlabel(picture.caption)
  if len(names) == 1:
    figure.axes[0].set_title(picture.title)
    return
  for axes, name in zip(figure.axes, names, strict=True):
    axes.set_title(name, fontdict={"fontsize": 13})
  figure.suptitle(
    picture.title, x=0.02, ha="left", fontsize=17, fontweight="bold"
  )


def _size(
  panels: Mapping[str, Sequence[Mark]], picture: Picture
) -> tuple[float, float]:
  """Returns the width and the height of a picture in inches."""
  width, height = SIZE
  if picture.x is not None:
    # Two beside each other, and the third below.
    return width, height * (1 + (len(panels) - 1) // 2 * 0.8)
  number = sum(map(len, panels.values()))
  return width, max(3.0, 1.4 + 0.9 * len(panels) + _BAR_INCHES * number)


def _split(
  figure: "Figure", panels: Mapping[str, list[Mark]], picture: Picture
) -> list[tuple["Axes", list[Mark]]]:
  """Returns the axes and the marks of each panel."""
  number = len(panels)
  if picture.x is None:
    heights = [len(marks) + 2 for marks in panels.values()]
    grid = figure.subplots(
      number, 1, squeeze=False, gridspec_kw={"height_ratios": heights}
    )
  else:
    width = min(number, 2)
    grid = figure.subplots(-(-number // width), width, squeeze=False)
  axes = list(grid.flat)
  for unused in axes[number:]:
    unused.remove()
  return list(zip(axes[:number], panels.values(), strict=True))


def _draw_bars(
  axes: "Axes", marks: Sequence[Mark], picture: Picture
) -> list[Label]:
  """Draws a bar, or a dot, for each row, the first one at the top."""
  decimals = _decimals(marks)
  for place, mark in enumerate(marks):
    color = _color(mark.name, picture)
    if picture.from_zero:
      axes.barh(place, mark.value, color=color, height=0.7, alpha=0.85)
    else:
      _draw_dot(axes, mark.value, place, color)
    if mark.below or mark.above:
      ends = [[mark.below], [mark.above]]
      _draw_ends(axes, mark.value, place, xerr=ends, color=color)
    # Away from what it is compared with.
    side = -1 if mark.known > mark.value else 1
    end = mark.value + (mark.above if side > 0 else -mark.below)
    axes.annotate(
      f"{mark.value:,.{decimals}f}",
      (end, place),
      (9 * side, 0),
      textcoords="offset points",
      ha="left" if side > 0 else "right",
      va="center",
      fontsize=11,
    )
    if math.isfinite(mark.known):
      axes.plot(mark.known, place, "|", color=FAINT_COLOR, ms=18, mew=3)
    if mark.name == picture.baseline:
      axes.axvline(mark.value, color=BASELINE_COLOR, ls="--", lw=1.2)
  names = [textwrap.fill(mark.name, _NAME_WIDTH) for mark in marks]
  axes.set_yticks(range(len(marks)), labels=names, fontsize=11)
  axes.set_ylim(len(marks) - 0.3, -0.7)
  axes.margins(x=0.12)
  _finish(axes, marks)
  axes.grid(visible=False, axis="y")
  return []


def _decimals(marks: Sequence[Mark]) -> int:
  """Returns how many decimals give the largest value four digits."""
  largest = max((abs(mark.value) for mark in marks), default=0.0)
  return 4 if largest < 1 else max(0, 3 - math.floor(math.log10(largest)))


def _draw_points(
  axes: "Axes", marks: Sequence[Mark], picture: Picture
) -> list[Label]:
  """Draws a point for each row; returns their labels."""
  _decorate(axes, marks, picture)
  for mark in marks:
    color = _color(mark.name, picture)
    if mark.below or mark.above:
      ends = [[mark.below], [mark.above]]
      _draw_ends(axes, mark.x, mark.value, yerr=ends, color=color)
    _draw_dot(axes, mark.x, mark.value, color)
    if mark.name == picture.baseline:
      axes.axhline(mark.value, color=color, ls="--", lw=1.4, zorder=2)
  return [Label(mark.name, [(mark.x, mark.value)]) for mark in marks]


def _draw_lines(
  axes: "Axes", marks: Sequence[Mark], picture: Picture
) -> list[Label]:
  """Draws a line for each name; returns their labels, of the same colours."""
  _decorate(axes, marks, picture)
  colors, labels = itertools.cycle(COLORS), []
  markers = itertools.cycle(MARKERS)
  for name, points in _by_name(marks).items():
    color = BASELINE_COLOR if name == picture.baseline else next(colors)
    if name == picture.baseline:
      axes.axhline(points[0].value, color=color, ls="--", lw=1.4, zorder=2)
    axes.errorbar(
      [mark.x for mark in points],
      [mark.value for mark in points],
      yerr=np.transpose([(mark.below, mark.above) for mark in points]),
      label=name,
      color=color,
      marker="D" if name == picture.baseline else next(markers),
      markersize=8,
      linewidth=2,
      capsize=4,
    )
    places = [(mark.x, mark.value) for mark in (points[-1], *points[:-1])]
    labels.append(Label(name, places, color))
  return labels


def _draw_dot(axes: "Axes", x: float, y: float, color: str) -> None:
  marker, area = ("D", 100) if color == BASELINE_COLOR else ("o", 90)
  axes.scatter(
    x, y, s=area, c=color, marker=marker, edgecolors="white", zorder=3
  )


def _draw_ends(
  axes: "Axes", x: float, y: float, *, color: str, **ends: Any
) -> None:
  """Draws an error bar alone."""
  axes.errorbar(x, y, **ends, ecolor=color, capsize=4, fmt="none", zorder=2)


def _decorate(axes: "Axes", marks: Sequence[Mark], picture: Picture) -> None:
  """Gives a logarithmic axis with readable numbers."""
  from matplotlib import ticker

  axes.set_xscale("log")
  axes.set(xlabel=picture.x_caption, ylabel=picture.caption)
  if picture.log:
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")
    axes.yaxis.set_minor_formatter(ticker.NullFormatter())
    _limit_log(axes, marks)
  sizes = sorted({mark.x for mark in marks}) or [1.0, 10.0]
  axes.xaxis.set_major_formatter(ticker.EngFormatter(unit=picture.x_unit))
  axes.xaxis.set_minor_formatter(ticker.NullFormatter())
  if picture.x_unit or len(sizes) > 8:
    few = sizes[-1] < 500 * sizes[0]
    subs = (1.0, 2.0, 5.0) if few else (1.0,)
    axes.xaxis.set_major_locator(ticker.LogLocator(subs=subs))
  else:  # Numbers that were chosen stand for themselves.
    axes.set_xticks(sizes)
    axes.xaxis.set_minor_locator(ticker.NullLocator())
  # A single size has no limits of its own; the sides leave room for labels.
  room = max(1.5, (sizes[-1] / sizes[0]) ** 0.15)
  axes.set_xlim(sizes[0] / room, sizes[-1] * room)
  axes.margins(y=0.14)
  _finish(axes, marks)


def _limit_log(axes: "Axes", marks: Sequence[Mark]) -> None:
  """Sets the limits of a logarithmic axis, which one value does not have."""
  ends = [(mark.value - mark.below, mark.value + mark.above) for mark in marks]
  ends += [(mark.value, mark.value) for mark in marks]
  positive = [end for pair in ends for end in pair if end > 0]
  if positive:
    low, high = min(positive), max(positive)
    room = max(1.2, (high / low) ** 0.14)
    axes.set_ylim(low / room, high * room)


def _finish(axes: "Axes", marks: Sequence[Mark]) -> None:
  axes.grid(visible=True)
  axes.set_axisbelow(True)
  if not marks:
    axes.text(
      0.5, 0.5, "nothing finite to draw", transform=axes.transAxes, ha="center"
    )


def _put(
  axes: "Axes", labels: Sequence[Label], marks: Sequence[Mark], *, joined: bool
) -> None:
  """Puts labels beside points, or beside lines; bars have none."""
  if not labels:
    return
  groups = _by_name(marks).values() if joined else [[mark] for mark in marks]
  lines = [
    np.array([(mark.x, mark.value) for mark in group]) for group in groups
  ]
  for x, value, below, above in [mark[1:5] for mark in marks]:
    if below or above:
      lines.append(np.array([(x, value - below), (x, value + above)]))
  for line in axes.lines:
    if line.get_linestyle() == "--":  # A baseline, in shares of the width.
      ends = np.array([axes.get_xlim(), line.get_ydata()], float)
      lines.append(ends.T)
  size = 13 if len(labels) <= _MANY else 10
  put_labels(axes, labels, lines=lines, font_size=size)


def _by_name(marks: Sequence[Mark]) -> dict[str, list[Mark]]:
  """Returns the marks of each line, from the left to the right."""
  found: dict[str, list[Mark]] = {}
  for mark in sorted(marks, key=lambda mark: mark.x):
    found.setdefault(mark.name, []).append(mark)
  order = dict.fromkeys(mark.name for mark in marks)
  return {name: found[name] for name in order}


def _color(name: str, picture: Picture) -> str:
  return BASELINE_COLOR if name == picture.baseline else COLORS[0]
