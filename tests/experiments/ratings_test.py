"""Tests of ratings by name, and of their splits."""

import functools
import re

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from experiments.datasets import (
  files,
  rating_batches,
  ratings,
  ratings_csv,
  ratings_tfds,
)

SIZES = {
  "ml-100k": (100_000, 943, 1_682),
  "ml-1m": (1_000_209, 6_040, 3_706),
  "ml-latest-small": (100_836, 610, 9_724),
}
FILES = {
  "ml-100k/u.data": "7\t30\t5\t200\n7\t4\t1\t100\n10\t30\t3\t200\n",
  "ml-1m/ratings_order.csv": (
    "user,movie,rating,chrono_rank\n"
    "1,9,5,1\n1,7,4,0\n2,9,3,0\n3,7,2,2\n3,8,1,1\n3,9,1,1\n"
  ),
  "ml-latest-small/ratings.csv": (
    "userId,movieId,rating,timestamp\r\n"
    "2,110,0.5,1500000000\r\n1,3,4.5,900000000\r\n"
  ),
}


@pytest.fixture(name="data_dir")
def fixture_data_dir(tmp_path):
  for name, content in FILES.items():
    path = tmp_path / name
    path.parent.mkdir()
    path.write_bytes(content.encode())
  return tmp_path


def load_small(name, data_dir):
  with pytest.warns(UserWarning, match="not the published file"):
    return ratings.load_ratings(name, data_dir=data_dir)


read_once = functools.cache(ratings.load_ratings)


def load_real(name):
  try:
    return read_once(name)
  except FileNotFoundError as error:
    pytest.skip(str(error))


def make(order, users=None, items=None):
  """Makes ratings of which only the columns that a test is about matter."""
  column = np.arange(len(order))
  return ratings.make_ratings(
    "toy",
    users=column if users is None else users,
    items=column if items is None else items,
    values=column,
    order=order,
    user_names=column.astype(str).tolist(),
    item_names=column.astype(str).tolist(),
    source="ours",
  )


@pytest.mark.parametrize("name", SIZES)
def test_published_ratings_have_their_known_size(name):
  data = load_real(name)
  sizes = len(data.values), len(data.user_names), len(data.item_names)
  assert sizes == SIZES[name]
  assert data.users.max() == sizes[1] - 1
  assert data.items.max() == sizes[2] - 1
  assert np.bincount(data.users).min() >= 20
  assert np.bincount(data.items).min() >= 1
  assert "GroupLens" in data.source


def test_ml_1m_has_the_known_counts_of_values():
  data = load_real("ml-1m")
  counts = np.bincount(data.values.astype(int)).tolist()
  assert counts == [0, 56_174, 107_557, 261_197, 348_971, 226_310]


def test_ml_100k_starts_as_its_file_does():
  data = load_real("ml-100k")
  assert data.user_names[data.users[0]] == "196"
  assert data.item_names[data.items[0]] == "242"
  assert data.values[0] == 3
  assert data.order[0] == 881_250_949


def test_halves_of_stars_are_kept():
  data = load_real("ml-latest-small")
  assert np.unique(data.values).tolist() == [i / 2 for i in range(1, 11)]


def test_users_of_ml_1m_are_numbered_against_time():
  data = load_real("ml-1m")
  user = np.array(data.user_names).astype(int)[data.users]
  movie = np.array(data.item_names).astype(int)[data.items]
  size = np.bincount(data.users)[data.users]
  rank = data.order - min_of_user(data)[data.users]
  # Those who come back rate new movies at the end of their ratings.
  new = (movie >= 3908) & (rank < size / 2)
  assert new.sum() > 3000
  assert (user[new] <= 3300).mean() > 0.97
  assert (user <= 3300).mean() < 0.54


def min_of_user(data):
  first = np.full(len(data.user_names), len(data.order))
  np.minimum.at(first, data.users, data.order)
  return first


