"""What pages count and search: anchors, digits, neighbours, histograms."""

import base64

import numpy as np
import pytest
import report_tables
from hypothesis import given
from hypothesis import strategies as st

from anchor_codes import tables
from anchor_codes.report import facts, neighbors, sections
from anchor_codes.report.anchor_use import measure_anchors
from anchor_codes.report.code_use import measure_codes
from anchor_codes.report.components import Component, find_components
from anchor_codes.report.neighbors import find_neighbors, kept_share
from anchor_codes.report.scope import Scope, pack, word_of


def transform(size=40, num_anchors=6):
  rng = np.random.default_rng(3)
  values = rng.standard_normal((size, num_anchors)).astype(np.float32)
  return values * (rng.random((size, num_anchors)) < 0.4)


def forms(dense):
  """Returns a table for each form of the rows."""
  anchors = np.eye(dense.shape[1], dtype=np.float32)
  indices = np.broadcast_to(np.arange(dense.shape[1]), dense.shape)
  masked = dense[dense != 0]
  bits = np.packbits(dense != 0, axis=1, bitorder="little")
  return {
    "dense": tables.AnchorTable(anchors, weights=dense),
    "slots": tables.AnchorTable(anchors, weights=dense, indices=indices),
    "masked": tables.AnchorTable(anchors, weights=masked, masks=bits),
  }


@pytest.mark.parametrize("form", ["dense", "slots", "masked"])
def test_anchors_are_used_as_the_transform_says(form):
  dense = transform()
  table = forms(dense)[form]
  scope = Scope(40, 10, 30)
  use = measure_anchors(Component("", table, np.arange(40)), scope)
  np.testing.assert_array_equal(use.num_nonzeros, (dense != 0).sum(1))
  np.testing.assert_array_equal(use.uses, (dense != 0).sum(0))
  np.testing.assert_array_equal(use.symbols, np.arange(10))
  for anchor, column in enumerate(dense[:30].T):
    order = np.argsort(-np.abs(column), kind="stable")
    expected = [(i, column[i]) for i in order if column[i]]
    found = zip(use.members[anchor], use.member_weights[anchor], strict=True)
    assert [pair for pair in found if pair[1]] == expected
  for row in range(10):
    found = zip(use.indices[row], use.weights[row], strict=True)
    found = {anchor: weight for anchor, weight in found if weight}
    assert found == {k: w for k, w in enumerate(dense[row]) if w}


def test_weights_are_those_of_the_vectors_and_not_the_integers():
  table = tables.AnchorTable(
    np.eye(2, dtype=np.float32),
    weights=np.int8([[3, 0], [0, 4]]),
    weight_scales=np.float32([0.5, 2]),
  )
  use = measure_anchors(Component("", table, np.arange(2)), Scope(2, 2, 2))
  np.testing.assert_array_equal(use.member_weights[:, 0], [1.5, 8])


def test_only_some_anchors_and_members_are_kept():
  dense = np.ones((50, 20), np.float32)
  table = tables.AnchorTable(np.eye(20, dtype=np.float32), weights=dense)
  use = measure_anchors(Component("", table, np.arange(50)), Scope(50, 50, 50))
  assert use.indices.shape == (50, 12)
  assert use.members.shape == (20, 30)


@pytest.mark.parametrize("form", ["dense", "slots", "masked"])
def test_the_anchors_that_are_kept_are_the_heaviest_of_either_sign(form):
  dense = np.random.default_rng(0).standard_normal((9, 20)).astype(np.float32)
  use = measure_anchors(
    Component("", forms(dense)[form], np.arange(9)), Scope(9, 5, 9)
  )
  order = np.argsort(-np.abs(dense[:5]), axis=1)[:, :12]
  np.testing.assert_array_equal(use.indices, order)
  np.testing.assert_array_equal(
    use.weights, np.take_along_axis(dense[:5], order, axis=1)
  )


@pytest.mark.parametrize("form", ["dense", "slots", "masked"])
def test_anchors_that_nobody_uses_are_counted_too(form):
  dense = transform()
  dense[:, 4:] = 0
  table = forms(dense)[form]
  use = measure_anchors(Component("", table, np.arange(40)), Scope(40, 40, 40))
  np.testing.assert_array_equal(use.uses, (dense != 0).sum(0))
  assert not use.member_weights[4:].any()


