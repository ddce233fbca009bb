"""Digests of arrays: those of their bytes, wherever these are."""

import hashlib

import hypothesis
import jax
import numpy as np
import pytest
from hypothesis import strategies as st
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from anchor_codes import training
from anchor_codes.training import digests


def sha256(values):
  return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()


def split(values, *spec, mesh=None):
  mesh = training.data_mesh() if mesh is None else mesh
  return jax.device_put(values, NamedSharding(mesh, PartitionSpec(*spec)))


def describe(leaf, num_rows=0):
  return digests.describe_arrays({"x": leaf}, {"x": num_rows})["x"]


VALUES = np.arange(48, dtype=np.float32).reshape(8, 6)


@pytest.mark.parametrize("leaf", [VALUES, split(VALUES)], ids=["host", "mesh"])
def test_an_array_in_one_piece_has_one_digest(leaf):
  assert describe(leaf) == {
    "shape": [8, 6],
    "dtype": "float32",
    "sha256": sha256(VALUES),
  }


def test_pieces_are_in_order():
  pieces = describe(split(VALUES, "data"))["pieces"]
  assert [piece["start"] for piece in pieces] == [[2 * i, 0] for i in range(4)]
  for piece in pieces:
    rows = slice(piece["start"][0], piece["stop"][0])
    assert piece["sha256"] == sha256(VALUES[rows])


def test_any_axes_may_be_split():
  mesh = Mesh(
    np.array(jax.devices()).reshape(2, 2),
    ("x", "y"),
    axis_types=(AxisType.Auto,) * 2,
  )
  for spec in (("x", "y"), ("y",), (None, "x")):
    leaf = split(VALUES, *spec, mesh=mesh)
    record = describe(leaf)
    assert len(record["pieces"]) == 2 * (1 + (spec == ("x", "y")))
    assert digests.agrees(leaf, record)
    assert digests.agrees(split(VALUES, "data"), record)
    assert not digests.agrees(split(VALUES + 1, "data"), record)


@pytest.mark.parametrize(
  "leaf",
  [
    jax.random.key(0),
    jax.random.split(jax.random.key(0), 3),
    np.float32(3),
    np.zeros((0, 3)),
    jax.numpy.ones((0,)),
    jax.numpy.ones((2, 3), jax.numpy.bfloat16),
    np.array([True, False]),
  ],
  ids=str,
)
def test_all_kinds_agree_with_themselves(leaf):
  assert digests.agrees(leaf, describe(leaf))


@pytest.mark.parametrize("place", [0, 31, 63])
@pytest.mark.parametrize("leaf", [VALUES, split(VALUES, "data")], ids=str)
def test_all_of_a_digest_counts(leaf, place):
  record = describe(leaf)
  piece = record.get("pieces", [record])[-1]
  digest = list(piece["sha256"])
  digest[place] = "0" if digest[place] != "0" else "1"
  piece["sha256"] = "".join(digest)
  assert not digests.agrees(leaf, record)


@hypothesis.given(
  num_rows=st.integers(1, 8),
  before=st.sampled_from([1, 2, 4]),
  after=st.sampled_from([1, 2, 4]),
  changed=st.integers(0, 7),
)
def test_rows_count_and_padding_does_not(num_rows, before, after, changed):
  def put(values, count):
    mesh = training.data_mesh(jax.devices()[:count])
    return split(values, "data", mesh=mesh)

  record = describe(put(VALUES, before), num_rows)
  other = VALUES.copy()
  other[changed] += 1
  assert digests.agrees(put(other, after), record) == (changed >= num_rows)
