"""Tests of the pictures of tables."""

import itertools
import math

import matplotlib.figure
import numpy as np
import pytest
from matplotlib import image

from experiments.reporting import Picture, marks, plot_table, write_table
from experiments.reporting.style import BASELINE_COLOR, COLORS

POINTS = Picture(
  title="A title",
  value="ppl",
  caption="Perplexity",
  label=("name",),
  x="nbytes",
  baseline="full",
)
LINES = Picture(
  title="Lines",
  value="mse",
  caption="MSE",
  lines=("kind",),
  x="nbytes",
  baseline="full",
)
BARS = Picture(title="Bars", value="ms", caption="ms", label=("task", "name"))
ROWS = [
  {"name": "full", "nbytes": 8_000_000, "ppl": 183.4},
  {"name": "anchors", "nbytes": 48_000, "ppl": "178.7 ± 0.5"},
  {"name": "codes", "nbytes": "47,000", "ppl": 178.9},
]
FRONTIER = [
  {"kind": "full", "nbytes": 8000, "mse": 0.7},
  {"kind": "codes", "nbytes": 2000, "mse": "0.74 ± 0.01"},
  {"kind": "anchors", "nbytes": 1000, "mse": "0.75 ± 0.01"},
  {"kind": "anchors", "nbytes": 500, "mse": "0.80 ± 0.01"},
  {"kind": "codes", "nbytes": 250, "mse": "0.90 ± 0.01"},
]
TIMES = [
  {"task": "lookup", "name": "full", "ms": 2.0},
  {"task": "lookup", "name": "codes", "ms": 14.25},
]


def many(number):
  rng = np.random.default_rng(0)
  return [
    {"name": f"row {i}", "nbytes": 10 ** rng.uniform(4, 7), "ppl": rng.random()}
    for i in range(number)
  ]


@pytest.fixture(name="figures")
def fixture_figures(monkeypatch):
  """Keeps the figures that are saved."""
  kept = []
  save = matplotlib.figure.Figure.savefig

  def keep(figure, *args, **kwargs):
    kept.append(figure)
    return save(figure, *args, **kwargs)

  monkeypatch.setattr(matplotlib.figure.Figure, "savefig", keep)
  return kept


def labels_of(axes):
  return [text for text in axes.texts if text.get_text()]


def check_labels(axes, *, most_overlaps=0):
  """Checks that the labels are inside, and apart."""
  boxes = [text.get_window_extent() for text in labels_of(axes)]
  for box in boxes:
    assert axes.bbox.x0 <= box.x0 <= box.x1 <= axes.bbox.x1
    assert axes.bbox.y0 <= box.y0 <= box.y1 <= axes.bbox.y1
  pairs = itertools.combinations(boxes, 2)
  assert sum(one.overlaps(other) for one, other in pairs) <= most_overlaps


def test_table_and_picture_are_written(tmp_path):
  write_table(tmp_path / "new" / "table", ROWS, {"name": "Name"}, POINTS)
  folder = tmp_path / "new"
  assert sorted(path.name for path in folder.iterdir()) == [
    "table.md",
    "table.png",
  ]
  assert (folder / "table.md").read_text().startswith("| Name    |\n| -------")
  pixels = image.imread(folder / "table.png")
  assert pixels.shape == (750, 1200, 4)
  assert len(np.unique(pixels[..., 0])) > 10


def test_an_old_picture_stays_if_the_new_one_fails(tmp_path, monkeypatch):
  path = plot_table(ROWS, tmp_path / "plot.png", POINTS)
  before = path.read_bytes()

  def fail(*args, **kwargs):
    raise OSError("disk full")

  monkeypatch.setattr(matplotlib.figure.Figure, "savefig", fail)
  with pytest.raises(OSError, match="disk full"):
    plot_table(ROWS[:1], path, POINTS)
  assert path.read_bytes() == before
  assert list(tmp_path.iterdir()) == [path]


