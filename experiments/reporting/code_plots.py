"""Pictures of codes: the use of their digits, and how many still change."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from experiments.reporting.anchor_plots import plot_courses
from experiments.reporting.style import new_figure

_BAR_COLOR = "#1f5fa8"
_LIMIT_COLOR = "#c0392b"
_CHANGES = {
  "Changed in an epoch": {
    "changed_codes": "of the codes",
    "changed_digits": "of the digits of a changed code",
  },
  "Codes for each symbol": {"unique_codes": "different codes"},
  "Entries without a symbol": {"dead_codes": "dead entries"},
}


def plot_use(
  usage: ArrayLike,
  path: str | os.PathLike[str],
  *,
  entropies: Sequence[float],
  title: str = "How the symbols use the digits of their codes",
) -> pathlib.Path:
  """Draws the shares of the values of each digit as a map, and entropies below.

  Args:
    usage: Number of symbols for each value of each digit, [code_length,
      codebook_size], none negative.
    path: The PNG file to write, 1200 x 750 pixels.
    entropies: Entropy of each digit in bits; a line marks the largest possible.
    title: Text above the picture.

  Returns:
    The path of the file.

  Raises:
    ValueError: If there is not one entropy for each digit.
  """
  counts = np.asarray(usage, float)
  if counts.ndim != 2 or len(counts) != len(entropies) or not counts.size:
    raise ValueError(
      "`entropies` must have an entry for each digit of `usage`, got "
      f"{len(entropies)} and the shape {counts.shape}."
    )
  shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
  with new_figure(path) as figure:
    upper, lower = figure.subplots(
      2, 1, sharex=True, gridspec_kw={"height_ratios": [3, 1]}
    )
    _draw_map(figure, upper, shares)
    upper.set_title(title)
    lower.bar(range(len(entropies)), entropies, color=_BAR_COLOR)
    limit = np.log2(counts.shape[1])
    lower.axhline(limit, color=_LIMIT_COLOR, linestyle=":")
    lower.set_ylim(0, 1.1 * limit)
    lower.set(xlabel="Digit", ylabel="Entropy (bits)")
  return pathlib.Path(path)


def _draw_map(figure: Any, axes: Any, shares: np.ndarray) -> None:
  """Draws the share of each value as a colour, dead entries as white."""
  # A missing value has no colour: a rare one is not to look like a dead one.
  alive = np.ma.masked_equal(shares.T, 0)
  image = axes.imshow(
    alive,
    cmap="viridis_r",
    aspect="auto",
    interpolation="nearest",
    vmin=0,
    origin="lower",
  )
  axes.set_ylabel("Value of the digit")
  figure.colorbar(image, ax=axes, label="Share of the symbols")


def plot_changes(
  course: Sequence[Mapping[str, float]],
  path: str | os.PathLike[str],
  *,
  title: str = "How the codes settle",
) -> pathlib.Path:
  """Draws what changed from epoch to epoch against the step.

  Args:
    course: The metrics of a :class:`CodeHistory
      <experiments.reporting.code_history.CodeHistory>` and the `step`, at least
      one epoch; the first epoch may have no changes.
    path: The PNG file to write, 1200 x 750 pixels.
    title: Text above the picture.

  Returns:
    The path of the file.

  Raises:
    ValueError: If there are no metrics.
  """
  return plot_courses(course, path, panels=_CHANGES, title=title)
