"""Pictures of results."""

import contextlib
import functools
import math
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from matplotlib.axes import Axes
  from matplotlib.figure import Figure
  from matplotlib.text import Annotation
  from matplotlib.transforms import Bbox

_BASELINE_COLOR = "#c0392b"
_COLOR = "#1f5fa8"
# Of a baseline among lines, which may be red themselves.
_LINE_COLOR = "#2c3e50"
_STYLE: dict[Any, Any] = {
  "font.size": 13,
  "axes.titlesize": 17,
  "axes.titleweight": "bold",
  "axes.titlelocation": "left",
  "axes.titlepad": 14,
  "axes.labelsize": 14,
  "axes.spines.top": False,
  "axes.spines.right": False,
  "axes.edgecolor": "#7f8c8d",
  "grid.color": "#dfe4e8",
  "figure.constrained_layout.w_pad": 0.2,
  "figure.constrained_layout.h_pad": 0.2,
}
# Offsets in points and alignment of a label, the most pleasing first.
_PLACES = (
  (9, 0, "left", "center"),
  (-9, 0, "right", "center"),
  (0, 10, "center", "bottom"),
  (0, -10, "center", "top"),
  (8, 10, "left", "bottom"),
  (-8, 10, "right", "bottom"),
  (8, -10, "left", "top"),
  (-8, -10, "right", "top"),
  (0, 26, "center", "bottom"),
  (0, -26, "center", "top"),
)

Point = tuple[str, float, float]
"""Label, bytes and quality."""


def plot_size_quality(
  rows: Sequence[Mapping[str, Any]],
  path: str | os.PathLike[str],
  *,
  label: str = "embedding",
  size: str = "embedding_bytes",
  metric: str = "test_perplexity",
  metric_label: str = "Test perplexity (lower is better)",
  baseline: str = "full",
  title: str = "Size against quality",
) -> pathlib.Path:
  """Draws stored bytes against a metric, one labelled point for each row.

  Args:
    rows: Results with the names of the columns below; one whose quality is not
      finite is left out.
    path: The PNG file to write, 1200 x 750 pixels; its folder is made if
      missing.
    label: Column of the text beside a point.
    size: Column of the bytes, drawn on a logarithmic scale.
    metric: Column of the quality.
    metric_label: Caption of the vertical axis.
    baseline: Label of the row that the others are measured against: a diamond,
      and a dashed line at its quality. A picture without it is fine.
    title: Text above the picture.

  Returns:
    The path of the file.

  Raises:
    ValueError: If no row is left, or a size is not positive.
  """
  found = [(str(row[label]), row[size], row[metric]) for row in rows]
  points: list[Point] = [point for point in found if math.isfinite(point[2])]
  _check_points(points, size=size, metric=metric)
  with _picture(path) as (figure, axes):
    _decorate(axes, points, title=title, metric_label=metric_label)
    for name, x, y in points:
      _draw_point(axes, x, y, is_baseline=name == baseline)
    figure.draw_without_rendering()  # The labels need the final layout.
    _label_points(axes, points)
  return pathlib.Path(path)


def plot_frontier(
  rows: Sequence[Mapping[str, Any]],
  path: str | os.PathLike[str],
  *,
  kind: str = "kind",
  size: str = "embedding_bytes",
  metric: str = "test_mse",
  spread: str = "test_mse_std",
  metric_label: str = "Test MSE (lower is better)",
  baseline: str = "full",
  title: str = "Size against quality",
) -> pathlib.Path:
  """Draws stored bytes against a metric, one line for each kind of row.

  Args:
    rows: Results with the names of the columns below; one whose quality is not
      finite is left out.
    path: The PNG file to write, 1200 x 750 pixels; its folder is made if
      missing.
    kind: Column of the kind: rows of one kind are joined, from the smallest to
      the largest, and share a colour.
    size: Column of the bytes, drawn on a logarithmic scale.
    metric: Column of the quality.
    spread: Column of the half length of an error bar; a row without it has
      none.
    metric_label: Caption of the vertical axis.
    baseline: The kind that the others are measured against: a dashed line at
      the quality of its first row. A picture without it is fine.
    title: Text above the picture.

  Returns:
    The path of the file.

  Raises:
    ValueError: If no row is left, or a size is not positive.
  """
  kept = [row for row in rows if math.isfinite(row[metric])]
  points = [(str(row[kind]), row[size], row[metric]) for row in kept]
  _check_points(points, size=size, metric=metric)
  with _picture(path) as (_, axes):
    _decorate(axes, points, title=title, metric_label=metric_label)
    for _, _, y in [point for point in points if point[0] == baseline][:1]:
      axes.axhline(y, color=_LINE_COLOR, linestyle="--", linewidth=1.4)
    # A single size has no limits of its own on a logarithmic scale.
    sizes = [x for _, x, _ in points]
    axes.set_xlim(min(sizes) / 1.5, max(sizes) * 1.5)
    for name in dict.fromkeys(name for name, _, _ in points):
      of_kind = sorted(
        (row[size], row[metric], row.get(spread, 0.0))
        for row in kept
        if row[kind] == name
      )
      color = _LINE_COLOR if name == baseline else None
      _draw_line(axes, name, of_kind, color=color)
    axes.legend(frameon=False)
  return pathlib.Path(path)


