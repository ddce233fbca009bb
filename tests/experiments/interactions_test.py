"""Tests of files of interactions: what is read, split, counted and numbered."""

import gzip
import itertools
import json

import numpy as np
import pyarrow as pa
import pytest
from array_record.python import array_record_module
from pyarrow import parquet

from experiments.datasets import interactions, interactions_made_up
from experiments.datasets import interactions_ids as ids_lib
from experiments.datasets import interactions_records as records_lib
from experiments.datasets import interactions_sources as sources
from experiments.datasets import interactions_splits as splits
from experiments.datasets import interactions_text as text_lib
from experiments.datasets.interactions_columns import Column

COLUMNS = {
  "user": Column("user", "symbol"),
  "item": Column("item", "symbol"),
  "rating": Column("rating", "number"),
}
TIMED = {**COLUMNS, "timestamp": Column("timestamp", "number")}
SUFFIXES = (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".parquet", ".array_record")
SIZES = {"num_users": 50, "num_items": 20}


def write(path, content):
  path.write_bytes(content if isinstance(content, bytes) else content.encode())
  return path


def write_records(path, records):
  writer = array_record_module.ArrayRecordWriter(str(path), "group_size:4")
  for record in records:
    is_raw = isinstance(record, bytes)
    writer.write(record if is_raw else json.dumps(record).encode())
  writer.close()
  return path


def read(path, columns=None, encoders=None):
  """All rows of a source in its own order, as plain lists."""
  source = sources.open_source(path, columns=columns or COLUMNS)
  return read_part(interactions.Part(source), encoders or {})


def read_part(part, encoders):
  found = {role: [] for role in part.source.columns}
  for piece in part.source.pieces:
    for rows, block in part.read(piece):
      batch = interactions.encode(part.source, piece, rows, block, encoders)
      for role, column in batch.items():
        found[role] += column.tolist()
  return found


def made_up(num_rows, **options):
  blocks = interactions_made_up.make_interactions(num_rows, **SIZES, **options)
  found = {name: [] for name in interactions_made_up.HEADER}
  for block in blocks:
    for name, column in block.items():
      found[name] += column.tolist()
  found["user"] = [f"u{user}" for user in found["user"]]
  found["item"] = [f"i{item}" for item in found["item"]]
  return found


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_all_kinds_give_the_same_rows(tmp_path, suffix, monkeypatch):
  # Many blocks and pieces.
  monkeypatch.setattr(text_lib, "_BLOCK_BYTES", 4096)
  monkeypatch.setattr(records_lib, "_PIECE_RECORDS", 300)
  path = tmp_path / f"made_up{suffix}"
  interactions_made_up.write_interactions(path, 1000, **SIZES)
  assert read(path, TIMED) == made_up(1000)


@pytest.mark.parametrize(
  "content",
  [
    "user,item,rating\na,x,1\nb,y,2.5\n",
    "rating,note,item,user\n1,,x,a\n2.5,?,y,b",
    "\ufeffuser, item ,rating\r\na,x,1\r\nb,y,2.5\r\n",
    'user,item,"rating"\n\n"a","x",1\n\n"b",y,"2.5"\n\n',
    "user,item,rating,note,note\na,x,1,,\nb,y,2.5,,\n",
  ],
)
def test_forms_of_the_same_text(tmp_path, content):
  rows = {"user": ["a", "b"], "item": ["x", "y"], "rating": [1.0, 2.5]}
  assert read(write(tmp_path / "a.csv", content)) == rows
  packed = write(tmp_path / "b.csv.gz", gzip.compress(content.encode()))
  assert read(packed) == rows


def test_quoted_fields_hold_anything(tmp_path):
  text = 'user,item,rating\n"a, ""b""","x\r\ny",1\n\u2028,NULL,2\n'
  found = read(write(tmp_path / "a.csv", text))
  assert found["user"] == ['a, "b"', "\u2028"]
  assert found["item"] == ["x\r\ny", "NULL"]


def test_text_without_a_header_has_numbered_columns(tmp_path):
  path = write(tmp_path / "a.tsv", "7\ta\t3\t1\n8\tb\t4\t1\n")
  columns = {"user": Column("1", "symbol"), "rating": Column("2", "number")}
  assert read(path, columns) == {"user": ["a", "b"], "rating": [3.0, 4.0]}