def test_points_labels_and_baseline(tmp_path, figures):
  plot_table(ROWS, tmp_path / "plot.png", POINTS)
  (axes,) = figures[0].axes
  names = [text.get_text() for text in labels_of(axes)]
  assert names == ["full", "anchors", "codes"]
  points = [
    tuple(dots.get_offsets()[0])
    for dots in axes.collections
    if hasattr(dots, "get_sizes")  # Error bars are lines.
  ]
  assert points == [(8_000_000, 183.4), (48_000, 178.7), (47_000, 178.9)]
  (line,) = [line for line in axes.lines if line.get_linestyle() == "--"]
  assert line.get_ydata()[0] == 183.4
  assert axes.get_xscale() == "log"
  assert axes.get_title("left") == "A title"
  assert axes.get_ylabel() == "Perplexity"
  check_labels(axes)


@pytest.mark.parametrize("number", [1, 2, 40])
def test_labels_are_inside_the_axes(tmp_path, figures, number):
  plot_table(many(number), tmp_path / "plot.png", POINTS)
  (axes,) = figures[0].axes
  assert len(labels_of(axes)) == number
  check_labels(axes)


def test_equal_points_are_no_problem(tmp_path, figures):
  plot_table(ROWS[:1] * 14, tmp_path / "plot.png", POINTS)
  check_labels(figures[0].axes[0])


@pytest.mark.parametrize(
  ("largest", "expected"), [(4e3, "2 kB"), (2e9, "100 MB")]
)
def test_sizes_are_readable(tmp_path, figures, largest, expected):
  rows = [ROWS[0] | {"nbytes": size} for size in (1e3, largest)]
  plot_table(rows, tmp_path / "plot.png", POINTS)
  axis = figures[0].axes[0].xaxis
  low, high = axis.get_view_interval()
  ticks = zip(axis.get_majorticklocs(), axis.get_majorticklabels(), strict=True)
  labels = [label for tick, label in ticks if low <= tick <= high]
  assert expected in [label.get_text() for label in labels]
  boxes = [label.get_window_extent() for label in labels]
  assert all(a.x1 < b.x0 for a, b in itertools.pairwise(boxes))


@pytest.mark.parametrize("picture", [POINTS, LINES, BARS])
@pytest.mark.parametrize(
  "rows", [[], [{"name": "a"}], [{"ppl": math.nan, "mse": None, "ms": "-"}]]
)
def test_nothing_to_draw_is_said(tmp_path, figures, picture, rows):
  assert plot_table(rows, tmp_path / "plot.png", picture).exists()
  (text,) = labels_of(figures[0].axes[0])
  assert text.get_text() == "nothing finite to draw"


@pytest.mark.parametrize(
  "bad",
  [{"ppl": math.nan}, {"ppl": None}, {"ppl": "-"}, {"nbytes": 0}, {"x": 1}],
)
def test_what_cannot_be_drawn_is_left_out(tmp_path, figures, bad):
  row = bad if "x" in bad else ROWS[1] | bad
  plot_table([*ROWS, row], tmp_path / "plot.png", POINTS)
  assert len(labels_of(figures[0].axes[0])) == len(ROWS)


def test_a_log_scale_leaves_out_what_is_not_positive():
  picture = Picture(title="", value="v", caption="", log=True)
  found = marks.read_marks([{"v": 0.0}, {"v": -1}, {"v": 2}], picture)
  assert [mark.value for mark in found[""]] == [2]


def test_settings_of_the_user_stay(tmp_path):
  before = dict(matplotlib.rcParams)
  plot_table(ROWS, tmp_path / "plot.png", POINTS)
  assert dict(matplotlib.rcParams) == before


def test_a_line_for_each_kind(tmp_path, figures):
  plot_table(FRONTIER, tmp_path / "plot.png", LINES)
  (axes,) = figures[0].axes
  lines = {c.get_label(): c.lines[0] for c in axes.containers}
  assert list(lines) == ["full", "codes", "anchors"]
  found = {name: line.get_xydata().tolist() for name, line in lines.items()}
  assert found["anchors"] == [[500, 0.8], [1000, 0.75]]
  assert found["codes"] == [[250, 0.9], [2000, 0.74]]
  assert lines["full"].get_color() == BASELINE_COLOR
  assert lines["codes"].get_color() == COLORS[0]
  # Names in the colours of their lines, in place of a legend.
  assert axes.get_legend() is None
  colors = {text.get_text(): text.get_color() for text in labels_of(axes)}
  assert colors == {name: line.get_color() for name, line in lines.items()}
  check_labels(axes)


