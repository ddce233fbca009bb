"""Tests of ratings through TensorFlow Datasets, without TensorFlow."""

import builtins
import json
import os
import sys

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from experiments.datasets import ratings, ratings_tfds

tfds = pytest.importorskip(
  "tensorflow_datasets", reason="tensorflow-datasets is not installed"
)
pytest.importorskip(
  "array_record.python.array_record_module",
  reason="array_record is not installed",
)

CONFIG = "latest-small-ratings"
# Users and movies whose order as text is not that as numbers.
RATINGS_CSV = """userId,movieId,rating,timestamp
10,110,0.5,30
10,9,5.0,10
9,110,3.0,20
9,9,4.5,20
2,1000,1.0,-5
"""
MOVIES_CSV = """movieId,title,genres
9,A (1995),Drama
110,"B, C (1996)",Drama|War
1000,D,(no genres listed)
"""


def make(users, items=None, name="toy", **changes):
  count = len(users)
  columns = {
    "users": users,
    "items": np.zeros(count, int) if items is None else items,
    "values": np.arange(count) / 2,
    "order": np.arange(count) * 10**12,
    "user_names": [f"user {i}" for i in range(max(users, default=0) + 1)],
    "item_names": ["a\n\u2028", "\xe9, \x00"],
    "source": "ours",
    **changes,
  }
  return ratings.make_ratings(name, **columns)


def assert_equal(first, second):
  for one, other in zip(first, second, strict=True):
    if isinstance(one, np.ndarray):
      assert one.dtype == other.dtype
      np.testing.assert_array_equal(one, other)
    else:
      assert one == other


@pytest.fixture(name="prepared", scope="module")
def fixture_prepared(tmp_path_factory):
  """The folder of ratings of three users, of whom one has none."""
  folder = tmp_path_factory.mktemp("prepared")
  data = make([0, 0, 2], [1, 0, 1], user_names=["\xe9", "none", "c"])
  ratings_tfds.prepare_ratings(data, folder)
  return folder, data


@pytest.fixture(name="official", scope="module")
def fixture_official(tmp_path_factory):
  """The folder of TFDS's own MovieLens, prepared from a small archive.

  The archive counts as downloaded and unpacked, so that no network is needed.
  """
  pytest.importorskip("importlib_resources")
  from tensorflow_datasets.core.download import resource
  from tensorflow_datasets.structured import movielens  # noqa: F401

  folder = tmp_path_factory.mktemp("official")
  builder = tfds.builder(
    f"movielens/{CONFIG}", data_dir=folder, file_format="array_record"
  )
  url = builder.builder_config.download_url
  info = builder.url_infos[url]
  archive = resource.get_dl_fname(url, info.checksum)
  downloads = folder / "downloads"
  content = downloads / "extracted" / f"ZIP.{archive}" / "ml-latest-small"
  content.mkdir(parents=True)
  (content / "ratings.csv").write_text(RATINGS_CSV)
  (content / "movies.csv").write_text(MOVIES_CSV)
  (downloads / "movielens").mkdir()
  (downloads / "movielens" / archive).touch()
  known = {
    "urls": [url],
    "dataset_names": ["movielens"],
    "original_fname": "ml-latest-small.zip",
    "url_info": {
      "size": info.size,
      "checksum": info.checksum,
      "filename": "ml-latest-small.zip",
    },
  }
  marker = downloads / "movielens" / f"{archive}.INFO"
  marker.write_text(json.dumps(known))
  builder.download_and_prepare()
  return folder


def shard(path):
  (found,) = path.glob("*.array_record*")
  return found


def test_what_was_prepared_is_read(prepared):
  folder, data = prepared
  assert_equal(ratings_tfds.read_prepared("toy", folder), data)


def test_arrays_are_read_only(prepared):
  data = ratings_tfds.read_prepared("toy", prepared[0])
  for column in (data.users, data.items, data.values, data.order):
    assert not column.flags.writeable


def test_a_record_is_a_user(prepared):
  path = ratings_tfds.prepared_path("toy", prepared[0])
  builder = tfds.builder_from_directory(path)
  source = builder.as_data_source("train")
  assert len(source) == 3
  assert [record["user"].decode() for record in source] == ["\xe9", "none", "c"]
  np.testing.assert_array_equal(source[0]["items"], [1, 0])
  np.testing.assert_array_equal(source[1]["order"], [])
  np.testing.assert_array_equal(source[2]["ratings"], [1.0])
  assert builder.info.metadata["num_ratings"] == 3
  assert builder.info.file_format.value == "array_record"
  assert builder.info.description == "ours"