def test_ids_follow_the_original_numbers(data_dir):
  data = load_small("ml-100k", data_dir)
  assert data.user_names == ("7", "10")
  assert data.item_names == ("4", "30")
  np.testing.assert_array_equal(data.users, [0, 0, 1])
  np.testing.assert_array_equal(data.items, [1, 0, 1])
  np.testing.assert_array_equal(data.values, [5, 1, 3])
  np.testing.assert_array_equal(data.order, [200, 100, 200])
  assert data.name == "ml-100k"


def test_header_and_line_ends_of_windows(data_dir):
  data = load_small("ml-latest-small", data_dir)
  np.testing.assert_array_equal(data.users, [1, 0])
  np.testing.assert_array_equal(data.values, [0.5, 4.5])
  np.testing.assert_array_equal(data.order, [1_500_000_000, 900_000_000])
  assert data.item_names == ("3", "110")


def test_last_user_of_ml_1m_comes_first(data_dir):
  data = load_small("ml-1m", data_dir)
  # Rows by (descending user, rank), and equal ranks as in the file.
  np.testing.assert_array_equal(np.argsort(data.order), [4, 5, 3, 2, 1, 0])
  np.testing.assert_array_equal(np.sort(data.order), np.arange(6))


def test_columns_have_their_types_and_are_read_only(data_dir):
  data = load_small("ml-1m", data_dir)
  dtypes = {
    "users": np.int32,
    "items": np.int32,
    "values": np.float32,
    "order": np.int64,
  }
  for name, dtype in dtypes.items():
    column = getattr(data, name)
    assert column.dtype == dtype
    with pytest.raises(ValueError, match="read-only"):
      column[0] = 0


def test_the_callers_array_stays_writeable():
  order = np.arange(3)
  data = make(order)
  assert np.shares_memory(order, data.order)
  order[0] = 5
  assert data.order[0] == 5


def test_folder_comes_from_the_environment(data_dir, monkeypatch):
  monkeypatch.setenv(files.DATA_VARIABLE, str(data_dir))
  with pytest.warns(UserWarning, match="sha256"):
    assert len(ratings.load_ratings("ml-100k").values) == 3


@pytest.mark.parametrize(
  ("name", "filename", "archive"),
  [
    ("ml-100k", "u.data", "ml-100k.zip of GroupLens"),
    ("ml-1m", "ratings_order.csv", "`user,movie,rating,chrono_rank`"),
    ("ml-latest-small", "ratings.csv", "ml-latest-small.zip"),
  ],
)
def test_missing_file_says_what_to_do(tmp_path, name, filename, archive):
  with pytest.raises(FileNotFoundError) as caught:
    ratings.load_ratings(name, data_dir=tmp_path)
  message = str(caught.value)
  for part in (str(tmp_path / name / filename), archive, "$ANCHOR_CODES_DATA"):
    assert part in message


@pytest.mark.parametrize(
  ("content", "message"),
  [
    ("", "must hold ratings, but it is empty"),
    ("1\t2\t3\n", "must have four numbers in each line"),
    ("1\t2\tgood\t4\n", "must have four numbers in each line: .*'good'"),
  ],
)
@pytest.mark.filterwarnings("ignore:.*is not the published file")
def test_damaged_file_is_named(data_dir, content, message):
  path = data_dir / "ml-100k" / "u.data"
  path.write_text(content)
  with pytest.raises(ValueError, match=f"{re.escape(str(path))} {message}"):
    ratings.load_ratings("ml-100k", data_dir=data_dir)


@pytest.mark.parametrize("name", ["", "ml-10m", "ML-1M", "mine.csv"])
def test_unknown_name_lists_the_known(name):
  with pytest.raises(ValueError, match="take 'ml-100k', 'ml-1m'") as e:
    ratings.load_ratings(name)
  assert "'ml-25m' or 'csv:PATH'." in str(e.value)
  assert repr(name) in str(e.value)


