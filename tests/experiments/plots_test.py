"""Tests of the picture of size against quality."""

import itertools
import math

import matplotlib.figure
import numpy as np
import pytest
from matplotlib import image

from experiments.reporting import plot_frontier, plot_size_quality

ROWS = [
  {"embedding": "full", "embedding_bytes": 8_000_000, "test_perplexity": 183.4},
  {"embedding": "anchors", "embedding_bytes": 48_000, "test_perplexity": 178.7},
  {"embedding": "codes", "embedding_bytes": 47_000, "test_perplexity": 178.9},
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


def test_picture_is_written(tmp_path):
  path = plot_size_quality(ROWS, tmp_path / "new" / "plot.png")
  assert path == tmp_path / "new" / "plot.png"
  pixels = image.imread(path)
  assert pixels.shape == (750, 1200, 4)
  assert len(np.unique(pixels[..., 0])) > 10


def test_points_labels_and_line(tmp_path, figures):
  plot_size_quality(ROWS, tmp_path / "plot.png", title="A title")
  axes = figures[0].axes[0]
  assert [text.get_text() for text in axes.texts] == [
    row["embedding"] for row in ROWS
  ]
  points = [tuple(dots.get_offsets()[0]) for dots in axes.collections]
  assert points == [
    (row["embedding_bytes"], row["test_perplexity"]) for row in ROWS
  ]
  assert [line.get_ydata()[0] for line in axes.lines] == [183.4]
  assert axes.get_xscale() == "log"
  assert axes.get_title("left") == "A title"


def test_labels_do_not_overlap(tmp_path, figures):
  plot_size_quality(ROWS, tmp_path / "plot.png")
  axes = figures[0].axes[0]
  boxes = [text.get_window_extent() for text in axes.texts]
  for first, second in itertools.combinations(boxes, 2):
    assert not first.overlaps(second)
  assert all(axes.bbox.containsx(box.x0) for box in boxes)
  assert all(axes.bbox.containsx(box.x1) for box in boxes)


def test_columns_have_names(tmp_path, figures):
  rows = [{"name": "a", "nbytes": 10, "rmse": 0.9}]
  plot_size_quality(
    rows,
    tmp_path / "plot.png",
    label="name",
    size="nbytes",
    metric="rmse",
    metric_label="RMSE",
  )
  axes = figures[0].axes[0]
  assert axes.get_ylabel() == "RMSE"
  assert len(axes.lines) == 0


@pytest.mark.parametrize(
  ("largest", "expected"), [(4e3, "2 kB"), (2e9, "100 MB")]
)
def test_sizes_are_readable(tmp_path, figures, largest, expected):
  rows = [ROWS[0] | {"embedding_bytes": size} for size in (1e3, largest)]
  plot_size_quality(rows, tmp_path / "plot.png")
  axis = figures[0].axes[0].xaxis
  low, high = axis.get_view_interval()
  labels = [
    label
    for tick, label in zip(
      axis.get_majorticklocs(), axis.get_majorticklabels(), strict=True
    )
    if low <= tick <= high
  ]
  assert expected in [label.get_text() for label in labels]
  boxes = [label.get_window_extent() for label in labels]
  assert all(a.x1 < b.x0 for a, b in itertools.pairwise(boxes))


def test_equal_points_are_no_problem(tmp_path):
  plot_size_quality(ROWS[:1] * 14, tmp_path / "plot.png")


def test_diverged_runs_are_left_out(tmp_path, figures):
  rows = [*ROWS, ROWS[0] | {"embedding": "bad", "test_perplexity": math.nan}]
  plot_size_quality(rows, tmp_path / "plot.png")
  assert len(figures[0].axes[0].texts) == len(ROWS)


@pytest.mark.parametrize(
  "rows", [[], [ROWS[0] | {"test_perplexity": math.inf}]]
)
def test_results_are_needed(tmp_path, rows):
  with pytest.raises(ValueError, match="finite `test_perplexity`"):
    plot_size_quality(rows, tmp_path / "plot.png")


def test_sizes_must_be_positive(tmp_path):
  with pytest.raises(ValueError, match="`embedding_bytes` must be positive"):
    plot_size_quality([ROWS[0] | {"embedding_bytes": 0}], tmp_path / "plot.png")


def test_settings_of_the_user_stay(tmp_path):
  before = dict(matplotlib.rcParams)
  plot_size_quality(ROWS, tmp_path / "plot.png")
  assert dict(matplotlib.rcParams) == before


FRONTIER = [
  {"kind": "full", "embedding_bytes": 8000, "test_mse": 0.7},
  *(
    {
      "kind": kind,
      "embedding_bytes": size,
      "test_mse": mse,
      "test_mse_std": 0.01,
    }
    for kind, size, mse in (
      ("codes", 2000, 0.74),
      ("anchors", 1000, 0.75),
      ("anchors", 500, 0.8),
      ("codes", 250, 0.9),
    )
  ),
]


def test_frontier_has_a_line_for_each_kind(tmp_path, figures):
  path = plot_frontier(FRONTIER, tmp_path / "new" / "plot.png", title="Lines")
  assert image.imread(path).shape == (750, 1200, 4)
  axes = figures[0].axes[0]
  assert axes.get_xscale() == "log"
  assert axes.get_title("left") == "Lines"
  names = [text.get_text() for text in axes.get_legend().get_texts()]
  assert names == ["full", "codes", "anchors"]
  lines = {c.get_label(): c.lines[0].get_xydata() for c in axes.containers}
  np.testing.assert_array_equal(lines["anchors"], [[500, 0.8], [1000, 0.75]])
  np.testing.assert_array_equal(lines["codes"], [[250, 0.9], [2000, 0.74]])


def test_frontier_has_error_bars(tmp_path, figures):
  plot_frontier(FRONTIER, tmp_path / "plot.png")
  containers = figures[0].axes[0].containers
  bars = [c.lines[2][0].get_segments() for c in containers]
  half = [
    np.ptp(segment[:, 1]) / 2 for segments in bars for segment in segments
  ]
  np.testing.assert_allclose(half, [0, 0.01, 0.01, 0.01, 0.01], atol=1e-12)


@pytest.mark.parametrize(("baseline", "expected"), [("full", [0.7]), ("x", [])])
def test_frontier_marks_the_baseline(tmp_path, figures, baseline, expected):
  plot_frontier(FRONTIER, tmp_path / "plot.png", baseline=baseline)
  lines = [
    line for line in figures[0].axes[0].lines if line.get_linestyle() == "--"
  ]
  assert [line.get_ydata()[0] for line in lines] == expected


def test_frontier_of_one_row(tmp_path):
  assert plot_frontier(FRONTIER[:1], tmp_path / "plot.png").exists()


def test_frontier_leaves_out_what_diverged(tmp_path, figures):
  bad = FRONTIER[1] | {"kind": "bad", "test_mse": math.nan}
  plot_frontier([*FRONTIER, bad], tmp_path / "plot.png")
  assert len(figures[0].axes[0].containers) == 3


def test_frontier_refuses_what_cannot_be_drawn(tmp_path):
  path = tmp_path / "plot.png"
  with pytest.raises(ValueError, match="finite `test_mse`"):
    plot_frontier([], path)
  with pytest.raises(ValueError, match="`embedding_bytes` must be positive"):
    plot_frontier([FRONTIER[0] | {"embedding_bytes": 0}], path)
  assert not path.exists()