@hypothesis.settings(max_examples=5)
@hypothesis.given(st.lists(st.integers(0, 4), min_size=1, max_size=12))
def test_rows_come_back_by_user(tmp_path_factory, users):
  data = make(users)
  folder = tmp_path_factory.mktemp("rows")
  ratings_tfds.prepare_ratings(data, folder)
  rows = np.argsort(users, kind="stable")
  expected = data._replace(
    users=data.users[rows],
    items=data.items[rows],
    values=data.values[rows],
    order=data.order[rows],
  )
  assert_equal(ratings_tfds.read_prepared("toy", folder), expected)


def test_users_are_read_in_batches(prepared, monkeypatch):
  folder, data = prepared
  monkeypatch.setattr(ratings_tfds, "_USERS_AT_ONCE", 2)
  assert_equal(ratings_tfds.read_prepared("toy", folder), data)


def test_preparing_again_replaces(tmp_path):
  ratings_tfds.prepare_ratings(make([0, 1, 2]), tmp_path)
  second = make([0, 0])
  path = ratings_tfds.prepare_ratings(second, tmp_path)
  assert path == ratings_tfds.prepared_path("toy", tmp_path)
  assert_equal(ratings_tfds.read_prepared("toy", tmp_path), second)


@pytest.mark.parametrize("name", ["csv:../a b%.csv", "csv:/home/\xe9{}[]*.csv"])
def test_names_are_any_text(tmp_path, name):
  data = make([0], name=name)
  path = ratings_tfds.prepare_ratings(data, tmp_path)
  assert path.parents[2] == tmp_path
  assert_equal(ratings_tfds.read_prepared(name, tmp_path), data)


def test_folder_may_be_in_the_home_folder(prepared, monkeypatch):
  folder, data = prepared
  monkeypatch.setenv("HOME", str(folder))
  assert_equal(ratings_tfds.read_prepared("toy", "~"), data)


def test_unprepared_ratings_are_told(tmp_path):
  with pytest.raises(FileNotFoundError, match="'toy' are not prepared in") as e:
    ratings_tfds.read_prepared("toy", tmp_path)
  assert str(tmp_path / "toy" / "ratings_by_user" / "1.0.0") in str(e.value)
  assert "prepare_ratings" in str(e.value)


def damage_metadata(path, **changes):
  metadata = json.loads((path / "metadata.json").read_text())
  (path / "metadata.json").write_text(json.dumps({**metadata, **changes}))


def flip(path):
  content = bytearray(path.read_bytes())
  for i in range(70, 200):
    content[i] ^= 255
  path.write_bytes(content)


@pytest.mark.parametrize(
  ("damage", "message"),
  [
    (lambda path: shard(path).unlink(), "No such file"),
    (lambda path: os.truncate(shard(path), 1000), "64KB"),
    (lambda path: flip(shard(path)), ""),
    (lambda path: damage_metadata(path, num_users=4), "`num_users` must be 4"),
    (
      lambda path: damage_metadata(path, num_ratings=9),
      "`num_ratings` must be 9, got 2",
    ),
    (lambda path: (path / "metadata.json").unlink(), ""),
  ],
  ids=["missing", "truncated", "changed", "users", "ratings", "metadata"],
)
def test_damage_is_told(tmp_path, damage, message):
  path = ratings_tfds.prepare_ratings(make([0, 1]), tmp_path)
  damage(path)
  with pytest.raises(ValueError, match="damaged or incomplete") as caught:
    ratings_tfds.read_prepared("toy", tmp_path)
  for part in (str(path), message, "Delete this folder and prepare them again"):
    assert part in str(caught.value)


def test_movielens_is_read_and_kept(official, monkeypatch):
  monkeypatch.setattr(ratings_tfds, "_RATINGS_AT_ONCE", 2)
  data = ratings_tfds.load_movielens(CONFIG, data_dir=official)
  assert data.name == "ml-latest-small"
  assert data.user_names == ("2", "9", "10")
  assert data.item_names == ("9", "110", "1000")
  # By user, time and movie.
  np.testing.assert_array_equal(data.users, [0, 1, 1, 2, 2])
  np.testing.assert_array_equal(data.items, [2, 0, 1, 0, 1])
  np.testing.assert_array_equal(data.values, [1.0, 4.5, 3.0, 5.0, 0.5])
  np.testing.assert_array_equal(data.order, [-5, 20, 20, 10, 30])
  assert "movielens/latest-small-ratings" in data.source
  # The second time from the copy alone.
  monkeypatch.delattr(ratings_tfds, "_find_movielens")
  assert_equal(ratings_tfds.load_movielens(CONFIG, data_dir=official), data)