def test_lines_have_error_bars(tmp_path, figures):
  plot_table(FRONTIER, tmp_path / "plot.png", LINES)
  containers = figures[0].axes[0].containers
  bars = [c.lines[2][0].get_segments() for c in containers]
  half = [
    np.ptp(segment[:, 1]) / 2 for segments in bars for segment in segments
  ]
  np.testing.assert_allclose(half, [0, 0.01, 0.01, 0.01, 0.01], atol=1e-12)


def test_chosen_numbers_are_their_own_ticks(tmp_path, figures):
  rows = [{"kind": "a", "nbytes": n, "mse": n} for n in (1, 2, 6)]
  picture = Picture(
    title="", value="mse", caption="", lines=("kind",), x="nbytes", x_unit=""
  )
  plot_table(rows, tmp_path / "plot.png", picture)
  ticks = figures[0].axes[0].get_xticklabels()
  assert [tick.get_text() for tick in ticks] == ["1", "2", "6"]


def test_panels_have_their_names(tmp_path, figures):
  rows = [row | {"data": name} for name in ("ml_1m", "video") for row in ROWS]
  picture = Picture(
    title="Both", value="ppl", caption="", label=("name",), x="nbytes",
    panel="data",
  )  # fmt: skip
  plot_table(rows, tmp_path / "plot.png", picture)
  titles = [axes.get_title("left") for axes in figures[0].axes]
  assert titles == ["ml 1m", "video"]
  assert figures[0].get_suptitle() == "Both"
  for axes in figures[0].axes:
    check_labels(axes)


@pytest.mark.parametrize("from_zero", [False, True])
def test_bars_have_names_and_numbers(tmp_path, figures, from_zero):
  picture = Picture(
    title="", value="ms", caption="ms", label=("task", "name"),
    from_zero=from_zero,
  )  # fmt: skip
  plot_table(TIMES, tmp_path / "plot.png", picture)
  (axes,) = figures[0].axes
  names = [label.get_text() for label in axes.get_yticklabels()]
  assert names == ["lookup, full", "lookup, codes"]
  assert [text.get_text() for text in labels_of(axes)] == ["2.00", "14.25"]
  assert len(axes.patches) == 2 * from_zero
  assert axes.yaxis_inverted()
  check_labels(axes)


def test_bars_make_room_for_their_rows(tmp_path):
  rows = [{"task": "a", "name": f"row {i}", "ms": i} for i in range(40)]
  heights = [
    image.imread(plot_table(part, tmp_path / "plot.png", BARS)).shape[0]
    for part in (rows[:2], rows)
  ]
  assert heights[0] < 400
  assert heights[1] > 1300


def test_known_values_stand_beside(tmp_path, figures):
  picture = Picture(
    title="", value="mse", caption="", label=("name",), known="known"
  )
  rows = [
    {"name": "a", "mse": 0.5, "known": "0.6"},
    {"name": "b", "mse": 0.5, "known": None},
  ]
  plot_table(rows, tmp_path / "plot.png", picture)
  (tick,) = figures[0].axes[0].lines
  assert tick.get_xydata().tolist() == [[0.6, 0]]


@pytest.mark.parametrize(
  ("cell", "expected"),
  [
    (3, (3.0, 0.0)),
    ("1,234.5", (1234.5, 0.0)),
    ("15.6 %", (15.6, 0.0)),
    ("-2 ± .5", (-2.0, 0.0)),
    ("1e-3 ± 2e-4", (1e-3, 2e-4)),
    (True, (math.nan, 0.0)),
    ("nan", (math.nan, 0.0)),
    ("", (math.nan, 0.0)),
  ],
)
def test_cells_are_read(cell, expected):
  np.testing.assert_array_equal(marks.read_cell(cell), expected)


@pytest.mark.parametrize(
  ("spread", "row", "expected"),
  [
    (("std",), {"std": 0.1}, (0.1, 0.1)),
    (("low", "high"), {"low": 0.9, "high": 1.25}, (0.1, 0.25)),
    (("low", "high"), {"low": 1.5, "high": None}, (0.0, 0.0)),
  ],
)
def test_spreads_are_read(spread, row, expected):
  picture = Picture(title="", value="v", caption="", spread=spread)
  (mark,) = marks.read_marks([{"v": 1.0, **row}], picture)[""]
  np.testing.assert_allclose((mark.below, mark.above), expected)
