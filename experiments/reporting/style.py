"""The looks that all pictures share: fonts and colours, and how they end."""

import contextlib
import io
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from experiments.reporting.files import write_atomically

if TYPE_CHECKING:
  from matplotlib.figure import Figure

COLORS = (
  "#0072b2",
  "#d55e00",
  "#009e73",
  "#cc79a7",
  "#e69f00",
  "#56b4e9",
  "#6a4c93",
  "#8c6d31",
)
"""Colours of lines. The first six are those of Okabe and Ito, which people with
any kind of colour vision can tell apart; their yellow is too pale on white."""
BASELINE_COLOR = "#2c3e50"
"""Of what the others are measured against."""
FAINT_COLOR = "#7f8c8d"
"""Of frames, and of what only guides the eye."""
MARKERS = "osD^vPX*"
"""Markers of lines, so that a print without colours can be read too."""
SIZE = (12.0, 7.5)
"""Inches of a picture, of 100 pixels each."""

_STYLE: dict[Any, Any] = {
  "font.size": 13,
  "axes.titlesize": 17,
  "axes.titleweight": "bold",
  "axes.titlelocation": "left",
  "axes.titlepad": 14,
  "axes.labelsize": 14,
  "axes.spines.top": False,
  "axes.spines.right": False,
  "axes.edgecolor": FAINT_COLOR,
  "grid.color": "#dfe4e8",
  "figure.constrained_layout.w_pad": 0.2,
  "figure.constrained_layout.h_pad": 0.2,
}


@contextlib.contextmanager
def new_figure(
  path: str | os.PathLike[str], *, size: tuple[float, float] = SIZE
) -> Iterator["Figure"]:
  """Gives an empty figure to draw on, and writes it in the end.

  Args:
    path: The PNG file to write, whole or not at all; its folder is made if
      missing.
    size: Width and height in inches, of 100 pixels each.

  Yields:
    The figure.
  """
  # Not by pyplot, which keeps global state and looks for a screen. Imported
  # here, for it takes longer than all the rest.
  import matplotlib
  from matplotlib import rcsetup
  from matplotlib.figure import Figure

  colors = rcsetup.cycler(color=COLORS)
  with matplotlib.rc_context({**_STYLE, "axes.prop_cycle": colors}):
    figure = Figure(figsize=size, dpi=100, layout="constrained")
    yield figure
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
  write_atomically(path, buffer.getvalue())