def test_codes_are_counted():
  rng = np.random.default_rng(0)
  codes = rng.integers(0, 200, (60, 3))
  codes[1] = codes[0]
  table = tables.CodeTable.from_codes(
    codes, np.ones((3, 256, 2), np.float32), composition="concat"
  )
  use = measure_codes(Component("", table, np.arange(60)), Scope(60, 7, 60))
  assert use.num_codes == len(np.unique(codes, axis=0))
  used = sum(len(np.unique(digit)) for digit in codes.T)
  assert use.unused == 3 * 256 - used
  assert use.values.shape == use.uses.shape == (3, 64)
  np.testing.assert_array_equal(use.codes, codes[:7])
  for digit in range(3):
    counts = np.bincount(codes[:, digit], minlength=256)
    np.testing.assert_array_equal(use.uses[digit], counts[use.values[digit]])
    assert use.uses[digit].tolist() == sorted(counts)[::-1][:64]


def test_only_the_first_of_many_digits_are_shown():
  codes = np.random.default_rng(0).integers(0, 4, (60, 70))
  table = tables.CodeTable.from_codes(
    codes, np.ones((70, 4, 1), np.float32), composition="concat"
  )
  use = measure_codes(Component("", table, np.arange(60)), Scope(60, 9, 60))
  np.testing.assert_array_equal(use.codes, codes[:9, :64])
  counts = [np.bincount(digit, minlength=4) for digit in codes.T]
  np.testing.assert_array_equal(use.uses, counts[:64])
  # What is counted is counted for all of them.
  assert use.code_length == 70
  np.testing.assert_array_equal(use.entry_uses, np.ravel(counts))
  table = tables.CodeTable.from_codes(
    np.minimum(codes, np.arange(70) < 69), table.codebooks, composition="concat"
  )
  use = measure_codes(Component("", table, np.arange(60)), Scope(60, 9, 60))
  # Two of four values are left of each digit, and of the last one only 0.
  assert use.unused == 69 * 2 + 3


def test_all_values_of_a_digit_are_in_order_if_they_are_shown():
  codes = np.full((5, 2), 63)
  table = tables.CodeTable.from_codes(
    codes, np.ones((2, 64, 1), np.float32), composition="concat"
  )
  use = measure_codes(Component("", table, np.arange(5)), Scope(5, 5, 5))
  np.testing.assert_array_equal(use.values, [range(64)] * 2)
  np.testing.assert_array_equal(use.uses, 5 * (use.values == 63))


def test_the_rows_of_tiers_are_the_symbols_of_the_table():
  hot, cold = forms(transform(2))["dense"], forms(transform(5))["slots"]
  table = tables.TieredTable(hot, cold, hot_ids=[2, 6])
  found = {c.name: c.rows.tolist() for c in find_components(table)}
  assert found == {"hot": [2, 6], "cold": [0, 1, 3, 4, 5]}
  first = tables.TieredTable(hot, cold)
  assert find_components(first)[1].rows.tolist() == [2, 3, 4, 5, 6]
  codes = report_tables.code_table()
  use = measure_codes(
    Component("", codes, np.arange(1, 16, 2)), Scope(16, 6, 9)
  )
  assert use.symbols.tolist() == [1, 3, 5]
  np.testing.assert_array_equal(use.codes, codes.codes[:3])
  # Members are symbols, of those that are searched.
  use = measure_anchors(find_components(table)[1], Scope(7, 2, 4))
  assert use.symbols.tolist() == [0, 1]
  assert set(use.members[use.member_weights != 0].tolist()) <= {0, 1, 3}


def test_neighbors_are_those_of_all_cosines():
  vectors = np.random.default_rng(1).standard_normal((30, 5))
  vectors = vectors.astype(np.float32)
  found = find_neighbors(vectors, Scope(99, 12, 30), count=4)
  units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
  cosines = units @ units.T
  np.fill_diagonal(cosines, -2)
  expected = np.argsort(-cosines, axis=1, kind="stable")[:12, :4]
  np.testing.assert_array_equal(found.ids, expected)
  np.testing.assert_allclose(
    found.scores, np.take_along_axis(cosines[:12], expected, 1), atol=1e-6
  )


def test_no_row_is_its_own_neighbor_even_among_equals():
  found = find_neighbors(np.ones((20, 2), np.float32), Scope(20, 20, 20))
  assert found.ids.shape == (20, 10)
  assert not (found.ids == np.arange(20)[:, None]).any()
  np.testing.assert_allclose(found.scores, 1, rtol=1e-6)


