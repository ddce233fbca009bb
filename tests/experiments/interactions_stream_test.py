"""Tests of streams of interactions: order, shuffle, state and memory."""

import itertools
import json
import tracemalloc

import hypothesis
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import strategies as st

from experiments.datasets import interactions, interactions_made_up
from experiments.datasets import interactions_ids as ids_lib
from experiments.datasets import interactions_records as records_lib
from experiments.datasets import interactions_sources as sources
from experiments.datasets import interactions_splits as splits
from experiments.datasets import interactions_stream as stream_lib
from experiments.datasets import interactions_text as text_lib
from experiments.datasets.interactions_columns import Column

COLUMNS = {
  "user": Column("user", "symbol"),
  "item": Column("item", "symbol"),
  "timestamp": Column("timestamp", "number"),
}
ENCODERS = {"user": ids_lib.Buckets(1000), "item": ids_lib.Buckets(100)}
NUM_ROWS = 1000
KINDS = (".csv", ".parquet", ".array_record")


@pytest.fixture(autouse=True, scope="module")
def _small_pieces():
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(text_lib, "_BLOCK_BYTES", 1 << 12)
    patch.setattr(records_lib, "_PIECE_RECORDS", 130)
    yield


@pytest.fixture(scope="module", name="folders")
def _folders(tmp_path_factory):
  """For each kind of file a folder of four shards of unequal sizes."""
  found = {}
  for kind in KINDS:
    found[kind] = tmp_path_factory.mktemp("shards")
    for shard, size in enumerate((400, 300, 200, 100)):
      path = found[kind] / f"{shard}{kind}"
      interactions_made_up.write_interactions(path, size, seed=shard)
  return found


def make_stream(folder, *, split=None, encoders=None, **options):
  part = interactions.Part(sources.open_source(folder, columns=COLUMNS), split)
  encoders = ENCODERS if encoders is None else encoders
  return stream_lib.Stream(part, encoders=encoders, **options)


def everything(stream, size=64):
  batches = list(stream.batches(size))
  return {
    role: np.concatenate([batch[role] for batch in batches])
    for role in batches[0]
  }


def assert_same(first, second):
  assert first.keys() == second.keys()
  for role, column in first.items():
    assert column.dtype == second[role].dtype
    np.testing.assert_array_equal(column, second[role])


def triples(rows):
  return sorted(zip(*(c.tolist() for c in rows.values()), strict=True))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("split", [None, splits.hash_split()])
def test_an_epoch_has_each_row_once(folders, kind, split):
  plain = everything(make_stream(folders[kind], split=split))
  stream = make_stream(folders[kind], split=split, shuffle_rows=150)
  for epoch in range(3):
    stream.begin(epoch)
    rows = everything(stream)
    assert triples(rows) == triples(plain)
    assert not np.array_equal(rows["user"], plain["user"])


def test_ids_are_int32_and_below_the_number_of_buckets(folders):
  rows = everything(make_stream(folders[".csv"]))
  for role, buckets in ENCODERS.items():
    assert rows[role].dtype == np.int32
    assert 0 <= rows[role].min() <= rows[role].max() < buckets.num_embeddings
  assert rows["timestamp"].dtype == np.float64


def test_symbols_without_ids_are_text(folders):
  rows = make_stream(folders[".parquet"], encoders={}).take(2)
  assert [name[0] for name in rows["user"]] == ["u", "u"]


def test_rows_without_shuffle_follow_the_files(folders):
  rows = everything(make_stream(folders[".csv"]))
  expected = np.concatenate([np.arange(n) for n in (400, 300, 200, 100)])
  np.testing.assert_array_equal(rows["timestamp"] - 1e9, expected)


@pytest.mark.parametrize("sizes", [(1, 7), (64, 1000), (333, 64)])
def test_sizes_of_batches_do_not_change_the_order(folders, sizes):
  streams = [make_stream(folders[".csv"], shuffle_rows=100) for _ in sizes]
  rows = [everything(s, n) for s, n in zip(streams, sizes, strict=True)]
  assert_same(*rows)


def test_batches_are_full_but_for_the_last(folders):
  stream = make_stream(folders[".parquet"], shuffle_rows=90)
  found = [len(batch["user"]) for batch in stream.batches(300)]
  assert found == [300, 300, 300, 100]
  assert len(stream.take(5)["user"]) == 0


