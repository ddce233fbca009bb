"""Tests of product, rotated and additive codes: each step makes them better."""

import numpy as np
import pytest

from anchor_codes import compression, tables
from anchor_codes.compression import (
  additive_codes,
  points,
  product_codes,
  recipes,
)


def matrix(size: int = 500, width: int = 8) -> np.ndarray:
  rng = np.random.default_rng(0)
  mixing = rng.standard_normal((width, width), np.float32)
  return 3 + rng.standard_normal((size, width), np.float32) @ mixing


def fit(name: str, vectors: np.ndarray) -> tables.Table:
  rng = np.random.default_rng(0)
  return recipes.parse(name).fit(rng, points.Points.of(vectors))


def error(table: tables.Table, vectors: np.ndarray) -> float:
  return compression.relative_error(table, vectors)


def test_sweeps_make_additive_codes_better(monkeypatch):
  errors = []
  for number in (0, 2):
    monkeypatch.setattr(additive_codes, "_NUM_SWEEPS", number)
    errors.append(error(fit("rq:4x16x8", matrix()), matrix()))
  assert errors[1] < 0.95 * errors[0]


def test_codebooks_move_with_their_codes():
  """After a sweep each entry that is used is the best for its vectors."""
  rng, vectors = np.random.default_rng(0), matrix()
  rest = points.Points.of(vectors)
  codes, books = additive_codes._residual_start(rng, rest, 3, 8)
  rest = rest.replace(vectors - additive_codes._compose(codes, books))
  before = np.square(rest.vectors).sum()
  rest = additive_codes._sweep(rng, rest, codes, books)
  composed = additive_codes._compose(codes, books)
  np.testing.assert_allclose(rest.vectors, vectors - composed, atol=1e-4)
  assert np.square(rest.vectors).sum() < before


def test_the_last_digit_suits_the_codebooks_as_they_are_rounded():
  vectors = matrix(4_000)
  vectors -= vectors.mean(axis=0)  # What is left of the mean is not in them.
  table = fit("rq:3x16x8", vectors)
  best = np.square(vectors - table.to_dense()).sum(axis=1)
  for value in range(16):
    codes = np.array(table.codes)
    codes[:, -1] = value
    other = tables.CodeTable.from_codes(
      codes,
      table.codebooks,
      scales=table.scales,
      composition="sum",
      bias=table.bias,
    )
    found = np.square(vectors - other.to_dense()).sum(axis=1)
    assert np.all(best <= found + 1e-3)


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
