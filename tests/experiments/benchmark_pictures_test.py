"""Tests that every table that is printed has a picture."""

import dataclasses
import importlib
import inspect
import pkgutil

import pytest

import experiments.analysis
import experiments.benchmarks
from experiments import compare, reporting
from experiments.benchmarks import shared_factorization, shared_ranking

# One row of different quantities, of which no picture tells more.
WITHOUT = {"compress_scale"}
# By functions of their own, which their tests look at.
DRAWN_OTHERWISE = {"codes", "neighbors", "surface", "trajectory"}


def modules():
  for package in (experiments.benchmarks, experiments.analysis):
    for found in pkgutil.iter_modules(package.__path__):
      module = importlib.import_module(f"{package.__name__}.{found.name}")
      if "format_table" in inspect.getsource(module) or hasattr(
        module, "COLUMNS"
      ):
        yield found.name, module


MODULES = {
  name: module
  for name, module in modules()
  if name not in WITHOUT | DRAWN_OTHERWISE
}


def check_picture(picture, columns=None):
  assert picture.title
  assert picture.caption
  assert picture.label or picture.lines is not None
  if columns is not None and picture.value in columns:
    assert columns[picture.value]


def test_the_list_is_not_empty():
  assert {"train_step", "serve", "l1_path", "recommender_frontier"} <= set(
    MODULES
  )


@pytest.mark.parametrize("name", sorted(set(MODULES) - {"shared_recommenders"}))
def test_every_table_declares_its_picture(name):
  module = MODULES[name]
  assert isinstance(module.PICTURE, reporting.Picture)
  check_picture(module.PICTURE, getattr(module, "COLUMNS", None))
  source = inspect.getsource(module)
  assert "write_table(" in source or "plot_table(" in source


@pytest.mark.parametrize("name", sorted(DRAWN_OTHERWISE))
def test_what_is_drawn_otherwise_is_drawn(name):
  module = importlib.import_module(f"experiments.analysis.{name}")
  assert "_plots." in inspect.getsource(module)


def test_pictures_of_two_tables():
  check_picture(compare.PICTURE, reporting.COLUMNS)
  for module in (shared_factorization, shared_ranking):
    for part in ("published", "tuned"):
      picture = module.BENCHMARK.picture(part)
      check_picture(picture)
      assert part in picture.title
  lower = shared_factorization.BENCHMARK.picture("tuned").caption
  assert "lower is better" in lower
  assert "higher is better" in shared_ranking.BENCHMARK.picture("tuned").caption


@pytest.mark.parametrize(
  "name",
  ["language_model_codes", "sharded", "train_step", "sharing_cost", "compress"],
)
def test_declared_pictures_can_be_drawn(name, tmp_path):
  picture = MODULES[name].PICTURE
  row = {
    column: f"{number + 1}" for number, column in enumerate(picture.columns)
  }
  path = reporting.plot_table([row], tmp_path / "plot.png", picture)
  assert path.stat().st_size > 5000


def test_a_picture_stays_as_it_is():
  with pytest.raises(dataclasses.FrozenInstanceError):
    compare.PICTURE.title = "another"
