"""Tests of the recipes: their bytes, names, and what they make."""

import faiss
import numpy as np
import pytest

from anchor_codes import compression, tables
from anchor_codes.compression import points, proposals, recipes

V, F = 300, 12
NAMES = (
  "float16",
  "int8",
  "int4",
  "int2",
  "low_rank:5x8",
  "low_rank:5x4",
  "pq:4x16",
  "opq:3x16x4",
  "opq:3x16x3",
  "opq:5x16x3",
  "rq:3x16x12",
  "rq:3x16x6",
  "anchors:20x3",
  "nonnegative_anchors:20x3",
  "norm+pq:4x16",
  "norm+opq:3x16x4",
  "norm+rq:3x16x8",
  "anchors:20x1+opq:3x16x4",
)


def matrix(seed: int = 0, size: int = V) -> np.ndarray:
  rng = np.random.default_rng(seed)
  scales = np.linspace(3, 0.3, F, dtype=np.float32)
  mixing = rng.standard_normal((F, F), np.float32)
  return 1 + rng.standard_normal((size, F), np.float32) * scales @ mixing


def fit(name: str, vectors: np.ndarray, weights=None, seed: int = 0):
  rng = np.random.default_rng(seed)
  return recipes.parse(name).fit(rng, points.Points.of(vectors, weights))


@pytest.fixture(scope="module")
def fitted() -> dict[str, tables.Table]:
  return {name: fit(name, matrix()) for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_bytes_are_as_foretold_and_names_come_back(name, fitted):
  recipe, table = recipes.parse(name), fitted[name]
  assert str(recipe) == name
  assert recipe.nbytes(V, F) == table.nbytes
  assert (table.num_embeddings, table.features) == (V, F)
  assert table.vocabulary is None


@pytest.mark.parametrize("name", NAMES)
def test_files_come_back(name, fitted, tmp_path):
  fitted[name].save(tmp_path / "table.safetensors")
  loaded = tables.load(tmp_path / "table.safetensors")
  np.testing.assert_array_equal(loaded.to_dense(), fitted[name].to_dense())


@pytest.mark.parametrize("name", NAMES)
def test_rows_that_were_not_fitted_are_about_as_good(name, fitted):
  table, other = fitted[name], matrix()[:100] + np.float32(1e-3)
  encoded = table._encode(other)
  error = compression.relative_error(encoded, other)
  assert error <= 1.1 * compression.relative_error(table, matrix()) + 0.05


@pytest.mark.parametrize("name", NAMES)
def test_equal_seeds_give_equal_tables(name, fitted):
  again = fit(name, matrix())
  np.testing.assert_array_equal(again.to_dense(), fitted[name].to_dense())


class Spy:
  """A recipe that keeps what it is asked to fit."""

  def fit(self, rng, given, *, is_trial=False):
    del rng
    self.points, self.is_trial = given, is_trial
    return tables.DenseTable(given.vectors)


def test_directions_count_as_much_as_they_are_long():
  vectors, weights = matrix(), np.arange(V) % 4.0
  vectors[7] = 0
  spy = Spy()
  given = points.Points.of(vectors, weights)
  table = recipes.Normed(spy).fit(np.random.default_rng(0), given)
  lengths = np.linalg.norm(vectors, axis=1)
  found = np.linalg.norm(spy.points.vectors, axis=1)
  np.testing.assert_allclose(found, lengths > 0, atol=1e-5)
  mass = weights * lengths**2
  np.testing.assert_allclose(spy.points.weights, mass / mass.mean(), rtol=1e-4)
  assert compression.relative_error(table, vectors) < 1e-3


@pytest.mark.parametrize("is_trial", [False, True])
def test_chains_hand_on_how_rough_a_fit_may_be(is_trial):
  spies, given = (Spy(), Spy()), points.Points.of(matrix())
  chain = recipes.Normed(recipes.Summed(*spies))
  chain.fit(np.random.default_rng(0), given, is_trial=is_trial)
  assert [spy.is_trial for spy in spies] == [is_trial] * 2


def test_norms_are_those_that_suit_the_codes():
  vectors = matrix()
  table = fit("norm+pq:2x4", vectors)
  lengths = np.linalg.norm(vectors, axis=1)
  other = tables.ScaledTable.from_norms(table.inner, lengths)
  error = compression.relative_error
  assert error(table, vectors) < 0.98 * error(other, vectors)


def test_weights_of_non_negative_anchors(fitted):
  table = fitted["nonnegative_anchors:20x3"]
  assert (table.weights >= 0).all()
  assert (fitted["anchors:20x3"].weights < 0).any()


def test_which_recipes_are_better(fitted):
  error = {
    n: compression.relative_error(t, matrix()) for n, t in fitted.items()
  }
  assert error["float16"] < error["int8"] < error["int4"] < error["int2"]
  assert error["low_rank:5x8"] < error["low_rank:5x4"]
  assert error["opq:3x16x4"] < 0.8 * error["pq:4x16"]
  assert error["anchors:20x1+opq:3x16x4"] < error["opq:3x16x4"]
  # More code for the same vectors.
  assert error["opq:5x16x3"] < error["opq:3x16x3"]


@pytest.mark.parametrize(
  "name", ["pq:4x16", "opq:3x16x4", "rq:3x16x6", "norm+pq:4x16"]
)
def test_weights_say_what_matters(name):
  vectors, heavy = matrix(), np.arange(V) < 30
  weights = np.where(heavy, 50.0, 1.0)
  errors = [
    compression.relative_error(fit(name, vectors, w), vectors, 1.0 * heavy)
    for w in (None, weights)
  ]
  assert errors[1] < 0.8 * errors[0]


@pytest.mark.parametrize("name", ["low_rank:5x8", "pq:4x16", "opq:3x16x4"])
def test_rows_without_weight_have_no_influence(name):
  vectors = matrix()
  other = np.concatenate([vectors, 1000 * matrix(1, 50)])
  weights = np.arange(V + 50) < V
  table = fit(name, other, 1.0 * weights)
  error = compression.relative_error(table, other, 1.0 * weights)
  assert error < 1.2 * compression.relative_error(fit(name, vectors), vectors)


@pytest.mark.parametrize("name", NAMES)
def test_matrices_that_hold_nothing_to_learn(name):
  for value in (0.0, 2.0):
    vectors = np.full((40, F), value, np.float32)
    dense = fit(name, vectors).to_dense()
    np.testing.assert_allclose(dense, vectors, atol=0.02)


@pytest.mark.parametrize(
  "name",
  [
    "",
    "opq",
    "opq:",
    "opq:3x16",
    "pq:4x16x2",
    "xyz:3",
    "norm+",
    "int3",
    "pq:a",
  ],
)
def test_names_that_are_none(name):
  with pytest.raises(ValueError, match="is not a recipe"):
    recipes.parse(name)


@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("low_rank:0x8", "its sizes must be at least 1, got 0"),
    ("norm+anchors:4x0", "'anchors:4x0' is not a recipe: its sizes must be"),
    ("low_rank:5x7", r"its bits must be one of \[2, 4, 8, 16\], got 7"),
    ("pq:4x1", "its codebooks must have 2 to 65536 entries, got 1"),
    ("rq:4x65537x2", "its codebooks must have 2 to 65536 entries, got 65537"),
  ],
)
def test_sizes_of_which_no_table_can_be_made(name, message):
  with pytest.raises(ValueError, match=message):
    recipes.parse(name)


