"""Tests of sums and means over bags of ids."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from table_cases import CASES, V, floats

from anchor_codes import tables
from anchor_codes.tables import pooling


def reference(vectors, offsets, weights, mode):
  """One loop over the definition."""
  ends = np.append(offsets, len(vectors))[1:].astype(int)
  weights = np.ones(len(vectors)) if weights is None else weights
  bags = np.zeros((len(offsets), vectors.shape[1]))
  for row, (start, stop) in enumerate(zip(offsets, ends, strict=True)):
    for i in range(start, stop):
      bags[row] += weights[i] * vectors[i]
    if mode == "mean" and stop > start:
      bags[row] /= stop - start
  return bags


@pytest.mark.parametrize("name", CASES)
def test_bags_are_sums_of_lookups(name):
  case = CASES[name]()
  ids, offsets = [3, 1, 1, 10, 0, 7], [0, 2, 2, 3, 6]
  weights = floats(6, seed=1)
  for options in ({"weights": weights}, {}, {"mode": "mean"}):
    bags = case.table.bag(ids, offsets, **options)
    assert bags.dtype == np.float32
    expected = reference(
      case.dense[ids],
      offsets,
      options.get("weights"),
      options.get("mode", "sum"),
    )
    np.testing.assert_allclose(bags, expected, rtol=1e-4, atol=1e-4)


@given(
  st.lists(st.integers(0, 4), max_size=8),
  st.integers(1, 5),
  st.sampled_from([*pooling.MODES, "weights"]),
)
def test_blocks_and_empty_bags(sizes, block, mode):
  num_ids = sum(sizes)
  ids = np.arange(num_ids) * 7 % V
  offsets = (np.cumsum(sizes, dtype=int) - sizes)[: len(sizes)]
  if not sizes:
    ids = ids[:0]
  vectors, weights = floats(V, 3), None
  if mode == "weights":
    mode, weights = "sum", floats(num_ids, seed=1)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(pooling, "_IDS", block)
    bags = pooling.bag(
      tables.DenseTable(vectors), ids, offsets, weights, mode=mode
    )
  assert bags.shape == (len(sizes), 3)
  expected = reference(vectors[ids], offsets.astype(int), weights, mode)
  np.testing.assert_allclose(bags, expected, rtol=1e-5, atol=1e-5)


def test_the_last_bag_goes_up_to_the_end():
  table = tables.DenseTable(np.ones((3, 1), np.float32))
  assert table.bag([0, 1, 2, 2], [0, 1, 4]).tolist() == [[1], [3], [0]]


@pytest.mark.parametrize(
  ("arguments", "options", "text"),
  [
    (([0, 1], [1]), {}, "`offsets` must ascend from 0 to at most 2"),
    (([0, 1], [0, 2, 1]), {}, r"got \[0, 2, 1\]"),
    (([0, 1], [0, 3]), {}, "the number of ids"),
    (([0, 1], []), {}, "`offsets` must ascend from 0"),
    (([0], [0.0]), {}, r"`offsets` must be integers \[num_bags\], got float64"),
    (([0], [[0]]), {}, r"of shape \(1, 1\)"),
    (([[0]], [0]), {}, r"`ids` must be \[num_ids\], got shape \(1, 1\)"),
    (([0.0], [0]), {}, "ids must be integers"),
    (([0], [0], [1.0, 2.0]), {}, r"`weights` must have shape \(1,\)"),
    (([0], [0], [1.0]), {"mode": "mean"}, "`weights` must be None"),
    (([0], [0]), {"mode": "max"}, "`mode` must be one of"),
  ],
)
def test_bad_arguments_are_named(arguments, options, text):
  table = tables.DenseTable(np.eye(3, dtype=np.float32))
  with pytest.raises(ValueError, match=text):
    table.bag(*arguments, **options)


def test_ids_outside_are_named():
  table = tables.DenseTable(np.eye(3, dtype=np.float32))
  with pytest.raises(IndexError, match="id 3 at position"):
    table.bag([0, 3], [0])
