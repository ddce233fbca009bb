"""Tests of what is said about files of interactions that are not right."""

import gzip
import json
import re
import sys

import numpy as np
import pyarrow as pa
import pytest
from array_record.python import array_record_module
from pyarrow import parquet

from experiments.datasets import interactions, interactions_made_up
from experiments.datasets import interactions_ids as ids_lib
from experiments.datasets import interactions_sources as sources
from experiments.datasets import interactions_splits as splits
from experiments.datasets.interactions_columns import Column

USER = Column("user", "symbol")
ITEM = Column("item", "symbol")
COLUMNS = {"user": USER, "rating": Column("rating", "number")}
HEADER = "user,item,rating\n"


def write_table(path, **columns):
  parquet.write_table(pa.table(columns), path)
  return path


def write_records(path, *records):
  writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
  for record in records:
    is_raw = isinstance(record, bytes)
    writer.write(record if is_raw else json.dumps(record).encode())
  writer.close()
  return path


def read_error(path, columns=None, *, encoders=None, split=None, error=None):
  """What reading says, after the name of the file."""

  def read():
    source = sources.open_source(path, columns=columns or COLUMNS)
    interactions.survey(
      source, encoders=encoders or {}, split=split, num_parts=3
    )

  with pytest.raises(error or ValueError) as caught:
    read()
  return re.sub(r"\S*/", "", str(caught.value))


@pytest.mark.parametrize(
  ("content", "message"),
  [
    (HEADER + "a,x,1\n\nb,x,good\n", "line 4: `rating` must be a finite num"),
    (HEADER + "a,x,1\nb,x,nan\n", "line 3: `rating` must be a finite number"),
    (HEADER + "a,x,1\nb,x,\n", "line 3: `rating` must be a finite number, "),
    (HEADER + "a,x,1e39\n", "line 2: `rating` must be a finite number, but"),
    (HEADER + 'a,"x\ny",1\n,x,1\n', "line 4: `user` must be text or a whole"),
    (HEADER + "a,x,1\nb,1\n", "line 3: there must be 3 fields, as in the fir"),
    (HEADER + "a,x,1\nb,x,1,1\n", "line 3: there must be 3 fields, as in the"),
    (HEADER + "a,x,1\n" + HEADER + "b,x,1\n", "line 3: the header is there tw"),
    (HEADER + 'a,x,1\n"b,x,1\nc,x,1\n', "line 4: there must be 3 fields"),
    ("", "is empty, or begins with an empty line"),
    ("\n" + HEADER + "a,x,1\n", "is empty, or begins with an empty line"),
    (HEADER, "holds no rows"),
    ("user,item\na,x\n", "must have the column 'rating', got ['user', 'item']"),
    ("user,user,rating\na,b,1\n", "must name the column 'user' once, got ["),
    (HEADER.encode() + b"a,x,1\n\xff,x,2\n", "line 3: `user` must be text or"),
    (b"us\xff,rating\n", "must have the column 'user', got ['us?', 'rating']"),
  ],
)
def test_bad_text(tmp_path, content, message):
  content = content if isinstance(content, bytes) else content.encode()
  path = tmp_path / "mine.csv"
  path.write_bytes(content)
  found = read_error(path)
  assert found.startswith(("mine.csv ", "mine.csv, ")), found
  assert message in found
  packed = tmp_path / "mine.csv.gz"
  packed.write_bytes(gzip.compress(content))
  assert message in read_error(packed)


def test_header_twice_where_nothing_is_a_number(tmp_path):
  path = tmp_path / "mine.csv"
  path.write_text("user,item\na,x\nuser,y\nuser,item\nb,x\n")
  found = read_error(path, {"user": USER, "item": ITEM})
  assert found.startswith("mine.csv, line 4: the header is there twice")


def test_symbols_named_as_a_column_are_no_header(tmp_path):
  path = tmp_path / "mine.csv"
  path.write_text("user,item\na,x\nuser,y\n")
  source = sources.open_source(path, columns={"user": USER, "item": ITEM})
  assert interactions.survey(source, encoders={}).num_rows == (2,)


@pytest.mark.parametrize("keep", [0.5, 0.999])
def test_text_that_is_packed_and_cut_off(tmp_path, keep):
  path = tmp_path / "mine.csv.gz"
  interactions_made_up.write_interactions(path, 5000)
  data = path.read_bytes()
  path.write_bytes(data[: int(keep * len(data))])
  found = read_error(path)
  assert found.startswith("mine.csv.gz is damaged or cut off after line ")


def test_text_that_only_seems_to_be_packed(tmp_path):
  path = tmp_path / "mine.csv.gz"
  path.write_text(HEADER + "a,x,1\n")
  assert read_error(path).startswith("mine.csv.gz is damaged or cut off: ")


