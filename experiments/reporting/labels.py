"""Texts beside points and lines, where they hide nothing."""

import itertools
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from experiments.reporting.style import FAINT_COLOR

if TYPE_CHECKING:
  from matplotlib.axes import Axes

# Shifts in points and alignments of a text, the most pleasing first.
_NEAR = (
  (9, 0, "left", "center"),
  (-9, 0, "right", "center"),
  (0, 10, "center", "bottom"),
  (0, -10, "center", "top"),
  (8, 10, "left", "bottom"),
  (-8, 10, "right", "bottom"),
  (8, -10, "left", "top"),
  (-8, -10, "right", "top"),
)
_FAR = tuple(
  (right, up, horizontal, "center")
  for distance in (26, 42, 60, 80)
  for right, up, horizontal in (
    (0, distance, "center"),
    (0, -distance, "center"),
    (distance, distance / 2, "left"),
    (distance, -distance / 2, "left"),
    (-distance, distance / 2, "right"),
    (-distance, -distance / 2, "right"),
    (distance, distance, "left"),
    (-distance, -distance, "right"),
  )
)
_OUTSIDE = 1000  # Cost of leaving the frame, which nothing is worse than.
_SHARES = {"left": 0.0, "bottom": 0.0, "center": 0.5, "right": 1.0, "top": 1.0}
_STEP = 8  # Pixels between the parts of a line that are kept free.

Place = tuple[float, float, str, str]


class Label(NamedTuple):
  """A text and what it belongs to.

  Attributes:
    text: What is written.
    points: Places in the units of the axes that it may stand beside, the best
      first: a point, or the ends of a line.
    color: Colour of the text.
  """

  text: str
  points: Sequence[tuple[float, float]]
  color: str = "black"


def put_labels(
  axes: "Axes",
  labels: Iterable[Label],
  *,
  lines: Sequence[np.ndarray],
  font_size: float = 13,
) -> None:
  """Puts labels where they hide no point, no line and no other label.

  Args:
    axes: The axes, whose layout must be final.
    labels: The labels.
    lines: What is to stay free: points [number, 2] in the units of the axes;
      those of one array are joined.
    font_size: Size of the texts in points.
  """
  taken = [_boxes(axes.transData.transform(line)) for line in lines]
  for label in labels:
    taken.append(_put(axes, label, np.concatenate(taken), font_size))


def _boxes(pixels: np.ndarray) -> np.ndarray:
  """Returns boxes [number, 4] around points and along the line through them."""
  along = [pixels]
  for start, end in itertools.pairwise(pixels):
    number = int(np.abs(end - start).max() / _STEP)
    along.append(np.linspace(start, end, number, endpoint=False))
  points, rest = pixels, np.concatenate(along[1:] or [pixels[:0]])
  return np.concatenate(
    [
      np.concatenate([points - 9, points + 9], axis=1),
      np.concatenate([rest - 3, rest + 3], axis=1),
    ]
  )


def _put(
  axes: "Axes", label: Label, taken: np.ndarray, font_size: float
) -> np.ndarray:
  """Puts a label at its best place; returns its box [1, 4]."""
  note = axes.annotate(
    label.text,
    label.points[0],
    (0, 0),
    textcoords="offset points",
    color=label.color,
    fontsize=font_size,
  )
  note.set_in_layout(False)
  extent = note.get_window_extent()
  size, scale = np.array([extent.width, extent.height]), axes.figure.dpi / 72
  frame = np.array(axes.bbox.extents)
  tries: list[tuple[float, int, tuple[float, float], Place, np.ndarray]] = []
  for point in label.points:
    at = axes.transData.transform(point)
    for place in (*_NEAR, *_FAR):
      box = _box_at(at, place, size, scale)
      cost = _cost(box, taken, frame) + 0.01 * len(tries)
      tries.append((cost, len(tries), point, place, box))
  _, _, point, place, box = min(tries)
  right, up, horizontal, vertical = place
  note.xy = point
  note.set(position=(right, up), ha=horizontal, va=vertical)
  if place in _FAR:
    _lead(axes, point, place)
  return box[None, :]


def _box_at(
  at: np.ndarray, place: Place, size: np.ndarray, scale: float
) -> np.ndarray:
  """Returns the corners of a text of a size at a place beside a point."""
  right, up, horizontal, vertical = place
  shares = np.array([_SHARES[horizontal], _SHARES[vertical]])
  low = at + scale * np.array([right, up]) - shares * size
  return np.concatenate([low, low + size])


def _cost(box: np.ndarray, taken: np.ndarray, frame: np.ndarray) -> float:
  """Counts what a label would cover."""
  apart = (box[2:] < taken[:, :2]) | (box[:2] > taken[:, 2:])
  covered = np.count_nonzero(~apart.any(axis=1))
  outside = (box[:2] < frame[:2]).any() or (box[2:] > frame[2:]).any()
  return float(covered + _OUTSIDE * outside)


def _lead(axes: "Axes", point: tuple[float, float], place: Place) -> None:
  """Draws a thin line from a point to a label that stands apart from it."""
  line = axes.annotate(
    "",
    point,
    (place[0], place[1]),
    textcoords="offset points",
    arrowprops={"arrowstyle": "-", "color": FAINT_COLOR, "linewidth": 0.8},
  )
  line.set_in_layout(False)