def test_symbols_are_text_in_all_kinds(tmp_path):
  ids = [7, -1, 2**63 - 1]
  table = pa.table({"user": ids})
  columns = {"user": Column("user", "symbol")}
  expected = {"user": ["7", "-1", "9223372036854775807"]}
  parquet.write_table(table, tmp_path / "a.parquet")
  assert read(tmp_path / "a.parquet", columns) == expected
  path = write_records(tmp_path / "a.array_record", [{"user": i} for i in ids])
  assert read(path, columns) == expected
  lines = "".join(f"{i}\n" for i in ids)
  path = write(tmp_path / "a.csv", "user\n" + lines)
  assert read(path, columns) == expected


@pytest.mark.parametrize(
  "dtype",
  [
    pa.large_string(),
    pa.binary(),
    pa.dictionary(pa.int8(), pa.string()),
  ],
)
def test_text_of_any_type(tmp_path, dtype):
  table = pa.table({"user": pa.array(["a", "b", "a"]).cast(dtype)})
  parquet.write_table(table, tmp_path / "a.parquet")
  columns = {"user": Column("user", "symbol")}
  assert read(tmp_path / "a.parquet", columns) == {"user": ["a", "b", "a"]}


def test_time_stamps_are_numbers(tmp_path):
  times = pa.array([1, 2], pa.timestamp("ms"))
  parquet.write_table(pa.table({"t": times}), tmp_path / "a.parquet")
  columns = {"timestamp": Column("t", "number")}
  assert read(tmp_path / "a.parquet", columns) == {"timestamp": [1.0, 2.0]}


def test_text_like_a_date_stays_text(tmp_path):
  records = [{"user": "2020-01-01", "x": [1]}, {"user": "b", "y": None}]
  path = write_records(tmp_path / "a.array_record-00000-of-00001", records)
  columns = {"user": Column("user", "symbol")}
  assert read(path, columns) == {"user": ["2020-01-01", "b"]}


def test_folders_are_read_by_name(tmp_path):
  for name, user in (("b", "second"), ("a", "first")):
    write(tmp_path / f"{name}.csv", f"user,item,rating\n{user},x,1\n")
  for note in ("_SUCCESS", ".a.csv.crc"):
    write(tmp_path / note, "")
  assert read(tmp_path)["user"] == ["first", "second"]


def test_row_groups_are_pieces(tmp_path):
  table = pa.table({"user": ["a"] * 10})
  parquet.write_table(table, tmp_path / "a.parquet", row_group_size=4)
  columns = {"user": Column("user", "symbol")}
  source = sources.open_source(tmp_path, columns=columns)
  assert [piece.start for piece in source.pieces] == [0, 1, 2]


def test_fingerprint_tells_files_and_columns(tmp_path):
  path = write(tmp_path / "a.csv", "user,item,rating\na,x,1\n")
  open_path = lambda columns: sources.open_source(path, columns=columns)
  first = open_path(COLUMNS).fingerprint()
  assert open_path(COLUMNS).fingerprint() == first
  fewer = {"user": COLUMNS["user"]}
  assert open_path(fewer).fingerprint() != first
  write(path, "user,item,rating\na,x,10\n")
  assert open_path(COLUMNS).fingerprint() != first


def parts_of(path, split, columns=None):
  source = sources.open_source(path, columns=columns or TIMED)
  return [interactions.Part(source, split, number) for number in range(3)]


def rows_of(part):
  return list(zip(*read_part(part, {}).values(), strict=True))


def test_hash_split_is_a_partition_of_pairs(tmp_path):
  path = tmp_path / "a.csv"
  interactions_made_up.write_interactions(path, 4000, num_users=500)
  parts = [rows_of(part) for part in parts_of(path, splits.hash_split())]
  everything = rows_of(parts_of(path, None)[0])
  assert sorted(itertools.chain(*parts)) == sorted(everything)
  pairs = [{row[:2] for row in part} for part in parts]
  for first, second in itertools.combinations(pairs, 2):
    assert not first & second
  shares = [len(part) / 4000 for part in parts]
  np.testing.assert_allclose(shares, [0.8, 0.1, 0.1], atol=0.03)