def test_movielens_agrees_with_its_file(official):
  path = official / "ml-latest-small" / "ratings.csv"
  path.parent.mkdir(exist_ok=True)
  path.write_text(RATINGS_CSV)
  with pytest.warns(UserWarning, match="not the published file"):
    expected = ratings.load_ratings("ml-latest-small", data_dir=official)
  data = ratings_tfds.load_movielens(CONFIG, data_dir=official)
  assert data.user_names == expected.user_names
  assert data.item_names == expected.item_names
  keys = lambda table: sorted(
    zip(table.users, table.items, table.values, table.order, strict=True)
  )
  assert keys(data) == keys(expected)


def test_copy_must_be_writable(official, monkeypatch):
  path = ratings_tfds.prepared_path("ml-latest-small", official)
  monkeypatch.setattr(ratings_tfds, "prepared_path", lambda *_: path / "none")
  monkeypatch.setattr(os, "access", lambda *_: False)
  with pytest.raises(PermissionError, match="must be writable for a copy"):
    ratings_tfds.load_movielens(CONFIG, data_dir=official)


def test_damaged_movielens_is_told(official, tmp_path):
  original = official / "movielens" / CONFIG / "0.1.1"
  copy = tmp_path / "movielens" / CONFIG / "0.1.1"
  copy.mkdir(parents=True)
  for path in original.iterdir():
    (copy / path.name).write_bytes(path.read_bytes())
  os.truncate(shard(copy), 100)
  with pytest.raises(ValueError, match=r"is damaged: .* prepare it again") as e:
    ratings_tfds.load_movielens(CONFIG, data_dir=tmp_path)
  assert str(copy) in str(e.value)


def test_unprepared_movielens_says_how_to_prepare(tmp_path):
  with pytest.raises(FileNotFoundError) as caught:
    ratings.load_ratings("ml-25m", data_dir=tmp_path)
  message = str(caught.value)
  for part in (
    f"`movielens/25m-ratings` is not prepared in {tmp_path}",
    "import tensorflow_datasets as tfds\n",
    f'tfds.builder("movielens/25m-ratings", data_dir="{tmp_path}", '
    'file_format="array_record").download_and_prepare()',
  ):
    assert part in message


def test_other_formats_are_told(tmp_path, official):
  original = official / "movielens" / CONFIG / "0.1.1"
  copy = tmp_path / "movielens" / CONFIG / "0.1.1"
  copy.mkdir(parents=True)
  for path in original.iterdir():
    name = path.name.replace("array_record", "tfrecord")
    content = path.read_bytes()
    if path.suffix == ".json":
      content = content.replace(b"array_record", b"tfrecord")
    (copy / name).write_bytes(content)
  with pytest.raises(NotImplementedError, match=r"file_format=.*array_record"):
    ratings_tfds.load_movielens(CONFIG, data_dir=tmp_path)


@pytest.mark.parametrize("config", ["25m-movies", "25m", ""])
def test_only_ratings_can_be_loaded(config):
  with pytest.raises(ValueError, match=f"end in '-ratings', got '{config}'"):
    ratings_tfds.load_movielens(config)


def test_unknown_config_lists_the_known(tmp_path):
  with pytest.raises(ValueError, match="25m-ratings"):
    ratings_tfds.load_movielens("5m-ratings", data_dir=tmp_path)


def test_default_folder_is_that_of_tfds(tmp_path, monkeypatch):
  monkeypatch.setattr(ratings_tfds.files, "data_folder", lambda _: None)
  monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
  with pytest.raises(FileNotFoundError, match=f"in {tmp_path}/movielens"):
    ratings_tfds.load_movielens()


def test_missing_tfds_says_what_to_install(tmp_path, monkeypatch):
  real_import = builtins.__import__

  def without_tfds(name, *args, **kwargs):
    if name.startswith("tensorflow_datasets"):
      raise ImportError(name)
    return real_import(name, *args, **kwargs)

  monkeypatch.delitem(sys.modules, "tensorflow_datasets")
  monkeypatch.setattr(builtins, "__import__", without_tfds)
  with pytest.raises(ImportError, match=r"anchor-codes\[experiments\]"):
    ratings.load_ratings("ml-25m", data_dir=tmp_path)
