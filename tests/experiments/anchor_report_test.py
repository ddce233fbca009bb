"""Tests of the report on anchors."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchor_codes import tables
from experiments.reporting import anchors

SYMBOLS = ["cat", "dog", "run", "walk", "the"]
LABELS = ["noun", "noun", "verb", "verb", None]
COUNTS = [5, 50, 9, 10, 1000]
ERRORS = [1.0, 2.0, 3.0, 4.0, np.nan]
TRANSFORM = np.array(
  [[2, 0, 0], [1, 3, 0], [1, 0, 0], [0, 0, 0], [0, 1, 0]], np.float32
)


def make_table(transform=TRANSFORM):
  transform = np.asarray(transform, np.float32)
  vectors = np.ones((transform.shape[1], 2), np.float32)
  return tables.AnchorTable.from_transform(vectors, transform)


def make(**options):
  table = options.pop("table", None) or make_table()
  symbols = [f"s{i}" for i in range(table.num_embeddings)]
  return anchors.anchor_report(table, **{"symbols": symbols, **options})


def full():
  return make(symbols=SYMBOLS, labels=LABELS, counts=COUNTS, errors=ERRORS)


def test_sizes():
  report = full()
  assert (report.num_embeddings, report.num_anchors) == (5, 3)
  assert report.num_nonzeros == 5
  assert report.zero_rows == pytest.approx(0.2)
  assert report.error == pytest.approx(2.5)
  assert [anchor.index for anchor in report.anchors] == [0, 1, 2]
  assert [anchor.num_users for anchor in report.anchors] == [3, 2, 0]


def test_symbols_by_share_then_by_count_then_by_row():
  first, second, third = full().anchors
  # "run" is more frequent than "cat", and both use this anchor alone.
  assert first.top == (("run", 1.0), ("cat", 1.0), ("dog", 0.25))
  assert second.top == (("the", 1.0), ("dog", 0.75))
  assert third.top == ()
  without_counts = make(symbols=SYMBOLS).anchors[0]
  assert [symbol for symbol, _ in without_counts.top] == ["cat", "run", "dog"]


@pytest.mark.parametrize("top", [1, 2, 100])
def test_no_more_symbols_than_asked_for(top):
  assert len(make(top=top).anchors[0].top) == min(top, 3)


def test_purity_counts_users_and_weighs_them():
  first, second, third = full().anchors
  assert (first.label, first.purity) == ("noun", pytest.approx(2 / 3))
  assert first.weighted_purity == pytest.approx(1.25 / 2.25)
  # "the" has no label.
  assert (second.label, second.purity) == ("noun", 1.0)
  assert (third.label, third.purity, third.weighted_purity) == (None,) * 3


def test_the_weighted_label_may_be_another_one():
  table = make_table([[1, 9], [1, 9], [1, 0]])
  anchor = make(table=table, labels=["a", "a", "b"]).anchors[0]
  assert (anchor.label, anchor.purity) == ("a", pytest.approx(2 / 3))
  assert anchor.weighted_purity == pytest.approx(1 / 1.2)


def test_buckets_are_powers_of_ten():
  found = {bucket.name: bucket for bucket in full().buckets}
  assert list(found) == ["1 to 9", "10 to 99", "1,000 to 9,999"]
  assert [bucket.num_rows for bucket in found.values()] == [2, 2, 1]
  assert [bucket.zero_rows for bucket in found.values()] == [0, 0.5, 0]
  errors = [bucket.error for bucket in found.values()]
  assert errors == [2.0, 3.0, None]


def test_symbols_that_never_occur_have_a_bucket():
  buckets = make(counts=[0, 0, 1, 9, 10]).buckets
  names = [(bucket.name, bucket.num_rows) for bucket in buckets]
  assert names == [("0", 2), ("1 to 9", 2), ("10 to 99", 1)]


@given(st.lists(st.integers(0, 10**12), min_size=5, max_size=5))
def test_buckets_cover_all_rows_once(counts):
  buckets = make(counts=counts, errors=ERRORS).buckets
  assert sum(bucket.num_rows for bucket in buckets) == 5
  zeros = sum(bucket.num_rows * bucket.zero_rows for bucket in buckets)
  assert zeros == pytest.approx(1)


def test_what_is_not_given_is_not_known():
  report = make()
  assert report.buckets == ()
  assert report.error is None
  assert all(anchor.purity is None for anchor in report.anchors)


@pytest.mark.parametrize("form", ["dense", "slots", "masked"])
def test_every_form_of_rows_has_the_same_report(form):
  rng = np.random.default_rng(0)
  transform = np.where(rng.random((20, 40)) < 0.1, rng.random((20, 40)), 0)
  transform = transform.astype(np.float32)
  options = {
    "dense": {"weights": transform},
    "slots": {
      "weights": transform,
      "indices": np.tile(np.arange(40), (20, 1)),
    },
    "masked": {
      "weights": transform[transform != 0],
      "masks": np.packbits(transform != 0, axis=1, bitorder="little"),
    },
  }
  vectors = np.ones((40, 2), np.float32)
  table = tables.AnchorTable(vectors, **options[form])
  expected = make(table=make_table(transform))
  assert make(table=table) == expected
  assert expected.num_nonzeros == np.count_nonzero(transform)


@given(st.integers(0, 1000))
def test_shares_of_a_row_sum_to_one(seed):
  rng = np.random.default_rng(seed)
  transform = np.where(rng.random((6, 4)) < 0.5, rng.random((6, 4)), 0)
  report = make(table=make_table(transform))
  totals = dict.fromkeys(range(6), 0.0)
  for anchor in report.anchors:
    assert list(anchor.top) == sorted(anchor.top, key=lambda x: -x[1])
    for symbol, share in anchor.top:
      assert 0 < share <= 1
      totals[int(symbol[1:])] += share
  expected = (transform > 0).any(axis=1)
  np.testing.assert_allclose(list(totals.values()), expected, rtol=1e-6)


def test_negative_weights_count_by_their_size():
  report = make(table=make_table([[-1, 3], [1, 0]]))
  assert report.anchors[0].top == (("s1", 1.0), ("s0", 0.25))


def test_report_is_json():
  record = json.loads(json.dumps(full().to_dict(), allow_nan=False))
  assert record["anchors"][0]["top"][2] == ["dog", 0.25]
  assert record["buckets"][2]["error"] is None
  assert record["zero_rows"] == pytest.approx(0.2)


def test_report_is_markdown():
  lines = anchors.format_report(full()).split("\n")
  assert lines[0] == (
    "5 rows with 5 weights of 3 anchors; 20.0% of the rows have none."
  )
  assert lines[2].startswith("| Count ")
  assert "| Mean squared error |" in lines[2]
  (dog,) = (line for line in lines if "the (1.00), dog (0.75)" in line)
  assert "noun" in dog
  assert lines[-1] == ""


def test_anchors_are_listed_by_use():
  table = make_table([[0, 1, 0], [0, 1, 1], [0, 1, 1]])
  text = anchors.format_report(make(table=table))
  body = [line.split("|")[1].strip() for line in text.split("\n")[4:-1]]
  assert body == ["1", "2", "0"]


def test_columns_that_are_not_known_are_left_out():
  text = anchors.format_report(make())
  assert "Purity" not in text
  assert "Count" not in text
  assert "squared" not in anchors.format_report(make(counts=COUNTS))


@pytest.mark.parametrize("name", ["symbols", "labels", "counts", "errors"])
def test_everything_has_one_entry_for_each_row(name):
  text = f"`{name}` must have 5 entries, one for each row, got 4"
  with pytest.raises(ValueError, match=text):
    make(**{name: [1, 2, 3, 4]})


@pytest.mark.parametrize("top", [0, -1, 1.5])
def test_top_is_checked(top):
  with pytest.raises(ValueError, match="`top` must be"):
    make(top=top)
