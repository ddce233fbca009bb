"""Tests of the user's own ratings."""

import csv
import re

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from experiments.datasets import ratings_csv

HEADER = "user,item,rating,timestamp\n"


def write(folder, content):
  path = folder / "mine.csv"
  path.write_bytes(content if isinstance(content, bytes) else content.encode())
  return path


def read(folder, content):
  return ratings_csv.read_csv(write(folder, content))


def read_error(folder, content):
  path = write(folder, content)
  with pytest.raises(ValueError, match=re.escape(str(path))) as caught:
    ratings_csv.read_csv(path)
  return str(caught.value).removeprefix(f"{path}, ")


def test_ids_are_numbered_by_first_appearance(tmp_path):
  data = read(tmp_path, HEADER + "bob,tea,4.5,7\nann,rum,1,9\nbob,rum,2e0,8\n")
  assert data.user_names == ("bob", "ann")
  assert data.item_names == ("tea", "rum")
  np.testing.assert_array_equal(data.users, [0, 1, 0])
  np.testing.assert_array_equal(data.items, [0, 1, 1])
  np.testing.assert_array_equal(data.values, [4.5, 1, 2])
  np.testing.assert_array_equal(data.order, [7, 9, 8])


def test_columns_have_their_types_and_are_read_only(tmp_path):
  data = read(tmp_path, HEADER + "a,b,1,2\n")
  columns = data.users, data.items, data.values, data.order
  dtypes = [column.dtype for column in columns]
  assert dtypes == [np.int32, np.int32, np.float32, np.int64]
  assert not any(column.flags.writeable for column in columns)


def test_name_and_source_tell_the_path(tmp_path):
  data = read(tmp_path, HEADER + "a,b,1,2\n")
  path = tmp_path / "mine.csv"
  assert data.name == f"csv:{path}"
  assert data.source == f"the user's file {path}"


@pytest.mark.parametrize(
  "content",
  [
    "user,item,rating\na,x,1\nb,x,2\n",
    "rating,user,item\n1,a,x\n2,b,x\n",
    "item,note,rating,user\nx,,1,a\nx,nan,2,b\n",
    " user , item, rating\na,x,1\nb,x,2\n",
    "user,item,rating\r\na,x,1\r\nb,x,2\r\n",
    "\ufeffuser,item,rating\na,x,1\nb,x,2",
    '\ufeff"user","item","rating"\n"a","x","1"\n"b","x","2"\n',
    "user,item,rating\n\na,x,1\n\n\nb,x,2\n\n",
    "user,item,rating,note,note\na,x,1,,\nb,x,2,,\n",
  ],
)
def test_forms_of_the_same_file(tmp_path, content):
  data = read(tmp_path, content)
  assert data.user_names == ("a", "b")
  assert data.item_names == ("x",)
  np.testing.assert_array_equal(data.users, [0, 1])
  np.testing.assert_array_equal(data.values, [1, 2])
  np.testing.assert_array_equal(data.order, [0, 1])


def test_quoted_ids_hold_anything(tmp_path):
  content = 'user,item,rating\n"a, ""b""","x\r\ny",1\n\u2028,\x85,2\n'
  data = read(tmp_path, content)
  assert data.user_names == ('a, "b"', "\u2028")
  assert data.item_names == ("x\r\ny", "\x85")


def test_ids_are_strings(tmp_path):
  data = read(tmp_path, "user,item,rating\n1,1,1\n01,1.0,1\n 1,1,1\n")
  assert data.user_names == ("1", "01", " 1")
  assert data.item_names == ("1", "1.0")


def test_equal_pairs_are_ratings_of_their_own(tmp_path):
  data = read(tmp_path, "user,item,rating\na,x,1\na,x,1\n")
  np.testing.assert_array_equal(data.users, [0, 0])


@pytest.mark.parametrize(
  ("times", "order"),
  [
    (["1500000000", "900000000", "-5"], [1500000000, 900000000, -5]),
    (["3.0", "1e3", "2"], [3, 1000, 2]),
    # Ranks, and equal ones for equal times.
    (["0.5", "0.25", "0.5"], [1, 0, 1]),
    (["1e300", "1e18", "0"], None),
    (["1e18", "1e17", "1e19"], [1, 0, 2]),
  ],
)
def test_time_gives_an_order(tmp_path, times, order):
  lines = "".join(f"a,x,1,{time}\n" for time in times)
  if order is None:
    assert "finite number, got '1e300'" in read_error(tmp_path, HEADER + lines)
  else:
    data = read(tmp_path, HEADER + lines)
    np.testing.assert_array_equal(data.order, order)


IDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=5)
NUMBERS = st.floats(-(2.0**100), 2.0**100, width=32)


@hypothesis.given(
  rows=st.lists(st.tuples(IDS, IDS, NUMBERS), min_size=1, max_size=20)
)
def test_what_was_written_is_read(tmp_path_factory, rows):
  path = tmp_path_factory.mktemp("csv") / "mine.csv"
  with path.open("w", encoding="utf-8", newline="") as file:
    writer = csv.writer(file, quoting=csv.QUOTE_ALL)
    writer.writerows([("user", "item", "rating"), *rows])
  data = ratings_csv.read_csv(path)
  found = zip(
    [data.user_names[user] for user in data.users],
    [data.item_names[item] for item in data.items],
    data.values.tolist(),
    strict=True,
  )
  assert list(found) == rows
  for names, ids in (
    (data.user_names, data.users),
    (data.item_names, data.items),
  ):
    assert len(set(names)) == len(names)
    # A new id is one more than the largest before it.
    largest = np.maximum.accumulate(ids)
    assert set(np.diff(largest, prepend=-1)) <= {0, 1}
    assert largest[-1] == len(names) - 1


