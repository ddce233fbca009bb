"""Tests of released splits, and of what is known of users."""

import functools

import numpy as np
import pytest

from experiments.datasets import movies, people, ratings, released_splits

pytestmark = pytest.mark.filterwarnings(
  "ignore:.*is not the published file:UserWarning"
)

# Users 2 and 5 have four ratings each, user 3 has two; nobody likes movie 9.
TABLE = np.array([
  [2, 4, 5], [2, 7, 4], [2, 8, 1], [2, 9, 2],
  [3, 4, 5], [3, 7, 5],
  [5, 4, 2], [5, 7, 1], [5, 8, 5], [5, 9, 1],
])  # fmt: skip


@pytest.fixture(name="data_dir")
def fixture_data_dir(tmp_path, monkeypatch):
  """A folder of tiny splits; users need fewer ratings than in truth."""
  monkeypatch.setattr(released_splits, "_LEAST_RATINGS", 4)
  monkeypatch.setattr(released_splits, "_LEAST_POSITIVES", 3)
  folder = tmp_path / "ml-1m"
  for name in ("sse_mf", "sse_bpr"):
    (folder / name).mkdir(parents=True)
  ranks = np.zeros((len(TABLE), 1), int)
  lines = [",".join(map(str, r)) for r in np.hstack([TABLE, ranks]).tolist()]
  (folder / "ratings_order.csv").write_text("\n".join(["u,m,r,c", *lines]))
  (folder / "sse_mf/ml1m_train_ratings.csv").write_text("2,9,1\n1,4,5\n1,8,1\n")
  (folder / "sse_mf/ml1m_test_ratings.csv").write_text("1,7,4\n2,4,2\n")
  # Users 2 and 5 are 1 and 2; movies 4, 7 and 8 are 1, 2 and 3.
  (folder / "sse_bpr/train.txt").write_text("1 3 1\n2 1 1\n2 3 1\n")
  (folder / "users.dat").write_text(
    "2::F::1::10::48067\n3::M::56::16::70072\n5::M::25::15::55117\n"
  )
  (folder / "movies.dat").write_text("4::A::War\n7::B::War\n8::C::\n9::D::\n")
  return tmp_path


def named(data):
  """Returns the triples of original ids and ratings of both parts."""
  triples = [
    (int(data.user_names[u]), int(data.item_names[i]), int(value))
    for u, i, value in zip(data.users, data.items, data.values, strict=True)
  ]
  return triples[: data.num_train], triples[data.num_train :]


def test_ratings_to_predict_have_their_original_ids(data_dir):
  data = ratings.load_ratings("ml-1m-sse-mf", data_dir=data_dir)
  train, test = named(data)
  assert train == [(5, 9, 1), (2, 4, 5), (2, 8, 1)]
  assert test == [(2, 7, 4), (5, 4, 2)]
  assert data.user_names == ("2", "5")
  assert data.item_names == ("4", "7", "8", "9")
  assert data.name == "ml-1m-sse-mf"


def test_the_test_of_rankings_is_all_the_rest(data_dir):
  data = ratings.load_ratings("ml-1m-sse-bpr", data_dir=data_dir)
  train, test = named(data)
  assert sorted(train) == [(2, 8, 1), (5, 4, 2), (5, 8, 5)]
  assert sorted(test) == [(2, 4, 5), (2, 7, 4), (5, 7, 1)]
  assert data.item_names == ("4", "7", "8")
  splits = ratings.split_ratings(data, kind="given")
  assert [len(rows) for rows in splits] == [3, 0, 3]


def test_splits_have_the_movies_and_users_of_their_origin(data_dir):
  data = ratings.load_ratings("ml-1m-sse-mf", data_dir=data_dir)
  genres = movies.load_genres(
    data.name, item_names=data.item_names, data_dir=data_dir
  )
  assert genres == (("War",), ("War",), (), ())
  ages = people.load_age_groups(
    data.name, user_names=data.user_names, data_dir=data_dir
  )
  assert ages.tolist() == [0, 2]


@pytest.mark.parametrize(
  ("line", "message"),
  [
    ("3,4,5\n", "must number users or movies from 1 to 2"),
    ("0,4,5\n", "must number users or movies from 1 to 2"),
    ("1,1,5\n", "must hold ratings of MovieLens 1M"),
  ],
)
def test_files_of_another_split_are_refused(data_dir, line, message):
  (data_dir / "ml-1m/sse_mf/ml1m_test_ratings.csv").write_text(line)
  with pytest.raises(ValueError, match=message):
    ratings.load_ratings("ml-1m-sse-mf", data_dir=data_dir)


def test_a_missing_file_is_named(data_dir):
  (data_dir / "ml-1m/sse_bpr/train.txt").unlink()
  with pytest.raises(FileNotFoundError, match=r"sse_bpr/train\.txt"):
    ratings.load_ratings("ml-1m-sse-bpr", data_dir=data_dir)


def test_ages_of_ml_100k_are_years(tmp_path):
  (tmp_path / "ml-100k").mkdir()
  ages = [7, 17, 18, 24, 25, 34, 35, 44, 45, 49, 50, 55, 56, 73]
  lines = [f"{i}|{age}|M|writer|1" for i, age in enumerate(ages)]
  (tmp_path / "ml-100k/u.user").write_text("\n".join(lines) + "\n")
  load = functools.partial(people.load_age_groups, data_dir=tmp_path)
  names = [str(i) for i in range(len(ages))]
  found = load("ml-100k", user_names=names)
  np.testing.assert_array_equal(found, np.arange(len(ages)) // 2)
  with pytest.raises(ValueError, match="of 'ml-100k', got 'ann'"):
    load("ml-100k", user_names=["ann"])
  with pytest.raises(ValueError, match="one of 'ml-100k', 'ml-1m', got 'x'"):
    load("x", user_names=[])
  (tmp_path / "ml-100k/u.user").write_text("1|old|M\n")
  with pytest.raises(ValueError, match="is not in the format of ml-100k"):
    load("ml-100k", user_names=[])


@pytest.mark.slow
@pytest.mark.parametrize(
  ("name", "sizes"),
  [
    ("ml-1m-sse-mf", (637_987, 299_200, 1_496, 3_656)),
    ("ml-1m-sse-bpr", (923_473, 196_850, 3_937, 3_533)),
  ],
)
def test_real_splits_have_their_known_sizes(name, sizes):
  try:
    data = ratings.load_ratings(name)
  except FileNotFoundError as error:
    pytest.skip(str(error))
  numbers = len(data.values), data.num_train
  assert (*numbers, len(data.user_names), len(data.item_names)) == sizes
  counts = np.bincount(data.users[: data.num_train])
  assert set(counts) == {sizes[1] // sizes[2]}