def test_hash_split_forgets_the_order_and_the_kind_of_file(tmp_path):
  kinds = [tmp_path / "a.csv", tmp_path / "a.parquet"]
  split = splits.hash_split(seed=3)
  found = []
  for path in kinds:
    interactions_made_up.write_interactions(path, 500, **SIZES)
    found.append([rows_of(part) for part in parts_of(path, split)])
  assert found[0] == found[1]
  header, *lines = kinds[0].read_text().splitlines(keepends=True)
  write(kinds[0], header + "".join(reversed(lines)))
  turned = [rows_of(part)[::-1] for part in parts_of(kinds[0], split)]
  assert turned == found[0]


def test_seed_changes_the_hash_split(tmp_path):
  path = tmp_path / "a.csv"
  interactions_made_up.write_interactions(path, 500, **SIZES)
  first, second = (
    rows_of(parts_of(path, splits.hash_split(seed=seed))[0]) for seed in (0, 1)
  )
  assert first != second


def test_user_and_item_of_the_same_names_are_told_apart(tmp_path):
  lines = [f"{a},{b},1\n" for a in range(9) for b in range(9)]
  path = write(tmp_path / "a.csv", "user,item,rating\n" + "".join(lines))
  part = parts_of(path, splits.hash_split(shares=(0.5, 0.5, 0)), COLUMNS)[0]
  pairs = {row[:2] for row in rows_of(part)}
  assert pairs != {(item, user) for user, item in pairs}


def test_time_and_column_splits(tmp_path):
  text = "user,item,rating,timestamp,split\n"
  rows = [("a", 5, "test"), ("b", 1, "train"), ("c", 9, "valid")]
  text += "".join(f"{user},x,1,{time},{part}\n" for user, time, part in rows)
  path = write(tmp_path / "a.csv", text)
  users = lambda part: [row[0] for row in rows_of(part)]
  by_time = parts_of(path, splits.time_split(5, 6))
  assert [users(part) for part in by_time] == [["b"], ["a"], ["c"]]
  columns = {**COLUMNS, "split": Column("split", "symbol")}
  by_column = parts_of(path, splits.column_split, columns)
  assert [users(part) for part in by_column] == [["b"], ["c"], ["a"]]


@pytest.mark.parametrize("shares", [(0.5, 0.6), (1.5, -0.5)])
def test_shares_add_up(shares):
  with pytest.raises(ValueError, match="`shares` must add up to 1"):
    splits.hash_split(shares=shares)


def test_times_are_in_order():
  with pytest.raises(ValueError, match="`test_from` must be at least"):
    splits.time_split(2, 1)


def test_survey_counts_what_a_plain_count_finds(tmp_path):
  path = tmp_path / "a.parquet"
  interactions_made_up.write_interactions(path, 2000, **SIZES)
  split = splits.hash_split()
  parts = parts_of(path, split)
  symbols = interactions.build_vocabularies(parts[0], "user", min_count=30)
  encoders = {"user": ids_lib.Vocabulary(symbols["user"])}
  survey = interactions.survey(
    parts[0].source, encoders=encoders, split=split, num_parts=3
  )
  rows = [read_part(part, encoders) for part in parts]
  assert survey.num_rows == tuple(len(part["user"]) for part in rows)
  counts = np.bincount(rows[0]["user"], minlength=len(symbols["user"]) + 1)
  np.testing.assert_array_equal(survey.counts["user"], counts)
  assert survey.counts["user"][-1] > 0  # Unknown symbols are counted.
  np.testing.assert_allclose(survey.means["rating"], np.mean(rows[0]["rating"]))


def test_vocabulary_ranks_the_training_rows_alone(tmp_path):
  text = "user,item,rating,split\n"
  text += "b,x,1,train\na,x,1,train\nc,x,1,train\nc,y,1,train\nd,z,1,test\n"
  path = write(tmp_path / "a.csv", text)
  columns = {**COLUMNS, "split": Column("split", "symbol")}
  part = parts_of(path, splits.column_split, columns)[0]
  found = interactions.build_vocabularies(part, "user", "item")
  assert found == {"user": ["c", "a", "b"], "item": ["x", "y"]}
  found = interactions.build_vocabularies(part, "user", max_size=2)
  assert found == {"user": ["c", "a"]}
  with pytest.raises(ValueError, match="`min_count` must leave a symbol"):
    interactions.build_vocabularies(part, "user", min_count=9)