def _check_points(points: Sequence[Point], *, size: str, metric: str) -> None:
  if not points:
    raise ValueError(f"`rows` must hold a result with a finite `{metric}`.")
  if min(x for _, x, _ in points) <= 0:
    raise ValueError(f"`{size}` must be positive in all rows.")


@contextlib.contextmanager
def new_figure(path: str | os.PathLike[str]) -> Iterator["Figure"]:
  """Gives an empty figure to draw on, and writes it in the end.

  Args:
    path: The PNG file to write, 1200 x 750 pixels; its folder is made if
      missing.

  Yields:
    The figure.
  """
  # Not by pyplot, which keeps global state and looks for a screen. Imported
  # here, for it takes longer than all the rest.
  import matplotlib
  from matplotlib.figure import Figure

  with matplotlib.rc_context(_STYLE):
    figure = Figure(figsize=(12, 7.5), dpi=100, layout="constrained")
    yield figure
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png")


@contextlib.contextmanager
def _picture(
  path: str | os.PathLike[str],
) -> Iterator[tuple["Figure", "Axes"]]:
  """Gives an empty picture to draw on, and writes it in the end."""
  with new_figure(path) as figure:
    yield figure, figure.add_subplot()


def _draw_line(
  axes: "Axes",
  name: str,
  points: Sequence[tuple[float, float, float]],
  *,
  color: str | None,
) -> None:
  """Draws the rows of a kind as (size, quality, half length of its bar)."""
  sizes, values, spreads = zip(*points, strict=True)
  axes.errorbar(
    sizes,
    values,
    yerr=spreads,
    label=name,
    color=color,
    marker="o" if color is None else "D",
    markersize=8,
    linewidth=2,
    capsize=4,
  )


def _decorate(
  axes: "Axes", points: Sequence[Point], *, title: str, metric_label: str
) -> None:
  from matplotlib import ticker

  sizes = [size for _, size, _ in points]
  ticks = (1.0, 2.0, 5.0) if max(sizes) < 500 * min(sizes) else (1.0,)
  axes.set_title(title)
  axes.set_xscale("log")
  axes.set_xlabel("Stored bytes of the embedding (logarithmic scale)")
  axes.set_ylabel(metric_label)
  axes.xaxis.set_major_locator(ticker.LogLocator(subs=ticks))
  axes.xaxis.set_major_formatter(ticker.EngFormatter(unit="B"))
  axes.xaxis.set_minor_formatter(ticker.NullFormatter())
  axes.margins(x=0.12, y=0.14)
  axes.grid(visible=True)
  axes.set_axisbelow(True)


def _draw_point(axes: "Axes", x: float, y: float, *, is_baseline: bool) -> None:
  color, marker, area = (_COLOR, "o", 90)
  if is_baseline:
    color, marker, area = (_BASELINE_COLOR, "D", 110)
    axes.axhline(y, color=color, linestyle="--", linewidth=1.4, zorder=2)
  axes.scatter(
    x, y, s=area, c=color, marker=marker, edgecolors="white", zorder=3
  )


def _label_points(axes: "Axes", points: Sequence[Point]) -> None:
  """Puts labels where they hide no point, no line and no other label."""
  from matplotlib.transforms import Bbox

  pixels = axes.transData.transform([(x, y) for _, x, y in points])
  taken = [Bbox.from_bounds(x - 9, y - 9, 18, 18) for x, y in pixels]
  taken += [line.get_window_extent().padded(2) for line in axes.lines]
  for name, x, y in points:
    note = axes.annotate(name, (x, y), (0, 0), textcoords="offset points")
    cost = functools.partial(_cost, note, taken, axes.bbox)
    _put(note, min(_PLACES, key=cost))
    taken.append(note.get_window_extent())


def _put(note: "Annotation", place: tuple[int, int, str, str]) -> None:
  right, up, horizontal, vertical = place
  note.set(position=(right, up), ha=horizontal, va=vertical)


def _cost(
  note: "Annotation",
  taken: Sequence["Bbox"],
  frame: "Bbox",
  place: tuple[int, int, str, str],
) -> int:
  """Counts what a label would cover; to leave the frame is the worst."""
  _put(note, place)
  box = note.get_window_extent()
  outside = box.x0 < frame.x0 or box.x1 > frame.x1 or box.y0 < frame.y0
  return box.count_overlaps(taken) + len(taken) * outside
