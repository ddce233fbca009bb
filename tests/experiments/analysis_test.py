"""Tests of the analyses; of the runs they look at, most are made up."""

import dataclasses
import doctest
import importlib
import json
import pathlib
import pkgutil
import types

import jax
import matplotlib.figure
import numpy as np
import pytest
from matplotlib import image

from anchor_codes import tables
from experiments import analysis, nonparametric, online, recommending, reporting
from experiments.analysis import l1_path, neighbors, runs, surface, trajectory
from experiments.datasets import movies
from experiments.reporting import anchor_plots

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
MODULES = [m.name for m in pkgutil.iter_modules(analysis.__path__)]
LEARNED = {"num_anchors_users": 3, "num_anchors_items": 2, "objective": 0.7}
TITLES = {
  "item 0": movies.Movie("Heat (1995)", ("Crime", "Drama")),
  "item 1": movies.Movie("Fargo (1996)", ("Drama",)),
}


@pytest.fixture(autouse=True, scope="module")
def _usual_promotion():
  # Optax mixes types.
  with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
    yield


@pytest.fixture(autouse=True, scope="module")
def _keep_compiled():
  """Runs here are few: what they compiled is for the next ones too."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(jax, "clear_caches", lambda: None)
    yield


@pytest.fixture(name="data", scope="module")
def fixture_data():
  return runs.load("synthetic", quick=True)


@pytest.fixture(name="run", scope="module")
def fixture_run(data, tmp_path_factory):
  """A run that has been trained: its folder, options and record."""
  folder = tmp_path_factory.mktemp("run")
  config = runs.make_config(data.name, quick=True, num_anchors=3, l1=1e-5)
  return folder, config, runs.run_once(config, data, folder)


@pytest.fixture(name="figures")
def fixture_figures(monkeypatch):
  """Keeps the figures instead of writing files."""
  kept = []
  monkeypatch.setattr(
    matplotlib.figure.Figure,
    "savefig",
    lambda figure, *args, **kwargs: kept.append(figure),
  )
  return kept


@pytest.fixture(name="made_up")
def fixture_made_up(monkeypatch):
  """Takes the place of training; returns the options of all runs."""
  configs = []

  def run_once(config, data, workdir):
    del data, workdir
    configs.append(config)
    users = config.num_anchors
    items = config.item_anchors or users
    learned = LEARNED if config.rule else {}
    mse = 1 / (users + items) + config.l1
    return types.SimpleNamespace(
      metrics={"valid_mse": mse, "test_mse": mse, **learned},
      config=dataclasses.asdict(config),
      num_anchors=users + items,
      embedding_params=500,
      embedding_bytes=1000 + config.max_nonzeros,
    )

  monkeypatch.setattr(runs, "run_once", run_once)
  monkeypatch.setattr(runs, "read_course", lambda workdir: course())
  return configs


def course(*, time_batches=(), objective=0.8):
  """Makes up the metrics of three epochs."""
  rows = [
    {
      "step": 10.0 * (number + 1),
      "valid_mse": 0.9 - number / 10,
      "num_anchors_users": 4.0 - number,
      "num_anchors_items": 2.0,
      "num_nonzeros": 100.0,
      "objective": objective,
    }
    for number in range(3)
  ]
  for row, time in zip(rows, time_batches, strict=False):
    row["time_batch"] = time
  return rows


def write_course(folder, rows):
  with reporting.MetricsWriter(folder) as writer:
    for row in rows:
      metrics = {name: value for name, value in row.items() if name != "step"}
      writer.write(int(row["step"]) - 5, {"train_mse": 1.0})
      writer.write(int(row["step"]), metrics)


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
  module = importlib.import_module(f"{analysis.__name__}.{name}")
  assert doctest.testmod(module, optionflags=FLAGS).failed == 0


def test_a_run_leaves_its_record(run, data):
  folder, config, result = run
  assert (folder / "result.json").exists()
  assert len(runs.read_course(folder)) == config.epochs
  assert result.num_anchors == 6
  tables_of_run = [tables.load(f) for f in folder.glob("*.safetensors")]
  nonzeros = sum(np.count_nonzero(t.to_transform()) for t in tables_of_run)
  assert runs.num_nonzeros(result) == nonzeros > 0
  assert runs.objective(result, anchor_penalty=0.1) == pytest.approx(
    result.metrics["valid_mse"] + 1e-5 * nonzeros + 0.6 - 6e-5
  )


def test_a_record_of_the_same_options_is_read(run, data, monkeypatch):
  folder, config, result = run
  trained = []
  monkeypatch.setattr(
    recommending,
    "train_and_evaluate",
    lambda config, workdir, **options: trained.append(options["run_type"]),
  )
  again = runs.run_once(config, data, folder)
  assert (again.metrics, trained) == (dict(result.metrics), [])
  runs.run_once(dataclasses.replace(config, seed=1), data, folder)
  assert trained == [recommending.Run]


@pytest.mark.parametrize(
  ("options", "run_type"),
  [
    ({}, recommending.Run),
    ({"rule": "trend"}, nonparametric.NonparametricRun),
    ({"rule": "marginal", "online_batches": 2}, online.OnlineRun),
  ],
)
def test_options_choose_the_run(options, run_type, data, tmp_path, monkeypatch):
  monkeypatch.setattr(
    recommending,
    "train_and_evaluate",
    lambda config, workdir, *, data, run_type: run_type,
  )
  config = runs.make_config(data.name, **options)
  assert runs.run_once(config, data, tmp_path) is run_type


def test_options_of_the_caller_win():
  config = runs.make_config("synthetic", quick=True, epochs=9, embedding="full")
  assert (config.epochs, config.embedding) == (9, "full")
  assert config.batch_size == runs.QUICK["batch_size"]
  assert runs.make_config("synthetic").embedding == "anchors"


def test_only_ends_of_epochs_are_read(tmp_path):
  write_course(tmp_path, course())
  assert runs.read_course(tmp_path) == course()
  with pytest.raises(FileNotFoundError):
    runs.read_course(tmp_path / "nothing")


def test_surface_is_a_grid_and_a_path(made_up, data, tmp_path, figures):
  found = surface.draw_surface(
    data, tmp_path, user_sizes=(2, 4), item_sizes=(2, 8), features=4
  )
  assert sorted(found) == [(2, 2), (2, 8), (4, 2), (4, 8)]
  assert [c.rule for c in made_up] == ["marginal", "", "", "", ""]
  assert {c.epochs for c in made_up[1:]} == {3}
  assert {c.features for c in made_up} == {4}
  assert {c.l1 for c in made_up} == {1e-7}
  axes = figures[0].axes[0]
  assert axes.get_title().startswith("The objective")
  path = axes.lines[0].get_data_3d()
  np.testing.assert_allclose(path[0], np.log2([4, 3, 2]))
  np.testing.assert_allclose(path[2], [0.8, 0.8, 0.8])
  text = (tmp_path / "surface.md").read_text()
  assert "| 4 of users |" in text
  assert "Learned: 3 + 2, objective 0.7000." in text


def test_best_of_the_surface_is_named():
  learned = types.SimpleNamespace(metrics=LEARNED)
  points = {(2, 2): 0.9, (2, 4): 0.6, (4, 2): 0.8, (4, 4): 0.7}
  text = surface.report(points, learned)
  assert "The best of the grid: 2 + 4, objective 0.6000." in text


@pytest.mark.parametrize(
  "points", [{(2, 2): 1.0, (2, 4): 1.0}, {(2, 2): 1.0, (4, 4): 1.0}]
)
def test_surface_needs_a_grid(points, tmp_path):
  with pytest.raises(ValueError, match=r"must be a grid.*got 2 points"):
    anchor_plots.plot_surface(points, tmp_path / "plot.png")


def test_l1_path_has_prices_and_budgets(made_up, data, tmp_path, figures):
  cells = l1_path.draw_path(
    data, tmp_path, l1=(0.0, 0.1), max_nonzeros=(50,), features=4
  )
  assert [(c["kind"], c["value"]) for c in cells] == [
    ("l1", "0"),
    ("l1", "0.1"),
    ("max_nonzeros", "50"),
  ]
  assert [(c.l1, c.max_nonzeros) for c in made_up] == [
    (0, 0),
    (0.1, 0),
    (0, 50),
  ]
  # 16 anchors of users and of items, of 4 features each.
  assert cells[0]["nonzeros"] == 500 - 32 * 4
  assert len(figures) == 1
  assert "| max_nonzeros |" in (tmp_path / "l1_path.md").read_text()


def test_l1_path_needs_a_value(data, tmp_path):
  with pytest.raises(ValueError, match="must hold a value, got none"):
    l1_path.draw_path(data, tmp_path, l1=(), max_nonzeros=())


def test_trajectory_offline(tmp_path, figures):
  write_course(tmp_path, course())
  assert trajectory.draw_trajectory(tmp_path) == course()
  panels = figures[0].axes
  assert [axes.get_ylabel() for axes in panels] == list(trajectory.PANELS)
  assert [len(axes.lines) for axes in panels] == [2, 1, 1]
  np.testing.assert_array_equal(panels[0].lines[0].get_ydata(), [4, 3, 2])
  np.testing.assert_array_equal(panels[2].lines[0].get_xdata(), [10, 20, 30])
  text = (tmp_path / "trajectory.md").read_text()
  assert "Time" not in text
  assert len(text.splitlines()) == 5


def test_trajectory_online(tmp_path, figures):
  write_course(tmp_path / "run", course(time_batches=(0, 1, 1)))
  trajectory.draw_trajectory(tmp_path / "run", tmp_path / "out")
  dotted = figures[0].axes[0].lines[-1]
  assert (dotted.get_linestyle(), dotted.get_xdata()[0]) == (":", 10)
  assert "Time" in (tmp_path / "out" / "trajectory.md").read_text()


def test_trajectory_needs_a_learned_number(tmp_path):
  write_course(tmp_path, [{"step": 10, "valid_mse": 0.9}])
  with pytest.raises(ValueError, match="must hold a run with a `rule`"):
    trajectory.draw_trajectory(tmp_path)
  with pytest.raises(ValueError, match="metrics of an epoch, got none"):
    anchor_plots.plot_courses([], tmp_path / "plot.png", panels={})


def test_quick_trajectories_are_offline_and_online(made_up, data, tmp_path):
  folders = trajectory.train_quickly(data, tmp_path)
  assert [pathlib.Path(f).name for f in folders] == ["offline", "online"]
  assert [c.online_batches for c in made_up] == [0, 2]
  # Trajectories of such runs are drawn where they are trained.
  for config in made_up:
    recommending.check_config(config)


def test_neighbors_of_a_trained_table(run, tmp_path):
  path = run[0] / "items.safetensors"
  record = neighbors.describe_table(path, tmp_path, top=4)
  written = json.loads((tmp_path / "neighbors.json").read_text())
  assert written == json.loads(json.dumps(record))
  assert record["num_anchors"] == len(record["nearest"]) == 3
  assert {len(found) for found in record["nearest"]} == {4}
  table = tables.load(path)
  name, cosine = record["nearest"][0][0]
  vector = table.lookup(np.array([table.vocabulary.index(name)]))[0]
  lengths = np.linalg.norm(vector) * np.linalg.norm(table.anchors[0])
  assert cosine == pytest.approx(vector @ table.anchors[0] / lengths, rel=1e-4)
  text = (tmp_path / "neighbors.md").read_text()
  assert "Nearest (cosine)" in text
  assert "40 rows with" in text
  assert image.imread(tmp_path / "neighbors.png").shape == (750, 1200, 4)


def test_neighbors_with_genres(run, tmp_path, figures):
  path = run[0] / "items.safetensors"
  record = neighbors.describe_table(path, tmp_path, known=TITLES)
  purities = [anchor["purity"] for anchor in record["anchors"]]
  assert any(purity is not None for purity in purities)
  axes = figures[0].axes[0]
  labels = {label.get_text() for label in axes.get_xticklabels()}
  assert labels == {"Crime", "Drama"}
  assert "item 2" in (tmp_path / "neighbors.json").read_text()


def test_rare_symbols_may_be_left_out(run, tmp_path, figures):
  path = run[0] / "items.safetensors"
  counts = {"item 3": 5, "item 7": 9, "item 9": 4}
  options = {"counts": counts, "min_count": 5}
  record = neighbors.describe_table(path, tmp_path, **options)
  assert record["num_embeddings"] == 2
  named = {name for found in record["nearest"] for name, _ in found}
  assert named == {"item 3", "item 7"}
  vectors = dict(record["nearest"][0])
  whole = neighbors.describe_table(path, tmp_path, top=40)["nearest"][0]
  assert vectors["item 3"] == pytest.approx(dict(whole)["item 3"], abs=1e-5)
  assert len(figures) == 2
  with pytest.raises(ValueError, match="must leave a row"):
    neighbors.describe_table(path, tmp_path, counts=counts, min_count=10)


def test_rarest_genre_is_the_label():
  names = ["item 1", "item 0", "<unseen>"]
  symbols = neighbors.describe_movies(names, TITLES)
  assert symbols.names == ["Fargo (1996)", "Heat (1995)", "<unseen>"]
  assert symbols.labels == ["Drama", "Crime", None]


def test_rows_and_anchors_of_zeros_have_no_direction():
  table = tables.AnchorTable(
    np.array([[1.0, 0.0], [0.0, 0.0]], np.float32),
    weights=np.array([[1, 0], [0, 0]], np.float32),
  )
  nearest = neighbors.nearest_symbols(table, ["a", "b"])
  assert nearest == [[("a", 1.0), ("b", 0.0)], [("a", 0.0), ("b", 0.0)]]
  known, shares = neighbors.label_shares(table, ["x", None])
  assert (known, shares.tolist()) == (["x"], [[1.0], [0.0]])


def test_neighbors_need_anchors(tmp_path):
  path = tmp_path / "table.safetensors"
  tables.DenseTable(np.ones((3, 2), np.float32)).save(path)
  with pytest.raises(ValueError, match="must hold anchors, got DenseTable"):
    neighbors.describe_table(path, tmp_path)


@pytest.mark.parametrize("shares", [np.ones((2, 1)), np.ones((0, 2))])
def test_shares_have_names(shares, tmp_path):
  with pytest.raises(ValueError, match="a row and a column for each name"):
    anchor_plots.plot_shares(
      shares, tmp_path / "plot.png", rows=["a"] * len(shares), columns=["b"] * 2
    )


@pytest.mark.parametrize("name", ["surface", "courses", "shares"])
def test_pictures_are_files(name, tmp_path):
  path = tmp_path / "new" / f"{name}.png"
  points = {(u, i): u * i / 9 for u in (2, 4) for i in (2, 4, 8)}
  if name == "surface":
    written = anchor_plots.plot_surface(points, path, course=[(2, 2, 0.5)])
  elif name == "courses":
    panels = trajectory.PANELS
    written = anchor_plots.plot_courses(course(), path, panels=panels)
  else:
    written = anchor_plots.plot_shares(
      np.eye(2), path, rows=["a", "b"], columns=["c", "d"]
    )
  assert written == path
  assert image.imread(path).shape == (750, 1200, 4)