@pytest.mark.parametrize("name", ["low_rank:99x8", "rq:3x16x99"])
def test_there_are_no_more_components_than_features(name):
  recipe, table = recipes.parse(name), fit(name, matrix())
  assert recipe.nbytes(V, F) == table.nbytes
  full = name.replace("99", str(F))
  assert table.nbytes == recipes.parse(full).nbytes(V, F)
  np.testing.assert_array_equal(
    table.to_dense(), fit(full, matrix()).to_dense()
  )


def test_parts_are_as_wide_as_each_other():
  message = "'pq:5x16' must have a length that divides the 12 .* such as 4"
  with pytest.raises(ValueError, match=message):
    recipes.parse("norm+pq:5x16").nbytes(V, F)


@pytest.mark.parametrize("family", proposals.FAMILIES)
@pytest.mark.parametrize("budget", [900, 2_500, 6_000])
def test_proposals_fit_the_budget_and_use_it(family, budget):
  sample = points.Points.of(matrix())
  found = proposals.propose(family, sample, num_embeddings=V, budget=budget)
  sizes = [recipe.nbytes(V, F) for recipe in found]
  assert all(size <= budget for size in sizes)
  assert all(str(recipe) in str(recipes.parse(str(recipe))) for recipe in found)
  if family == "opq" and budget == 6_000:
    assert max(sizes) > 0.6 * budget


def test_rotated_codes_of_all_and_of_a_part_of_the_components_are_proposed():
  wide = np.random.default_rng(0).standard_normal((4_000, 40))
  sample = points.Points.of(wide * np.linspace(2, 1, 40)[None, :])
  found = proposals.propose("opq", sample, num_embeddings=8_000, budget=60_000)
  kept = [r.code_length * r.code_features for r in found]
  assert max(kept) >= 36
  assert min(kept) <= 0.6 * 40
  assert len(set(map(str, found))) == len(found)


def test_the_spectrum_ranks_sizes_as_fits_do():
  vectors = matrix()
  sample = points.Points.of(vectors)
  sizes = [(2, 16, 6), (4, 16, 3), (6, 16, 2)]
  tried = [recipes.RotatedCodes(*size) for size in sizes]
  expected = [proposals.expected_error(recipe, sample) for recipe in tried]
  found = [
    compression.relative_error(fit(str(recipe), vectors), vectors)
    for recipe in tried
  ]
  assert np.argsort(expected).tolist() == np.argsort(found).tolist()


def test_product_codes_are_as_good_as_those_of_faiss():
  vectors = matrix(size=4_000)
  theirs = faiss.ProductQuantizer(F, 4, 6)
  theirs.train(vectors)
  decoded = theirs.decode(theirs.compute_codes(vectors))
  error = np.square(vectors - decoded).sum()
  error /= np.square(vectors - vectors.mean(axis=0)).sum()
  ours = compression.relative_error(fit("pq:4x64", vectors), vectors)
  assert ours <= 1.01 * error
