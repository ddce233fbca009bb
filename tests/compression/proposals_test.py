"""Tests of the sizes that are tried: all of the budget is used, none more."""

import functools

import numpy as np
import pytest

from anchor_codes import compression
from anchor_codes.compression import points, proposals, recipes, scaling

V, F = 300, 12


@functools.cache
def sample(size: int = V) -> points.Points:
  rng = np.random.default_rng(0)
  scales = np.linspace(3, 0.3, F, dtype=np.float32)
  return points.Points.of(rng.standard_normal((size, F), np.float32) * scales)


def room(budget: int) -> proposals._Room:
  return proposals._Room(V, F, budget, scaling.Magnitude(1))


def propose(family: str, budget: int) -> list:
  return proposals.propose(family, sample(), num_embeddings=V, budget=budget)


def test_the_largest_size_that_fits_is_found():
  for budget in range(0, 6_000, 37):
    for most in (1, 2, F):
      fitting = [
        rank
        for rank in range(1, most + 1)
        if recipes.LowRank(rank).nbytes(V, F) <= budget
      ]
      found = [r.rank for r in room(budget).largest(recipes.LowRank, most)]
      assert found == fitting[-1:]


@pytest.mark.parametrize("budget", [2_500, 4_000, 6_000])
def test_norms_and_anchors_leave_the_rest_to_codes(budget):
  left = budget - V - 8
  (normed,) = propose("norm+opq", budget)
  assert normed.inner == propose("opq", left)[0]
  (normed,) = propose("norm+pq", budget)
  assert normed.inner == propose("pq", left)[-1]
  (both,) = propose("anchors+opq", budget)
  left = budget - both.first.nbytes(V, F)
  assert both.second == propose("opq", left)[0]


def test_parts_of_any_width_hold_all_components():
  found = [*proposals._widths(room(10**9), 16, F)]
  assert [r.code_features for r in found] == [*range(1, F + 1)]
  assert [r.code_length for r in found] == [-(-F // w) for w in range(1, F + 1)]


@pytest.mark.parametrize("budget", [30_000, 60_000, 90_000])
def test_of_each_codebook_size_the_best_widths_are_tried(budget):
  size, features = 8_000, 40
  vectors = np.random.default_rng(0).standard_normal((4_000, features))
  given = points.Points.of(vectors * np.linspace(2, 1, features))
  expected = functools.partial(proposals.expected_error, points=given)
  space = proposals._Room(size, features, budget, scaling.Magnitude(1))
  best = [
    min(proposals._widths(space, number, limit), key=expected)
    for limit in (features, int(0.55 * features))
    for number in (16, 32, 64, 128, 256)
  ]
  found = proposals.propose("opq", given, num_embeddings=size, budget=budget)
  assert set(found) <= set(best)
  assert set(found) >= set(best[:5])
  assert expected(found[0]) == min(map(expected, best[:5]))


@pytest.mark.parametrize("budget", [1_000, 2_500, 6_000, 12_000])
def test_additive_codes_are_no_larger_than_their_rows(budget):
  for recipe in propose("rq", budget):
    shared = recipe.nbytes(0, F)
    assert 2 * shared <= budget
    assert recipe.nbytes(V, F) >= 0.6 * budget


def test_the_error_of_equal_variances():
  """By the formula: what is kept falls by 6 dB a bit, the rest counts whole."""
  vectors = np.repeat(np.concatenate([np.eye(8), -np.eye(8)]), 20, axis=0)
  given = points.Points.of(2 * vectors)
  variance = 4 / 8
  for length, width, size in ((4, 2, 16), (2, 2, 16), (2, 4, 256), (8, 1, 4)):
    kept = length * width
    bits = np.log2(size) / width
    expected = kept * variance * 2 ** (-2 * bits) * (1 + 1.72 / width)
    expected += (8 - kept) * variance
    found = proposals.expected_error(
      recipes.RotatedCodes(length, size, width), given
    )
    assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("size", [1, 3])
def test_anchors_of_very_few_rows(size):
  vectors = sample(size).vectors
  found = compression.compress(vectors, budget=10**6, recipe="anchors")
  assert found.report.chosen.recipe == "anchors:1x1"


def test_half_of_the_components_is_tried_if_all_cannot_be_kept_much_better():
  ranks = [
    {
      r.rank
      for r in proposals.propose(
        "rq", sample(), num_embeddings=10_000, budget=b
      )
    }
    for b in (12_000, 80_000)
  ]
  assert ranks == [{F, F // 2}, {F}]
