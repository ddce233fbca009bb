"""Tests of the loading of sequences."""

import hashlib

import numpy as np
import pytest

from experiments.datasets import files, sequences, sequences_csv

toy = {
  "user_names": ["ann", "bob", "eve"],
  "item_names": ["tea", "rum", "ale", "gin"],
  "source": "ours",
}


def make_toy():
  # Eve comes first; gin is never taken up.
  return sequences.make_sequences(
    "toy",
    users=[2, 0, 0, 2, 0, 0, 1, 1],
    items=[0, 2, 1, 2, 0, 1, 2, 2],
    order=[9, 3, 1, 8, 4, 4, 0, 1],
    **toy,
  )


def of_user(data, user):
  names = (None, *data.item_names)
  own = data.items[data.offsets[user] : data.offsets[user + 1]]
  return [names[item] for item in own]


def test_each_user_has_its_items_in_the_order_of_time():
  data = make_toy()
  assert data.user_names == ("ann", "bob", "eve")
  assert data.item_names == ("tea", "rum", "ale")
  # The order of the file decides between rum and tea.
  assert of_user(data, 0) == ["rum", "ale", "tea", "rum"]
  assert of_user(data, 2) == ["ale", "tea"]
  assert data.items.min() == 1
  assert data.items.max() == data.num_items == 3


def test_the_last_two_events_are_held_out():
  data = make_toy()
  np.testing.assert_array_equal(data.lengths, [4, 2, 2])
  # Those with less than three events train only.
  np.testing.assert_array_equal(data.train_lengths, [2, 2, 2])
  users, items = data.train_events
  np.testing.assert_array_equal(users, [0, 0, 1, 1, 2, 2])
  np.testing.assert_array_equal(items, data.items[[0, 1, 4, 5, 6, 7]])


def test_users_that_are_all_too_short_are_refused():
  with pytest.raises(ValueError, match=r"three events.* of 2 sequences has 2"):
    sequences.make_sequences("toy", users=[0, 1, 1], items=[0, 0, 1], **toy)


def test_synthetic_sequences_have_an_order_to_learn():
  data = sequences.synthetic_sequences(3, num_users=50, num_items=30)
  again = sequences.synthetic_sequences(3, num_users=50, num_items=30)
  np.testing.assert_array_equal(data.items, again.items)
  assert data.lengths.min() >= 3
  users, items = data.train_events
  steps = np.diff(items)[users[1:] == users[:-1]] % data.num_items
  near = np.isin(steps, [1, 2, 3]).mean()
  assert 0.6 < near < 0.85
  with pytest.raises(ValueError, match="`num_items` must be at least 6"):
    sequences.synthetic_sequences(num_items=5)


def test_own_files_may_have_any_strings_as_ids(tmp_path):
  path = tmp_path / "own.csv"
  path.write_bytes(
    "\ufeffnote,timestamp,item,user\r\n"
    'x,3,"tea, green",ann\r\n\r\ny,1.5,rum,ann\r\nz,2,Öl,ann\r\n'.encode()
  )
  data = sequences.load_sequences(f"csv:{path}")
  assert of_user(data, 0) == ["rum", "Öl", "tea, green"]
  path.write_text("user,item\nann,rum\nann,tea\nann,rum\n", encoding="utf-8")
  assert of_user(sequences.load_sequences(f"csv:{path}"), 0) == [
    "rum",
    "tea",
    "rum",
  ]


def test_quoted_names_keep_their_line_ends(tmp_path):
  path = tmp_path / "own.csv"
  path.write_text('user,item\n"a\nb",x\n"a\nb",y\n"a\nb",z\n' + "ab,x\n" * 3)
  data = sequences.load_sequences(f"csv:{path}")
  assert data.user_names == ("a\nb", "ab")


@pytest.mark.parametrize(
  ("content", "message"),
  [
    ("", r"line 1: the header must name .* user,item\[,time\] .* got \[\]"),
    ("user,thing\nann,tea\n", r"line 1: the header .*'thing'"),
    ("user,item,user\na,b,c\n", "line 1: the header"),
    ("user,item,time,timestamp\n", "line 1: the header"),
    ("user,item\n", "must be an event below the header"),
    ("user,item\nann\n", r"line 2: there must be 2 fields.*\['ann'\]"),
    ("user,item\n,tea\n", "line 2: `user` and `item` must not be empty"),
    ("user,item,time\na,b,nan\n", "line 2: the time must be .* got 'nan'"),
    ("user,item,time\na,b,noon\n", "line 2: the time must be .* got 'noon'"),
    ("user,item\na,b\na,c\n", "three events"),
  ],
)
def test_bad_files_are_explained(tmp_path, content, message):
  path = tmp_path / "own.csv"
  path.write_text(content, encoding="utf-8")
  with pytest.raises(ValueError, match=message):
    sequences.load_sequences(f"csv:{path}")


def test_missing_files_and_names_are_told(tmp_path):
  with pytest.raises(FileNotFoundError, match=r"own\.csv"):
    sequences_csv.read_csv(tmp_path / "own.csv")
  with pytest.raises(FileNotFoundError, match=r"sasrec/Video\.txt"):
    sequences.load_sequences("video", data_dir=tmp_path)
  with pytest.raises(ValueError, match=r"'netflix': take 'ml-1m', 'video'"):
    sequences.load_sequences("netflix")


def write_video(folder, content):
  (folder / "sasrec").mkdir()
  (folder / "sasrec" / "Video.txt").write_text(content)


def test_published_files_are_numbered_anew(tmp_path, monkeypatch):
  content = "1 40\n1 7\n1 40\n3 9\n"
  write_video(tmp_path, content)
  with pytest.warns(UserWarning, match="is not the published file"):
    sequences.load_sequences("video", data_dir=tmp_path)
  digest = hashlib.sha256(content.encode()).hexdigest()
  known = sequences._SASREC["video"]._replace(sha256=digest)
  monkeypatch.setitem(sequences._SASREC, "video", known)
  data = sequences.load_sequences("video", data_dir=tmp_path)
  np.testing.assert_array_equal(data.items, [3, 1, 3, 2])
  assert data.item_names == ("7", "9", "40")
  assert data.user_names == ("1", "3")


@pytest.mark.parametrize(
  ("content", "message"), [("", "it is empty"), ("1 2\n3\n", "a user and an")]
)
@pytest.mark.filterwarnings("ignore:.*not the published file")
def test_damaged_published_files(tmp_path, content, message):
  write_video(tmp_path, content)
  with pytest.raises(ValueError, match=message):
    sequences.load_sequences("video", data_dir=tmp_path)


@pytest.mark.parametrize(
  ("name", "path", "sizes"),
  [
    ("ml-1m", "ml-1m/ratings_order.csv", (999_611, 6_040, 3_416)),
    ("video", "sasrec/Video.txt", (287_107, 31_013, 23_715)),
    ("imdb", "sasrec/imdb.txt", (202_128, 6_889, 18_151)),
  ],
)
def test_published_sizes(name, path, sizes):
  folder = files.data_folder()
  if folder is None or not (folder / path).is_file():
    pytest.skip(f"there is no {path} in the folder of data sets")
  data = sequences.load_sequences(name)
  found = sequences.describe(data)
  assert (found["events"], found["users"], found["items"]) == sizes
  np.testing.assert_array_equal(np.unique(data.items), 1 + np.arange(sizes[2]))