def test_tiny_vectors_have_neighbors():
  tiny = np.float32([[1, 0], [4, 3], [0, 2], [0.9, 0]]) * np.float32(1e-25)
  found = find_neighbors(tiny, Scope(4, 1, 4), count=2)
  assert found.ids.tolist() == [[3, 1]]
  np.testing.assert_allclose(found.scores, [[1, 0.8]], rtol=1e-6)


def test_zeros_are_like_nothing_and_one_row_has_no_neighbors():
  found = find_neighbors(np.float32([[0, 0], [1, 1]]), Scope(2, 2, 2))
  np.testing.assert_array_equal(found.scores, 0)
  alone = find_neighbors(np.ones((1, 2), np.float32), Scope(1, 1, 1))
  assert alone.ids.shape == (1, 0)
  assert kept_share(alone, alone) == 1


@given(st.lists(st.integers(0, 500), min_size=1, max_size=60))
def test_a_histogram_counts_every_whole_number_once(values):
  rows = facts.histogram(np.array(values))
  assert sum(row["count"] for row in rows) == len(values)
  assert len(rows) <= 41
  for row in rows:
    inside = [v for v in values if row["begin"] <= v < row["end"]]
    assert row["count"] == len(inside)


# Vectors of length 1 have lengths that differ in the last bit of a float32.
@pytest.mark.parametrize(
  "values", [[0.5], [1, 1, 1], [0, 0.25, 1e6], [1, 1 - 2**-24, 1 + 2**-23]]
)
def test_a_histogram_of_floats_counts_all(values):
  rows = facts.histogram(np.float32(values))
  assert sum(row["count"] for row in rows) == len(values)


@pytest.mark.parametrize(
  "dtype", ["uint8", "uint16", "int16", "int32", "float32"]
)
def test_packed_arrays_have_the_bytes_that_javascript_reads(dtype):
  array = np.arange(6).reshape(2, 3).astype(dtype)
  found = pack(array)
  name = np.dtype(dtype).name.capitalize().replace("Uint", "Uint")
  assert found["type"] == f"{name}Array"
  assert found["columns"] == 3
  data = base64.b64decode(found["data"])
  np.testing.assert_array_equal(np.frombuffer(data, dtype), array.reshape(-1))


def test_words_are_symbols_or_ids():
  assert word_of(report_tables.anchor_table(), 1) == "cat"
  assert word_of(tables.DenseTable(np.eye(2, dtype=np.float32)), 1) == "1"


def test_the_parts_are_those_of_the_file(tmp_path):
  table = report_tables.code_table()
  table.save(tmp_path / "table.safetensors")
  rows = facts.part_rows(table)
  assert {row["part"] for row in rows} == {"packed", "codebooks", "vocabulary"}
  assert sum(row["share"] for row in rows) == pytest.approx(1)
  assert sum(row["bytes"] for row in rows if row["part"] != "vocabulary") == (
    table.nbytes
  )


def test_lengths_are_those_of_all_rows(monkeypatch):
  monkeypatch.setattr(facts, "_BLOCK", 4)
  vectors = np.random.default_rng(0).standard_normal((9, 3)).astype(np.float32)
  np.testing.assert_allclose(
    facts.row_norms(tables.DenseTable(vectors)),
    np.linalg.norm(vectors, axis=1),
    rtol=1e-6,
  )


def test_neighbors_of_the_original_are_sought_where_those_of_the_table_are():
  vectors = np.random.default_rng(0).standard_normal((90, 5))
  vectors = vectors.astype(np.float32)
  section = sections.make_section(
    tables.DenseTable(vectors), name="", max_symbols=3, original=vectors
  )
  assert ("neighbours kept", "100%") in section.facts
  assert section.data["before"] == section.data["after"]


def test_scores_are_rounded_to_thousandths():
  ids = np.arange(4, dtype=np.int32)[None]
  scores = np.float32([[0.9996, 0.0004, -0.4996, -0.9994]])
  packed = sections._pack(neighbors.Neighbors(ids, scores))
  assert packed["scores"] == pack(np.int16([[1000, 0, -500, -999]]))


@pytest.mark.parametrize("shape", [(7, 3), (8, 2), (8,)])
def test_an_original_of_another_shape_is_refused(shape):
  with pytest.raises(ValueError, match=r"shape \(8, 3\) of the table"):
    sections.make_section(
      report_tables.anchor_table(),
      name="",
      max_symbols=5,
      original=np.ones(shape, np.float32),
    )


def test_there_must_be_a_symbol():
  with pytest.raises(ValueError, match="`max_symbols` must be at least 1"):
    Scope.of(report_tables.anchor_table(), max_symbols=0)