def test_each_epoch_and_each_seed_has_its_order(folders):
  orders = []
  for seed, epoch in itertools.product((0, 1), (0, 1)):
    stream = make_stream(folders[".csv"], shuffle_rows=2000, seed=seed)
    stream.begin(epoch)
    orders.append(everything(stream)["timestamp"].tolist())
  assert len(set(map(tuple, orders))) == 4


def test_shards_come_in_the_order_of_the_epoch(folders):
  firsts = set()
  stream = make_stream(folders[".csv"], shuffle_rows=1)
  for epoch in range(20):
    stream.begin(epoch)
    # A shard with so many rows is in front.
    times = stream.take(NUM_ROWS)["timestamp"] - 1e9
    ends = np.flatnonzero(np.diff(times) < 0)
    firsts.add(int(ends[0]) + 1)
  assert firsts == {400, 300, 200, 100}


@pytest.mark.parametrize("kind", KINDS)
@hypothesis.settings(max_examples=15)
@hypothesis.given(
  before=st.lists(st.integers(0, 400), max_size=4),
  shuffle_rows=st.sampled_from([0, 1, 90, 400, 5000]),
  epoch=st.integers(0, 2),
  is_split=st.booleans(),
)
def test_restored_streams_go_on_bit_for_bit(
  folders, kind, before, shuffle_rows, epoch, is_split
):
  options = {
    "shuffle_rows": shuffle_rows,
    "split": splits.hash_split() if is_split else None,
  }
  stream = make_stream(folders[kind], **options)
  stream.begin(epoch)
  for size in before:
    stream.take(size)
  state = json.loads(json.dumps(stream.state()))
  other = make_stream(folders[kind], **options)
  other.restore(state)
  assert other.state() == stream.state()
  assert_same(other.take(NUM_ROWS), stream.take(NUM_ROWS))
  for one in (stream, other):
    one.begin(epoch + 1)
  assert_same(other.take(50), stream.take(50))


@pytest.mark.parametrize(
  ("name", "options"),
  [("seed", {"seed": 1}), ("shuffle_rows", {"shuffle_rows": 7})],
)
def test_states_of_other_streams_are_refused(folders, name, options):
  state = make_stream(folders[".csv"]).state()
  with pytest.raises(ValueError, match=f"`{name}` of a stream must be 0"):
    make_stream(folders[".csv"], **options).restore(state)


def test_states_of_other_files_are_refused(folders):
  state = make_stream(folders[".csv"]).state()
  with pytest.raises(ValueError, match="`files` of a stream must be"):
    make_stream(folders[".parquet"]).restore(state)


def test_options_are_checked(folders):
  with pytest.raises(ValueError, match="`shuffle_rows` must be at least 0"):
    make_stream(folders[".csv"], shuffle_rows=-1)
  with pytest.raises(ValueError, match="`num_rows` must be at least 1"):
    next(make_stream(folders[".csv"]).batches(0))


def peak_bytes(path):
  """The most that NumPy, Python and Arrow hold while a file is streamed."""
  stream = make_stream(path, shuffle_rows=4096)
  tracemalloc.start()
  start, arrow, count = pa.total_allocated_bytes(), 0, 0
  for batch in stream.batches(1024):
    arrow = max(arrow, pa.total_allocated_bytes() - start)
    count += len(batch["user"])
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  return peak + arrow, count


@pytest.mark.parametrize(
  ("kind", "sizes"),
  [
    # Arrow reads some forty blocks ahead: smaller files fit in there whole.
    (".csv", (120_000, 480_000)),
    (".parquet", (65_536, 327_680)),
    (".array_record", (5_000, 50_000)),
  ],
)
def test_memory_does_not_grow_with_the_number_of_rows(
  tmp_path, kind, sizes, monkeypatch
):
  monkeypatch.setattr(text_lib, "_BLOCK_BYTES", 1 << 16)
  monkeypatch.setattr(records_lib, "_PIECE_RECORDS", 1000)
  peaks = []
  for size in sizes:
    path = tmp_path / f"{size}{kind}"
    interactions_made_up.write_interactions(path, size)
    peak, count = peak_bytes(path)
    assert count == size
    peaks.append(peak)
  assert peaks[1] < 1.5 * peaks[0]
