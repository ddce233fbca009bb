"""The third form of anchor tables: masks, and the choice between the forms."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from table_cases import floats, integers

from anchor_codes import accounting, bits, tables
from anchor_codes.tables import anchor_rows, checks


def form_of(table):
  """Names the form of the rows of an anchor table."""
  if table.masks is not None:
    return "masked"
  return "dense" if table.indices is None else "slots"


def random_transform(rows, num_anchors, density, *, seed=0):
  rng = np.random.default_rng(seed)
  weights = rng.uniform(0.5, 2, (rows, num_anchors)).astype(np.float32)
  return np.where(rng.random(weights.shape) < density, weights, 0)


def masked(transform, anchors=None):
  transform = np.asarray(transform, np.float32)
  anchors = floats(transform.shape[1], 3) if anchors is None else anchors
  return tables.AnchorTable(anchors, **anchor_rows.masked_rows(transform))


transforms = st.builds(
  random_transform,
  st.integers(1, 12),
  st.integers(1, 40),
  st.sampled_from([0.0, 0.05, 0.3, 0.7, 1.0]),
  seed=st.integers(0, 2**32 - 1),
)


@given(transforms)
def test_every_form_holds_the_same_rows(transform):
  anchors = floats(transform.shape[1], 3)
  dense = tables.AnchorTable(anchors, weights=transform)
  ids = integers(len(transform), 7)
  for rows in (
    anchor_rows.slot_rows(transform),
    anchor_rows.masked_rows(transform),
  ):
    table = tables.AnchorTable(anchors, **rows)
    np.testing.assert_array_equal(table.to_transform(), transform)
    assert table.num_params == dense.num_params
    np.testing.assert_allclose(
      table.lookup(ids), dense.lookup(ids), rtol=1e-5, atol=1e-6
    )


@given(transforms, st.sampled_from(checks.FLOATS))
def test_the_smallest_form_is_chosen(transform, dtype):
  anchors = floats(transform.shape[1], 3)
  table = tables.AnchorTable.from_transform(anchors, transform, dtype=dtype)
  weights = transform.astype(dtype)
  sizes = {
    "dense": weights.nbytes,
    "slots": sum(a.nbytes for a in anchor_rows.slot_rows(weights).values()),
    "masked": sum(a.nbytes for a in anchor_rows.masked_rows(weights).values()),
  }
  # The first of equal ones, in the order of the dictionary.
  assert form_of(table) == min(sizes, key=lambda form: sizes[form])
  assert table.nbytes == min(sizes.values()) + table.anchors.nbytes
  assert table.weights.dtype == table.anchors.dtype == dtype
  np.testing.assert_array_equal(table.to_transform(), weights)


@given(transforms, st.sampled_from([np.float32, np.float16]))
def test_bytes_follow_the_formula(transform, dtype):
  rows, num_anchors = transform.shape
  num_nonzeros = np.count_nonzero(transform)
  table = tables.AnchorTable(
    floats(num_anchors, 3, dtype=dtype),
    **anchor_rows.masked_rows(transform.astype(dtype)),
  )
  nbytes = accounting.masked_rows_bytes(
    rows, num_anchors, num_nonzeros, weight_bits=8 * np.dtype(dtype).itemsize
  )
  assert table.nbytes == nbytes + table.anchors.nbytes
  assert table.bits_per_row == -(-8 * nbytes // rows)
  assert table.num_params == num_nonzeros + table.anchors.size


def test_the_formula_is_the_payload_of_the_file(tmp_path):
  path, transform = tmp_path / "table", random_transform(50, 90, 0.1)
  anchors = floats(90, 4)
  tables.AnchorTable.from_transform(anchors, transform).save(path)
  content = path.read_bytes()
  length = int.from_bytes(content[:8], "little")
  header = json.loads(content[8 : 8 + length])
  assert header["masks"]["dtype"] == "U8"
  assert len(content) - 8 - length == anchors.nbytes + (
    accounting.masked_rows_bytes(50, 90, np.count_nonzero(transform))
  )
  np.testing.assert_array_equal(tables.load(path).to_transform(), transform)


@pytest.mark.parametrize(
  ("rows", "form"),
  [
    (np.ones((4, 5)), "dense"),
    (np.ones((3, 1)), "dense"),
    (np.eye(64), "slots"),  # 5 bytes, one for the index; a mask takes 8.
    (np.eye(7), "slots"),  # 5 bytes either way.
    (np.tri(64), "masked"),
    (np.zeros((3, 1)), "masked"),  # 1 byte, and no weights.
    (np.zeros((3, 64)), "slots"),  # One slot is all that a row needs.
  ],
)
def test_forms_of_known_rows(rows, form):
  rows = np.asarray(rows, np.float32)
  table = tables.AnchorTable.from_transform(floats(rows.shape[1], 2), rows)
  assert form_of(table) == form
  np.testing.assert_array_equal(table.to_transform(), rows)


def test_dense_rows_win_a_tie_against_masks():
  # One weight is missing, whose 4 bytes are those of the four masks.
  rows = np.ones((4, 4), np.float32)
  rows[1, 2] = 0
  table = tables.AnchorTable.from_transform(floats(4, 2), rows)
  assert accounting.masked_rows_bytes(4, 4, 15) == rows.nbytes
  assert form_of(table) == "dense"


@pytest.mark.parametrize(
  ("dtype", "form", "nbytes"),
  [("float32", "masked", 94), ("float16", "slots", 60)],
)
def test_the_smallest_form_depends_on_the_type(dtype, form, nbytes):
  # Sixteen weights in ten rows of two at most, and masks of three bytes.
  rows = np.zeros((10, 24), np.float32)
  rows[:, 0], rows[:6, 1] = 1, 1
  table = tables.AnchorTable.from_transform(floats(24, 2), rows, dtype=dtype)
  assert form_of(table) == form
  assert table.nbytes - table.anchors.nbytes == nbytes


def test_slots_win_a_tie_against_masks():
  # One weight in each row, and one byte for its index or for its mask.
  rows = np.eye(8, dtype=np.float32)
  table = tables.AnchorTable.from_transform(floats(8, 2), rows)
  assert accounting.masked_rows_bytes(8, 8, 8) == table.weights.nbytes + 8
  assert form_of(table) == "slots"


def test_masks_are_packed_as_codes_of_two_values():
  transform = random_transform(9, 21, 0.3)
  table = masked(transform)
  expected = bits.pack_codes((transform != 0).astype(int), codebook_size=2)
  np.testing.assert_array_equal(table.masks, expected)
  assert table.masks.dtype == np.uint8


def test_weights_that_vanish_in_float16_are_dropped():
  transform = np.zeros((30, 40), np.float32)
  transform[:, 3], transform[0, :9] = 1e-9, 1
  table = tables.AnchorTable.from_transform(
    floats(40, 2), transform, dtype="float16"
  )
  assert form_of(table) == "masked"
  np.testing.assert_array_equal(table.weights, np.ones(9))
  assert table.num_params == 9 + 80


def test_astype_keeps_the_bit_of_a_weight_that_vanishes():
  transform = np.float32([[1e-9, 0, 2], [0, 1, 0]])
  half = masked(transform).astype("float16")
  np.testing.assert_array_equal(half.weights, np.float16([0, 2, 1]))
  np.testing.assert_array_equal(half.to_transform(), [[0, 0, 2], [0, 1, 0]])
  assert half.num_params == 2 + 9


def test_negative_zeros_are_zeros():
  table = masked([[-0.0, 1.0, 0.0]])
  assert table.weights.shape == (1,)
  assert not np.signbit(table.to_transform()).any()


def test_negative_weights_are_kept():
  transform = np.zeros((2, 40), np.float32)
  transform[0, 5], transform[0, 7] = -1, 2
  table = tables.AnchorTable.from_transform(floats(40, 2), transform)
  np.testing.assert_array_equal(table.to_transform(), transform)


@given(st.integers(0, 1000), st.integers(1, 5), st.integers(1, 4))
def test_slots_become_masks_of_the_same_rows(seed, num_slots, block):
  rng = np.random.default_rng(seed)
  indices = np.array([rng.permutation(9)[:num_slots] for _ in range(6)])
  weights = rng.integers(-2, 3, indices.shape).astype(np.float32)
  anchors = floats(9, 2)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(anchor_rows, "_BLOCK", block)
    rows = anchor_rows.masked_slots(weights, indices, 9)
  slots = tables.AnchorTable(anchors, weights=weights, indices=indices)
  found = tables.AnchorTable(anchors, **rows)
  np.testing.assert_array_equal(found.to_transform(), slots.to_transform())


def test_a_slot_that_is_left_over_takes_no_weight_away():
  weights = np.float32([[3, 0], [0, 4]])
  rows = anchor_rows.masked_slots(weights, np.array([[0, 0], [1, 1]]), 2)
  table = tables.AnchorTable(floats(2, 2), **rows)
  np.testing.assert_array_equal(table.to_transform(), [[3, 0], [0, 4]])
  assert table.weights.shape == (2,)


@pytest.mark.parametrize(
  ("counts", "num_nonzeros"), [([0, 0], 1), ([2, 0, 0], 1), ([2, 2, 1], 2)]
)
def test_new_rows_have_the_mean_number_of_non_zeros(counts, num_nonzeros):
  transform = np.zeros((len(counts), 9), np.float32)
  for row, count in enumerate(counts):
    transform[row, :count] = [1, -2][:count]
  table = masked(transform, floats(9, 5))
  found = table._encode(floats(20, 5, seed=1))
  # Rounded up; in a table without any one is left to choose.
  assert found.weights.size == 20 * num_nonzeros


def test_a_table_may_have_no_weights_at_all(tmp_path):
  anchors = floats(20, 3)
  table = tables.AnchorTable.from_transform(anchors, np.zeros((4, 20), "f4"))
  assert form_of(table) == "masked"
  assert table.weights.shape == (0,)
  assert table.num_params == 60
  path = tmp_path / "table"
  for again in (table, table.astype("float16")):
    again.save(path)
    loaded = tables.load(path)
    np.testing.assert_array_equal(loaded.to_dense(), np.zeros((4, 3)))
    np.testing.assert_array_equal(loaded.attend(np.ones(3)), np.zeros(4))


@pytest.mark.parametrize("num_anchors", [1, 7, 8, 9, 16, 300])
def test_any_number_of_anchors(num_anchors):
  transform = random_transform(13, num_anchors, 0.4)
  table = masked(transform)
  assert table.masks.shape == (13, -(-num_anchors // 8))
  for row in range(13):
    expected = transform[row] @ table.anchors
    np.testing.assert_allclose(
      table.lookup(row), expected, rtol=1e-4, atol=1e-5
    )


def test_bits_of_the_rows_are_counted_once(monkeypatch):
  table, calls = masked(random_transform(9, 21, 0.3)), []
  count = anchor_rows.mask_offsets
  monkeypatch.setattr(
    anchor_rows,
    "mask_offsets",
    lambda *a, **k: calls.append(1) or count(*a, **k),
  )
  table = tables.AnchorTable(
    table.anchors, weights=table.weights, masks=table.masks, verify=False
  )
  assert not calls
  table.lookup([1, 2])
  table.lookup([3])
  table.to_dense()
  assert len(calls) == 1


def test_slots_write_an_anchor_that_is_there_twice_once():
  table = tables.AnchorTable(
    floats(5, 2),
    weights=np.float32([[1, 2], [3, 0]]),
    indices=np.array([[4, 4], [1, 1]]),
  )
  expected = [[0, 0, 0, 0, 3], [0, 3, 0, 0, 0]]
  np.testing.assert_array_equal(table.to_transform(), expected)
  assert table.to_transform().dtype == np.float32


@pytest.mark.parametrize(
  ("arrays", "text"),
  [
    ({"masks": np.zeros((4, 1), int)}, "`masks` must be uint8, got int64"),
    ({"masks": np.zeros(4, "u1")}, r"`masks` must have 2 axes.*\(4,\)"),
    ({"masks": np.zeros((0, 1), "u1")}, r"`masks` must have 2 axes, none"),
    (
      {"masks": np.zeros((4, 2), "u1")},
      r"`masks` must have shape \(4, 1\) to fit `anchors` \(5, 6\), got \(4, 2",
    ),
    ({"weights": np.zeros((4, 5), "f4")}, "`weights` must have 1 axes, got"),
    ({"weights": np.zeros(7)}, "`weights` must be float32 or float16"),
    (
      {"weights": np.zeros(8, "f4")},
      "one bit for each of the 8 weights, got 7",
    ),
    (
      {"weights": np.zeros(0, "f4")},
      "one bit for each of the 0 weights, got 7",
    ),
    ({"masks": np.full((4, 1), 32, "u1")}, "no bits past the 5 anchors, got 4"),
    ({"indices": np.zeros((4, 3), int)}, "given without `indices`, got both"),
  ],
)
def test_arrays_that_do_not_fit_are_refused(arrays, text):
  fitting = {
    "weights": np.ones(7, np.float32),
    "masks": np.array([[3], [0], [31], [0]], np.uint8),
  }
  tables.AnchorTable(floats(5, 6), **fitting)
  with pytest.raises(ValueError, match=text):
    tables.AnchorTable(floats(5, 6), **{**fitting, **arrays})


@pytest.mark.parametrize(
  ("transform", "options", "text"),
  [
    (
      floats(4, 5),
      {},
      r"`transform` must have shape \(4, 6\) to fit `anchors`",
    ),
    (floats(4), {}, r"`transform` must have 2 axes.*\(4,\)"),
    (np.zeros((4, 6)), {}, "`transform` must be float32 or float16, got fl"),
    (np.full((4, 6), 7e4, "f4"), {"dtype": "float16"}, "`transform` must lie"),
    (np.full((4, 6), np.nan, "f4"), {}, "`transform` must lie within"),
    (floats(4, 6), {"dtype": "int8"}, "`dtype` must be one of 'float32', 'flo"),
    (floats(4, 6), {"vocabulary": ["a"]}, "`vocabulary` must have 4 words"),
  ],
)
def test_from_transform_refuses(transform, options, text):
  with pytest.raises(ValueError, match=text):
    tables.AnchorTable.from_transform(floats(6, 2), transform, **options)


def test_from_transform_refuses_anchors_too_large_for_the_type():
  anchors = np.full((6, 2), 7e4, np.float32)
  with pytest.raises(ValueError, match="`anchors` must lie within"):
    tables.AnchorTable.from_transform(anchors, floats(4, 6), dtype="float16")