def test_names_are_loadable_by_a_flag():
  splits = {"ml-1m-sse-mf", "ml-1m-sse-bpr"}
  assert set(ratings.RATING_NAMES) == {*SIZES, *splits, "ml-25m"}
  kinds = ("random", "chronological", "published", "given")
  assert kinds == ratings.SPLIT_KINDS


def test_own_file_is_read_as_csv(tmp_path):
  path = tmp_path / "mine.csv"
  path.write_text("user,item,rating\nann,tea,4\n")
  data = ratings.load_ratings(f"csv:{path}")
  assert data.user_names == ("ann",)
  assert data.name == f"csv:{path}"
  for ours, direct in zip(data, ratings_csv.read_csv(path), strict=True):
    assert ours == direct


def test_own_file_must_exist(tmp_path):
  with pytest.raises(FileNotFoundError, match=r"none\.csv does not exist"):
    ratings.load_ratings(f"csv:{tmp_path / 'none.csv'}")


def test_ml_25m_comes_through_tfds(monkeypatch):
  calls = []
  monkeypatch.setattr(
    ratings_tfds,
    "load_movielens",
    lambda config, *, data_dir: calls.append((config, data_dir)),
  )
  ratings.load_ratings("ml-25m", data_dir="/folder")
  assert calls == [("25m-ratings", "/folder")]


@pytest.mark.parametrize("kind", ["random", "chronological"])
@hypothesis.given(
  order=st.lists(st.integers(-5, 5), min_size=6, max_size=60),
  seed=st.integers(0, 3),
)
def test_splits_part_the_ratings(kind, order, seed):
  splits = ratings.split_ratings(make(order), kind=kind, seed=seed)
  rows = np.concatenate(splits)
  np.testing.assert_array_equal(np.sort(rows), np.arange(len(order)))
  assert all(split.dtype == np.int64 and split.size for split in splits)
  assert len(splits.train) == len(order) * 8 // 10
  assert abs(len(splits.valid) - len(splits.test)) <= 1


@hypothesis.given(st.lists(st.integers(-5, 5), min_size=6, max_size=60))
def test_chronological_split_predicts_the_future(order):
  data = make(order)
  splits = ratings.split_ratings(data, kind="chronological")
  rows = np.concatenate(splits)
  steps = np.diff(data.order[rows])
  assert (steps >= 0).all()
  # Of equal times, the first in the file is first.
  assert (np.diff(rows)[steps == 0] > 0).all()
  other = ratings.split_ratings(data, kind="chronological", seed=7)
  np.testing.assert_array_equal(other.test, splits.test)


def test_random_split_depends_on_the_seed_alone():
  data = make(np.arange(100))
  first = ratings.split_ratings(data, kind="random", seed=1)
  again = ratings.split_ratings(make(-np.arange(100)), kind="random", seed=1)
  other = ratings.split_ratings(data, kind="random", seed=2)
  np.testing.assert_array_equal(first.train, again.train)
  assert set(first.test) != set(other.test)
  expected = np.random.default_rng(1).permutation(100)
  np.testing.assert_array_equal(np.concatenate(first), expected)


@pytest.mark.parametrize(("seed", "used"), [(0, 1446557), (1, 1), (5, 5)])
def test_published_split_has_no_test_set(seed, used):
  splits = ratings.split_ratings(
    make(np.arange(95)), kind="published", seed=seed
  )
  expected = np.random.RandomState(used).permutation(95)
  np.testing.assert_array_equal(splits.train, expected[:85])
  np.testing.assert_array_equal(splits.valid, expected[85:])
  assert splits.test is splits.valid


@pytest.mark.parametrize(
  ("kind", "needed"), [("random", 6), ("chronological", 6), ("published", 2)]
)
def test_no_split_may_be_empty(kind, needed):
  for count in range(needed):
    message = f"at least {needed} ratings for the split '{kind}'.* got {count}"
    with pytest.raises(ValueError, match=message):
      ratings.split_ratings(make(np.arange(count)), kind=kind)
  for count in range(needed, 40):
    splits = ratings.split_ratings(make(np.arange(count)), kind=kind)
    assert all(len(split) for split in splits)