@pytest.mark.parametrize("name", ["user", "item", "rating"])
def test_missing_column(tmp_path, name):
  header = HEADER.replace(name, "other")
  message = read_error(tmp_path, header + "1,2,3,4\n")
  assert message.startswith("line 1: the header must name the columns")
  assert f"`{name}` is missing" in message
  assert "'other'" in message
  assert "user,item,rating[,timestamp]" in message
  assert "Rename or add" in message


def test_other_separators_show_in_the_message(tmp_path):
  message = read_error(tmp_path, "user;item;rating\n1;2;3\n")
  assert "between commas, got ['user;item;rating']" in message


@pytest.mark.parametrize("name", ["user", "item", "rating", "timestamp"])
def test_duplicate_column(tmp_path, name):
  message = read_error(tmp_path, f"{HEADER.strip()},{name}\n1,2,3,4,5\n")
  assert message.startswith(f"line 1: the header must name `{name}` once, got ")
  assert "Rename all but one" in message


@pytest.mark.parametrize(
  ("row", "found"), [("1,2,3", 3), ("1,2,3,4,5", 5), ("1", 1), ("a,b,c,1,", 5)]
)
def test_wrong_number_of_fields(tmp_path, row, found):
  message = read_error(tmp_path, f"{HEADER}1,2,3,4\n{row}\n")
  assert message.startswith("line 3: there must be 4 fields, as in the header")
  assert f"got {found}: {row.split(',')}" in message
  assert "quotation marks" in message


@pytest.mark.parametrize(
  "text", ["", "good", "nan", "inf", "-inf", "1e39", "4,5"]
)
@pytest.mark.parametrize("name", ["rating", "timestamp"])
def test_numbers_are_finite(tmp_path, name, text):
  values = {"user": "a", "item": "b", "rating": 1, "timestamp": 2, name: text}
  row = ",".join(f'"{value}"' for value in values.values())
  message = read_error(tmp_path, f"{HEADER}a,b,1,2\n\n{row}\n")
  assert message.startswith(f"line 4: `{name}` must be a finite number, got ")
  assert repr(text) in message
  assert "Correct or remove" in message


@pytest.mark.parametrize("row", [",b,1,2", "a,,1,2", ",,1,2", '"",b,1,2'])
def test_ids_are_not_empty(tmp_path, row):
  message = read_error(tmp_path, f"{HEADER}{row}\n")
  assert message.startswith("line 2: `user` and `item` must not be empty, got")
  assert "Fill them in" in message


@pytest.mark.parametrize("content", ["", "\n", "\ufeff"])
def test_empty_file(tmp_path, content):
  message = read_error(tmp_path, content)
  assert message.startswith("line 1: there is no header")
  assert "user,item,rating[,timestamp]" in message


@pytest.mark.parametrize("content", [HEADER, HEADER.strip(), HEADER + "\n\n"])
def test_no_rows(tmp_path, content):
  assert "there is no rating below the header" in read_error(tmp_path, content)


@pytest.mark.parametrize("row", ['"a,b,1,2', '"a"b,c,1,2'])
def test_broken_quotes(tmp_path, row):
  message = read_error(tmp_path, f"{HEADER}{row}\n")
  assert message.startswith(("line 2: unexpected end", "line 2: ',' expected"))


def test_lines_inside_of_quotes_count(tmp_path):
  message = read_error(tmp_path, f'{HEADER}"a\nb",c,1,2\nd,e,f,3\n')
  assert message.startswith("line 4: `rating` must be a finite number, got 'f'")


@pytest.mark.parametrize("good_rows", [0, 1, 20_000])
def test_bytes_that_are_not_utf8_are_located(tmp_path, good_rows):
  content = (HEADER + "a,b,1,2\n" * good_rows).encode() + b"caf\xe9,b,1,2\n"
  message = read_error(tmp_path, content)
  assert message.startswith(f"line {good_rows + 2}: the file must be UTF-8")
  assert "got byte 0xe9. Save it with the encoding UTF-8" in message


def test_file_that_ends_inside_of_a_character(tmp_path):
  message = read_error(tmp_path, HEADER.encode() + b"a,b,1,2\n\xc3")
  assert message.startswith(
    "line 3: the file must be UTF-8 text, got byte 0xc3"
  )


def test_file_must_exist(tmp_path):
  for path in (tmp_path / "none.csv", tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
      ratings_csv.read_csv(path)
    assert f"The file of ratings {path} does not exist" in str(caught.value)


def test_file_may_be_in_the_home_folder(tmp_path, monkeypatch):
  write(tmp_path, HEADER + "a,b,1,2\n")
  monkeypatch.setenv("HOME", str(tmp_path))
  assert len(ratings_csv.read_csv("~/mine.csv").values) == 1


def test_memory_is_that_of_the_columns(tmp_path):
  tracemalloc = pytest.importorskip("tracemalloc")
  count = 30_000
  lines = "".join(f"{i % 50},{i % 20},3.5,{i}\n" for i in range(count))
  path = write(tmp_path, HEADER + lines)
  del lines
  tracemalloc.start()
  try:
    ratings_csv.read_csv(path)
    _, peak = tracemalloc.get_traced_memory()
  finally:
    tracemalloc.stop()
  # 20 bytes a row, room to grow, the order, and the time as a whole number.
  assert peak < 60 * count
