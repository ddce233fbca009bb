"""Tests of product, rotated and additive codes: each step makes them better."""

import itertools

import numpy as np
import pytest

from anchor_codes import compression, tables
from anchor_codes.compression import (
  additive_codes,
  points,
  product_codes,
  recipes,
)
from anchor_codes.tables import code_search


def matrix(size: int = 500, width: int = 8) -> np.ndarray:
  rng = np.random.default_rng(0)
  mixing = rng.standard_normal((width, width), np.float32)
  return 3 + rng.standard_normal((size, width), np.float32) @ mixing


def fit(name: str, vectors: np.ndarray) -> tables.Table:
  rng = np.random.default_rng(0)
  return recipes.parse(name).fit(rng, points.Points.of(vectors))


def error(table: tables.Table, vectors: np.ndarray) -> float:
  return compression.relative_error(table, vectors)


def test_rounds_make_additive_codes_better(monkeypatch):
  errors = []
  for number in (0, 10, 100):  # None leaves the start.
    monkeypatch.setattr(additive_codes, "_NUM_ROUNDS", number)
    errors.append(error(fit("rq:4x16x8", matrix()), matrix()))
  assert errors[1] < 0.9 * errors[0]
  assert errors[2] < 0.95 * errors[1]


def test_trials_of_additive_codes_are_short(monkeypatch):
  search, calls = code_search.search_sums, []

  def recorded(*args, **options):
    calls.append(options)
    return search(*args, **options)

  monkeypatch.setattr(code_search, "search_sums", recorded)
  recipe, of_matrix = recipes.parse("rq:2x8x8"), points.Points.of(matrix(100))
  for is_trial, rounds in ((True, 30), (False, 200)):
    calls.clear()
    recipe.fit(np.random.default_rng(0), of_matrix, is_trial=is_trial)
    assert len(calls) == rounds + 1


def test_entries_of_wide_codebooks_are_not_left_to_single_rows():
  rng = np.random.default_rng(0)
  vectors = rng.standard_normal((2000, 64), np.float32)
  # Heavy rows lie far out, where drawn centroids have no neighbours.
  target = points.Points.of(vectors, rng.gamma(1.0, size=2000))
  codes, _ = additive_codes._residual_start(rng, target, 6, 32)
  for digits in codes.T:
    assert np.bincount(digits, minlength=32).min() > 20


def test_codebooks_move_to_what_the_others_leave_over():
  rng, vectors = np.random.default_rng(0), matrix()
  target = points.Points.of(vectors)
  codes, books = additive_codes._residual_start(rng, target, 3, 8)
  compose = lambda: sum(book[codes[:, j]] for j, book in enumerate(books))
  before = np.square(vectors - compose()).sum()
  for _ in range(50):
    additive_codes._update(rng, target, codes, books)
  rest = vectors - compose()
  assert np.square(rest).sum() < before
  # The least squares of these codes: no entry has a direction to move to.
  for j in range(3):
    for value in np.unique(codes[:, j]):
      mean = rest[codes[:, j] == value].mean(axis=0)
      np.testing.assert_allclose(mean, 0, atol=1e-3)


def test_rows_without_weight_do_not_move_codebooks():
  vectors = matrix(200)
  weights = np.repeat([1.0, 0.0], 100)
  tables_of = []
  for scale in (1, 5):
    changed = np.concatenate([vectors[:100], scale * vectors[100:]])
    recipe = recipes.parse("rq:2x8x8")
    tables_of.append(
      recipe.fit(np.random.default_rng(0), points.Points.of(changed, weights))
    )
  first, second = (table.codebooks for table in tables_of)
  np.testing.assert_array_equal(first, second)


def test_codes_suit_the_codebooks_as_they_are_rounded():
  vectors = matrix(4_000)
  vectors -= vectors.mean(axis=0)  # What is left of the mean is not in them.
  table = fit("rq:3x16x8", vectors)
  best = np.square(vectors - table.to_dense()).sum(axis=1)
  for place, value in itertools.product(range(3), range(16)):
    codes = np.array(table.codes)
    codes[:, place] = value
    other = tables.CodeTable.from_codes(
      codes,
      table.codebooks,
      scales=table.scales,
      composition="sum",
      bias=table.bias,
    )
    found = np.square(vectors - other.to_dense()).sum(axis=1)
    assert np.mean(best <= found + 1e-3) > 0.999


def test_a_rotation_is_learned(monkeypatch):
  """Parts of few different values, which no component lies along."""
  rng = np.random.default_rng(0)
  values = rng.choice([-1.0, 1.0], (2_000, 8)) * [1, 1, 1, 1, 2, 2, 2, 2]
  turned = np.linalg.qr(rng.standard_normal((8, 8)))[0]
  vectors = (values @ turned).astype(np.float32)
  errors = []
  for steps in (1, product_codes._MOST_STEPS):
    monkeypatch.setattr(product_codes, "_MOST_STEPS", steps)
    errors.append(error(fit("opq:4x4x2", vectors), vectors))
  start = product_codes.balanced_rotation(points.Points.of(vectors), 4, 2)
  plain = vectors @ start.T
  fixed = error(fit("pq:4x4", plain), plain)
  assert errors[1] < 0.9 * min(fixed, errors[0])


@pytest.mark.parametrize(
  ("least_gain", "is_trial", "most"),
  [(0.002, False, 200), (0.002, True, 40), (0.9, False, 11)],
)
def test_a_rotation_is_turned_until_that_gains_little(
  monkeypatch, least_gain, is_trial, most
):
  monkeypatch.setattr(product_codes, "_LEAST_GAIN", least_gain)
  step, errors = product_codes._step, []

  def recorded(rng, rotated, *args):
    decoded, books = step(rng, rotated, *args)
    errors.append(np.square(rotated.vectors - decoded).sum())
    return decoded, books

  monkeypatch.setattr(product_codes, "_step", recorded)
  recipe, given = recipes.parse("opq:4x16x2"), points.Points.of(matrix())
  recipe.fit(np.random.default_rng(0), given, is_trial=is_trial)
  assert 11 <= len(errors) <= most
  gains = 1 - np.divide(errors[10:], errors[:-10])
  assert np.all(gains[:-1] > least_gain)
  assert len(errors) == most or gains[-1] <= least_gain


@pytest.mark.parametrize(
  ("length", "width"), [(2, 4), (4, 2), (3, 3), (5, 2), (2, 3)]
)
def test_components_are_dealt_out_once(length, width):
  given = points.Points.of(matrix())
  rotation = product_codes.balanced_rotation(given, length, width)
  assert rotation.shape == (length * width, 8)
  count = min(length * width, 8)
  lengths = np.linalg.norm(rotation, axis=1)
  assert np.count_nonzero(lengths) == count
  gram = rotation @ given.components[1].T
  # The first components, each of them in one place.
  np.testing.assert_allclose(np.abs(gram).max(axis=0)[:count], 1, atol=1e-4)
  np.testing.assert_allclose(np.abs(gram).sum(axis=0)[count:], 0, atol=1e-3)
