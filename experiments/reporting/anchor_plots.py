"""Pictures of anchors: how many there are, and whom they serve."""

import itertools
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from experiments.reporting.style import new_figure

_PATH_COLOR = "#c0392b"
_BREAK_COLOR = "#7f8c8d"
_LINES = ("-", "--")  # Where two agree, both can be seen.

Course = Sequence[Mapping[str, float]]
"""Metrics by name, in the order of their `step`."""


def plot_surface(
  points: Mapping[tuple[int, int], float],
  path: str | os.PathLike[str],
  *,
  course: Sequence[tuple[int, int, float]] = (),
  title: str = "The objective of each number of anchors",
) -> pathlib.Path:
  """Draws an objective over numbers of anchors as a surface in space.

  Args:
    points: The objective by the numbers of anchors of users and of items, a
      whole grid with at least two numbers each.
    path: The PNG file to write, 1200 x 750 pixels.
    course: What a run that learns the numbers has come through: users, items
      and objective of each epoch.
    title: Text above the picture.

  Returns:
    The path of the file.

  Raises:
    ValueError: If the points are not a grid.
  """
  users, items = (sorted(set(axis)) for axis in zip(*points, strict=True))
  if min(len(users), len(items)) < 2 or len(points) != len(users) * len(items):
    raise ValueError(
      "`points` must be a grid of at least 2 x 2 numbers of anchors, got "
      f"{len(points)} points of {len(users)} x {len(items)} numbers."
    )
  heights = np.array([[points[u, i] for i in items] for u in users])
  with new_figure(path) as figure:
    # Numbers double from one to the next: only logarithms keep them apart.
    axes: Any = figure.add_subplot(projection="3d", computed_zorder=False)
    x, y = np.meshgrid(np.log2(users), np.log2(items), indexing="ij")
    axes.plot_surface(x, y, heights, cmap="viridis", alpha=0.75)
    if course:
      along_users, along_items, along = np.array(course, float).T
      at = np.log2(along_users), np.log2(along_items), along
      axes.plot(*at, "o-", color=_PATH_COLOR, label="a run that learns them")
      axes.legend(frameon=False)
    axes.set_xticks(np.log2(users), labels=[str(number) for number in users])
    axes.set_yticks(np.log2(items), labels=[str(number) for number in items])
    axes.set(xlabel="Anchors of users", ylabel="Anchors of items")
    axes.set_zlabel("Objective", labelpad=10)
    axes.set_title(title)
    axes.view_init(elev=28, azim=48)
  return pathlib.Path(path)


def plot_courses(
  course: Course,
  path: str | os.PathLike[str],
  *,
  panels: Mapping[str, Mapping[str, str]],
  breaks: Sequence[float] = (),
  title: str = "The course of a run",
) -> pathlib.Path:
  """Draws metrics against the step, in panels below each other.

  Args:
    course: The metrics at the end of each epoch, at least one.
    path: The PNG file to write, 1200 x 750 pixels.
    panels: For the caption of each panel's vertical axis the names of its
      metrics, and how the legend calls them; unknown metrics are left out.
    breaks: Steps to draw a dotted line at.
    title: Text above the picture.

  Returns:
    The path of the file.

  Raises:
    ValueError: If there are no metrics.
  """
  if not course:
    raise ValueError("`course` must hold the metrics of an epoch, got none.")
  with new_figure(path) as figure:
    rows = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (caption, metrics) in zip(rows, panels.items(), strict=True):
      for (name, label), line in zip(metrics.items(), itertools.cycle(_LINES)):
        known = [(row["step"], row[name]) for row in course if name in row]
        if known:
          axes.plot(*zip(*known, strict=True), line, marker=".", label=label)
      for step in breaks:
        axes.axvline(step, color=_BREAK_COLOR, linestyle=":")
      axes.set_ylabel(caption)
      axes.grid(visible=True)
      if len(metrics) > 1:
        axes.legend(frameon=False)
    rows[0].set_title(title)
    rows[-1].set_xlabel("Step")
  return pathlib.Path(path)


def plot_shares(
  shares: ArrayLike,
  path: str | os.PathLike[str],
  *,
  rows: Sequence[str],
  columns: Sequence[str],
  title: str = "Whom each anchor serves",
) -> pathlib.Path:
  """Draws a matrix of shares as a map of colours.

  Args:
    shares: Numbers from 0 on, [rows, columns].
    path: The PNG file to write, 1200 x 750 pixels.
    rows: Name of each row.
    columns: Name of each column.
    title: Text above the picture.

  Returns:
    The path of the file.

  Raises:
    ValueError: If the names do not fit the shares.
  """
  values = np.asarray(shares, float)
  if values.shape != (len(rows), len(columns)) or not values.size:
    raise ValueError(
      f"`shares` must have a row and a column for each name, {len(rows)} x "
      f"{len(columns)} of them, got the shape {values.shape}."
    )
  with new_figure(path) as figure:
    axes = figure.add_subplot()
    image = axes.imshow(values, cmap="Blues", aspect="auto", vmin=0)
    axes.set_xticks(
      range(len(columns)), labels=columns, rotation=60, ha="right"
    )
    axes.set_yticks(range(len(rows)), labels=rows)
    axes.set_title(title)
    figure.colorbar(image, ax=axes)
  return pathlib.Path(path)