@pytest.mark.parametrize(
  ("columns", "message"),
  [
    ({"user": ["a"]}, "must have the column 'rating', got ['user']"),
    (
      {"user": ["a"], "rating": ["1"]},
      ": the column 'rating' must be of numbers, got the type string",
    ),
    (
      {"user": [0.5], "rating": [1.0]},
      ": the column 'user' must be text or whole numbers, got the type double",
    ),
    (
      {"user": ["a", None], "rating": [1.0, 2.0]},
      ", row group 0, row 1 of it: `user` must be text or a whole number that",
    ),
    (
      {"user": ["a", "b"], "rating": [1.0, None]},
      ", row group 0, row 1 of it: `rating` must be a finite number, but it is",
    ),
    (
      {"user": ["a", "b"], "rating": [1.0, np.inf]},
      ", row group 0, row 1 of it: `rating` must be a finite number, but it is",
    ),
    ({"user": [], "rating": []}, "holds no rows"),
  ],
)
def test_bad_tables(tmp_path, columns, message):
  types = {"user": None, "rating": None}
  if not columns["user"]:
    types = {"user": pa.string(), "rating": pa.float64()}
  arrays = {n: pa.array(column, types[n]) for n, column in columns.items()}
  found = read_error(write_table(tmp_path / "mine.parquet", **arrays))
  assert found.startswith("mine.parquet")
  assert message in found


def test_table_with_text_that_is_no_text(tmp_path):
  users = pa.array([b"a", b"\xff", b"a"]).view(pa.string())
  path = write_table(tmp_path / "mine.parquet", user=users, rating=[1, 2, 3])
  found = read_error(path)
  assert "row group 0, row 1 of it: `user`" in found
  assert "no UTF-8 text" in found


@pytest.mark.parametrize("keep", [0, 0.5, 0.99])
def test_tables_that_are_cut_off(tmp_path, keep):
  path = tmp_path / "mine.parquet"
  interactions_made_up.write_interactions(path, 2000)
  data = path.read_bytes()
  path.write_bytes(data[: int(keep * len(data))])
  found = read_error(path)
  assert found.startswith(
    "mine.parquet is damaged or cut off: " if keep else "mine.parquet holds no"
  )


def test_tables_that_are_damaged_inside(tmp_path):
  path = tmp_path / "mine.parquet"
  interactions_made_up.write_interactions(path, 2000)
  data = bytearray(path.read_bytes())
  data[4:400] = bytes(b ^ 0x5A for b in data[4:400])
  path.write_bytes(data)
  found = read_error(path)
  assert found.startswith("mine.parquet, row group 0, is damaged or cut off: ")


def test_shards_with_other_types(tmp_path):
  write_table(tmp_path / "a.parquet", user=["a"], rating=[1.0])
  write_table(tmp_path / "b.parquet", user=[7], rating=[1.0])
  found = read_error(tmp_path)
  assert found == (
    "b.parquet: the column 'user' must have the type string, as in a.parquet, "
    "got int64. Write all files with one schema."
  )


def test_shards_of_text_with_other_columns(tmp_path):
  (tmp_path / "a.csv").write_text(HEADER + "a,x,1\n")
  (tmp_path / "b.csv").write_text("who,item,rating\na,x,1\n")
  assert read_error(tmp_path).startswith("b.csv must have the column 'user'")


@pytest.mark.parametrize("empty", ["", HEADER])
def test_shards_that_are_empty(tmp_path, empty):
  (tmp_path / "a.csv").write_text(HEADER + "a,x,1\n")
  (tmp_path / "b.csv").write_text(empty)
  assert read_error(tmp_path).startswith("b.csv ")


GOOD = {"user": "a", "rating": 1}


@pytest.mark.parametrize(
  ("record", "message"),
  [
    ({"user": "b"}, "`rating` must be a finite number, but it is missing"),
    ({**GOOD, "user": None}, "`user` must be text or a whole number that is"),
    ({**GOOD, "user": 7}, "`user` must be of the type string, as in the first"),
    ({**GOOD, "rating": "good"}, "`rating` must be of the type double, got 'g"),
    ({**GOOD, "user": ""}, "`user` must be text or a whole number that is not"),
    (b"", "a record must be a JSON object in UTF-8"),
    (b'{"user": "b", "rating"', "a record must be a JSON object in UTF-8"),
    (b'{"user": "\xff", "rating": 1}', "not empty, but it is no UTF-8 text"),
    (b'{"user":"b","rating":1}\n{"user":"c","rating":1}', "a record must be a"),
    (b"[1, 2]", "a record must be a JSON object, got b'[1, 2]'"),
  ],
)
def test_bad_records(tmp_path, record, message):
  path = write_records(tmp_path / "mine.array_record", GOOD, record, GOOD)
  found = read_error(path)
  assert found.startswith("mine.array_record, record 1: ")
  assert message in found


