"""Tests of matrices of very small and very large values."""

from typing import Any

import numpy as np
import pytest

from anchor_codes import compression
from anchor_codes.compression import recipes, scaling

V, F = 300, 12
NAMES = (
  "int8",
  "int4",
  "int2",
  "low_rank:5x8",
  "low_rank:5x16",
  "pq:4x16",
  "opq:3x16x4",
  "rq:3x16x12",
  "rq:3x16x6",
  "anchors:20x3",
  "nonnegative_anchors:20x3",
  "norm+opq:3x16x4",
  "norm+float16",
  "anchors:20x1+opq:3x16x4",
)


def matrix() -> np.ndarray:
  rng = np.random.default_rng(0)
  scales = np.linspace(3, 0.3, F, dtype=np.float32)
  return 1 + rng.standard_normal((V, F), np.float32) * scales


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("factor", [1e-7, 1e-25, 1e-35, 1e20, 1e35])
def test_a_recipe_does_as_well_at_any_scale(name, factor):
  expected = compression.compress(matrix(), budget=99_000, recipe=name)
  given = matrix() * np.float32(factor)
  found = compression.compress(given, budget=99_000, recipe=name)
  assert found.table.nbytes == found.report.chosen.nbytes
  assert found.table.nbytes <= expected.table.nbytes + 2 * (V + F)
  errors = [f.report.quality["error"] for f in (expected, found)]
  assert errors[1] == pytest.approx(errors[0], rel=0.05, abs=2e-6)
  neighbors = [f.report.quality["neighbors"] for f in (expected, found)]
  assert neighbors[1] == pytest.approx(neighbors[0], abs=0.03)


@pytest.mark.parametrize("power", [-60, 60])
def test_a_search_with_hot_rows_in_a_budget(power, tmp_path):
  given = np.ldexp(matrix(), power)
  options: dict[str, Any] = {"budget": 4_000, "num_hot": 10}
  found = compression.compress(given, **options)
  expected = compression.compress(matrix(), **options)
  assert found.table.nbytes == found.report.chosen.nbytes <= 4_000
  errors = [f.report.quality["error"] for f in (expected, found)]
  assert errors[1] == pytest.approx(errors[0], rel=0.2)
  ids = np.arange(10)
  np.testing.assert_array_equal(found.table.lookup(ids), given[ids])
  found.table.save(tmp_path / "table.safetensors")


def test_rows_in_float16_have_no_scale_to_put_a_power_in():
  for factor in (1e-7, 1e20):
    message = r"`matrix` must have a largest value .* such as 2\.0\*\*"
    with pytest.raises(ValueError, match=message):
      compression.compress(
        matrix() * np.float32(factor), budget=99_000, recipe="float16"
      )
  for factor in (1e-4, 5e3):
    given = matrix() * np.float32(factor)
    found = compression.compress(given, budget=99_000, recipe="scalars")
    assert found.report.chosen.recipe == "float16"
    assert found.report.quality["error"] < 1e-5
  small = matrix() * np.float32(1e-7)
  found = compression.compress(small, budget=99_000, recipe="scalars")
  assert found.report.chosen.recipe == "int8"


@pytest.mark.parametrize(
  "recipe", ["float16", "int8+float16", "float16+int8", "int8+int8+float16"]
)
def test_rows_in_float16_hold_what_float16_does(recipe):
  parsed, limits = recipes.parse(recipe), np.finfo(np.float16)
  for largest in (0, limits.smallest_normal, 1, limits.max):
    scaling.Magnitude(float(largest)).check(parsed)
  for largest in (limits.smallest_normal / 2, 65505.0):
    with pytest.raises(ValueError, match="for the recipe 'float16'"):
      scaling.Magnitude(float(largest)).check(parsed)


def test_ordinary_values_are_fitted_as_they_are():
  for largest in (0, 2**-8, 1, 1000):
    assert scaling.Magnitude(largest).exponent == 0
    assert scaling.Magnitude(largest).reduce(matrix()).max() == matrix().max()