def test_unknown_split_lists_the_known():
  with pytest.raises(ValueError, match="'given', got 'temporal'"):
    ratings.split_ratings(make(np.arange(10)), kind="temporal")  # pyright: ignore[reportArgumentType]


def given(num_train, *, count=20):
  return make(np.arange(count))._replace(num_train=num_train)


@pytest.mark.parametrize(("share", "num_valid"), [(0.0, 0), (0.25, 3)])
def test_given_split_keeps_the_test_and_sets_some_training_aside(
  share, num_valid
):
  splits = ratings.split_ratings(given(12), kind="given", valid_share=share)
  np.testing.assert_array_equal(splits.test, np.arange(12, 20))
  assert len(splits.valid) == num_valid
  train = np.concatenate([splits.train, splits.valid])
  np.testing.assert_array_equal(np.sort(train), np.arange(12))
  seeds = [
    ratings.split_ratings(given(12), kind="given", valid_share=0.5, seed=seed)
    for seed in (0, 0, 1)
  ]
  assert set(seeds[0].valid) == set(seeds[1].valid) != set(seeds[2].valid)


def test_given_split_must_be_there():
  with pytest.raises(ValueError, match=r"come with a split for .* 'toy'"):
    ratings.split_ratings(given(0), kind="given")
  with pytest.raises(ValueError, match=r"in \[0, 1\), got 1.0"):
    ratings.split_ratings(given(3), kind="given", valid_share=1.0)


def test_own_test_file_shares_its_ids(tmp_path):
  paths = [tmp_path / "train.csv", tmp_path / "test.csv"]
  paths[0].write_text("user,item,rating\nann,tea,4\nbob,rum,1\n")
  paths[1].write_text("user,item,rating\nbob,tea,3\ncat,gin,2\n")
  data = ratings.load_ratings(f"csv:{paths[0]}", test_file=paths[1])
  assert data.num_train == 2
  assert data.user_names == ("ann", "bob", "cat")
  assert data.item_names == ("tea", "rum", "gin")
  assert data.users.tolist() == [0, 1, 1, 2]
  assert data.items.tolist() == [0, 1, 0, 2]
  assert data.values.tolist() == [4, 1, 3, 2]


@hypothesis.given(st.data())
def test_time_batches_follow_each_other(draw):
  order = draw.draw(st.lists(st.integers(-3, 3), min_size=1, max_size=30))
  data = make(order)
  rows = draw.draw(st.permutations(range(len(order))))
  rows = np.array(rows[: draw.draw(st.integers(1, len(rows)))])
  num_batches = draw.draw(st.integers(1, len(rows)))
  batches = rating_batches.time_batches(data, rows, num_batches=num_batches)
  assert len(batches) == num_batches
  sizes = [len(batch) for batch in batches]
  assert max(sizes) - min(sizes) <= 1
  joined = np.concatenate(batches)
  assert sorted(joined) == sorted(rows)
  keys = list(zip(data.order[joined], joined, strict=True))
  assert keys == sorted(keys)


def test_time_batches_leave_the_rows_as_they_are():
  rows = np.array([2, 0, 1])
  rating_batches.time_batches(make([3, 2, 1]), rows, num_batches=2)
  np.testing.assert_array_equal(rows, [2, 0, 1])


@pytest.mark.parametrize(
  ("num_batches", "message"),
  [
    (0, "`num_batches` must be at least 1, got 0"),
    (4, "at most the number of ratings, got 4 batches of 3 ratings"),
  ],
)
def test_no_time_batch_may_be_empty(num_batches, message):
  with pytest.raises(ValueError, match=message):
    rating_batches.time_batches(
      make(np.arange(3)), np.arange(3), num_batches=num_batches
    )