@pytest.mark.parametrize(
  ("record", "message"),
  [
    ({"user": "a"}, "must have the column 'rating', got ['user']"),
    ({**GOOD, "user": 0.5}, "record 0: `user` must be an id or a finite numb"),
    ({**GOOD, "user": None}, "record 0: `user` must be an id or a finite num"),
    ({**GOOD, "user": 2**63}, "record 0: `user` must be an id or a finite nu"),
    ({**GOOD, "rating": True}, "record 0: `rating` must be an id or a finite"),
    (b"{", "record 0: a record must be a JSON object in UTF-8"),
  ],
)
def test_first_records_that_are_bad(tmp_path, record, message):
  found = read_error(write_records(tmp_path / "mine.array_record", record))
  assert found.startswith("mine.array_record")
  assert message in found


def test_shards_of_records_with_other_types(tmp_path):
  write_records(tmp_path / "a.array_record", GOOD)
  write_records(tmp_path / "b.array_record", {**GOOD, "user": 7})
  assert read_error(tmp_path) == (
    "b.array_record, record 0: `user` must be an id or a finite number of the "
    "type that it has in a.array_record, got 7."
  )


def test_records_that_are_missing(tmp_path):
  assert "holds no rows" in read_error(
    write_records(tmp_path / "a.array_record")
  )
  (tmp_path / "a.array_record").write_bytes(b"")
  assert "holds no rows" in read_error(tmp_path / "a.array_record")


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.99])
def test_records_that_are_cut_off(tmp_path, keep):
  path = tmp_path / "mine.array_record"
  interactions_made_up.write_interactions(path, 2000)
  data = path.read_bytes()
  path.write_bytes(data[: int(keep * len(data))])
  found = read_error(path)
  assert found == "mine.array_record is damaged or cut off: it has no valid end"


def test_records_that_are_damaged_inside(tmp_path):
  path = tmp_path / "mine.array_record"
  interactions_made_up.write_interactions(path, 2000)
  data = bytearray(path.read_bytes())
  data[2000] ^= 1
  path.write_bytes(data)
  assert read_error(path).startswith("mine.array_record is damaged or cut off:")


def test_unknown_symbols_are_named(tmp_path):
  path = tmp_path / "mine.csv"
  path.write_text(HEADER + "a,x,1\n\nb,x,1\n")
  vocabulary = ids_lib.Vocabulary(["a"], refuse_unknown=True)
  found = read_error(path, encoders={"user": vocabulary})
  assert found.startswith(
    "mine.csv, line 4: `user` is 'b', which is not in the"
  )


def test_parts_that_are_none(tmp_path):
  path = tmp_path / "mine.csv"
  path.write_text("user,rating,split\na,1,train\nb,1,dev\n")
  columns = {**COLUMNS, "split": Column("split", "symbol")}
  found = read_error(path, columns, split=splits.column_split)
  assert found == (
    "mine.csv, line 3: `split` must be one of train, valid, test, got 'dev'."
  )


def test_files_that_are_missing(tmp_path):
  found = read_error(tmp_path / "no.csv", error=FileNotFoundError)
  assert found == "no.csv is neither a file nor a folder."
  found = read_error(tmp_path, error=FileNotFoundError)
  assert found.endswith("holds no files.")


def test_files_of_other_kinds(tmp_path):
  (tmp_path / "a.xlsx").write_text("")
  assert "must end in one of .csv, .tsv," in read_error(tmp_path)
  (tmp_path / "a.xlsx").rename(tmp_path / "a.csv")
  (tmp_path / "b.parquet").write_text("")
  assert "all files must be of one kind, got" in read_error(tmp_path)


@pytest.mark.parametrize(
  ("package", "suffix", "extra"),
  [("pyarrow", ".csv", "parquet"), ("array_record", ".array_record", "exper")],
)
def test_packages_that_are_missing(
  tmp_path, package, suffix, extra, monkeypatch
):
  (tmp_path / f"mine{suffix}").write_text(HEADER)
  for name in [*sys.modules]:
    if name.split(".")[0] == package:
      monkeypatch.setitem(sys.modules, name, None)
  monkeypatch.setitem(sys.modules, package, None)
  for name in ("text", "records"):
    module = f"experiments.datasets.interactions_{name}"
    monkeypatch.delitem(sys.modules, module, raising=False)
  found = read_error(tmp_path, error=ImportError)
  assert f"need {package}: pip install 'anchor-codes[{extra}" in found
