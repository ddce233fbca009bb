"""Tests of ratings whose number of anchors is known."""

import numpy as np
import pytest

from experiments.datasets import ratings, synthetic_ratings
from experiments.datasets.synthetic_ratings import buffet_ratings

SMALL = {
  "num_users": 60,
  "num_items": 40,
  "num_ratings": 1500,
  "num_anchors": 3,
  "features": 6,
}


@pytest.fixture(name="data", scope="module")
def fixture_data():
  return buffet_ratings(3, **SMALL)


def test_sizes_and_names(data):
  assert len(data.values) == len(data.users) == len(data.items) == 1500
  assert data.name == "synthetic"
  assert len(data.user_names) == 60
  assert data.item_names[-1] == "item 39"
  assert data.source == "drawn from 3 anchors, seed 3"


def test_pairs_do_not_repeat(data):
  pairs = data.users.astype(int) * 40 + data.items
  assert len(np.unique(pairs)) == 1500
  assert data.users.max() < 60
  assert data.items.max() < 40


def test_values_are_in_a_sane_range(data):
  assert np.isfinite(data.values).all()
  assert 3 < data.values.mean() < 4.5
  assert 0.9 < data.values.std() < 1.8


def test_a_seed_repeats_itself(data):
  again, other = buffet_ratings(3, **SMALL), buffet_ratings(4, **SMALL)
  np.testing.assert_array_equal(again.values, data.values)
  assert (other.values[:50] != data.values[:50]).any()


def test_without_noise_the_table_has_the_rank_of_the_anchors():
  options = {**SMALL, "num_ratings": 60 * 40}
  data = buffet_ratings(0, **options, noise=0.0)
  table = np.zeros((60, 40))
  table[data.users, data.items] = data.values
  # The two biases and the mean add two to the rank.
  centred = table - table.mean(0)[None] - table.mean(1)[:, None] + table.mean()
  assert np.linalg.matrix_rank(centred, tol=1e-3) <= 3


def test_noise_is_what_it_says():
  options = {**SMALL, "num_ratings": 60 * 40}
  quiet = buffet_ratings(0, **options, noise=0.0)
  loud = buffet_ratings(0, **options, noise=0.5)
  np.testing.assert_array_equal(quiet.users, loud.users)
  assert abs((loud.values - quiet.values).std() - 0.5) < 0.03


def test_vectors_have_length_one_and_the_rank_of_the_anchors():
  vectors = synthetic_ratings.buffet_vectors(
    np.random.default_rng(0), num_embeddings=60, num_anchors=3, features=9
  )
  lengths = np.linalg.norm(vectors, axis=1)
  assert (np.isclose(lengths, 1) | (lengths == 0)).all()
  assert (lengths > 0).mean() > 0.8
  assert np.linalg.matrix_rank(vectors) == 3


def test_each_anchor_serves_some_rows():
  used = synthetic_ratings._used_anchors(np.random.default_rng(1), 60, 3)
  assert used.shape == (60, 3)
  assert used.mean(axis=0).min() >= 0.05


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"num_ratings": 2401}, "number of pairs, 2400, got 2401"),
    ({"num_ratings": 0}, "`num_ratings` must be at least 1, got 0"),
    ({"noise": -0.1}, "`noise` must be non-negative, got -0.1"),
    ({"num_anchors": 0}, "`max_anchors` must be at least 1, got 0"),
  ],
)
def test_wrong_options_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    buffet_ratings(**{**SMALL, **options})


def test_anchors_may_be_too_many(monkeypatch):
  monkeypatch.setattr(synthetic_ratings, "_MOST_DRAWS", 2)
  with pytest.raises(ValueError, match=r"few enough for 60 rows .* got 90"):
    buffet_ratings(**{**SMALL, "num_anchors": 90})


def test_ratings_know_them_by_name(monkeypatch, data):
  monkeypatch.setattr(synthetic_ratings, "buffet_ratings", lambda: data)
  assert ratings.load_ratings("synthetic") is data
