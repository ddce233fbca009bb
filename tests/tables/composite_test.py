"""Tables made out of tables: what fits, and what hostile files say."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from table_cases import CASES, WORDS, V, floats

from anchor_codes import tables
from anchor_codes.tables import storage

COMPOSITES = (
  "projected_codes",
  "projected_int8",
  "scaled_uint8",
  "sum",
  "tiered",
  "nested",
)


@pytest.fixture
def path(tmp_path):
  return tmp_path / "table.safetensors"


def dense(num_embeddings=V, features=6, **options):
  vectors = floats(num_embeddings, features)
  return tables.DenseTable(vectors, **options)


def forge(path, table, tensors=None, metadata=None):
  """Writes a table with parts exchanged, added, or left out if None."""
  arrays = {**table.tensors, **(tensors or {})}
  words = {**table.metadata, **(metadata or {})}
  arrays = {n: array for n, array in arrays.items() if array is not None}
  words = {n: word for n, word in words.items() if word is not None}
  storage.write(path, arrays, words)


def refused(path, text):
  with pytest.raises(tables.ArtifactError, match=text) as error:
    tables.load(path, verify=False)
  assert str(error.value).startswith(f"{path}: ")


@pytest.mark.parametrize("name", COMPOSITES)
def test_the_sizes_are_sums(name):
  table = CASES[name]().table
  children = table.children.values()
  own = [a for n, a in table.tensors.items() if "." not in n]
  assert table.nbytes == sum(child.nbytes for child in children) + sum(
    array.nbytes for array in own
  )
  params = sum(
    array.size
    for array in table.tensors.values()
    if array.dtype.kind == "f" and array.ndim > 1
  )
  assert table.num_params >= sum(child.num_params for child in children)
  assert table.num_params >= params


@pytest.mark.parametrize(
  ("name", "own"),
  [
    ("projected_codes", ["projection", "bias"]),
    ("projected_int8", ["projection"]),
    ("scaled_uint8", ["norms"]),
    ("sum", []),
    ("tiered", []),
  ],
)
def test_ids_scales_and_ranges_are_no_parameters(name, own):
  table = CASES[name]().table
  expected = sum(child.num_params for child in table.children.values())
  expected += sum(getattr(table, array).size for array in own)
  assert table.num_params == expected


def test_names_of_the_file():
  table = CASES["nested"]().table
  assert table.depth == 4
  assert set(table.tensors) == {
    "projection",
    "inner.norms",
    *(f"inner.inner.{n}.projection" for n in ("first", "second")),
    *(f"inner.inner.{n}.bias" for n in ("first", "second")),
    *(f"inner.inner.{n}.inner.packed" for n in ("first", "second")),
    *(f"inner.inner.{n}.inner.codebooks" for n in ("first", "second")),
  }
  assert table.metadata["inner.inner.second.inner.kind"] == "codes"
  assert table.metadata["inner.kind"] == "scaled"
  assert "inner.format" not in table.metadata
  assert table.row_names == (
    "inner.norms",
    "inner.inner.first.inner.packed",
    "inner.inner.second.inner.packed",
  )


@pytest.mark.parametrize("name", COMPOSITES)
def test_tables_inside_have_no_words(name):
  table = CASES[name]().table
  child = next(iter(table.children))
  size = table.children[child].num_embeddings
  words = [str(i) for i in range(size)]
  inside = dataclasses.replace(table.children[child], vocabulary=words)
  with pytest.raises(ValueError, match=f"`{child}` must have no vocabulary"):
    dataclasses.replace(table, **{child: inside})
  with pytest.raises(ValueError, match=f"`{child}` must be a table, got"):
    dataclasses.replace(table, **{child: np.zeros((V, 6))})


@pytest.mark.parametrize("name", COMPOSITES)
def test_words_inside_a_file_are_refused(name, path):
  table = CASES[name]().table
  child = next(iter(table.children))
  words = np.frombuffer(b"[]", np.uint8)
  forge(path, table, {f"{child}.vocabulary": words})
  refused(path, f"In '{child}': Unknown tensors .'vocabulary'.")


@pytest.mark.parametrize("name", COMPOSITES)
@pytest.mark.parametrize("kind", [None, "", "tensor_train"])
def test_kinds_inside_that_nobody_knows(name, kind, path):
  table = CASES[name]().table
  child = next(iter(table.children))
  forge(path, table, metadata={f"{child}.kind": kind})
  refused(path, f"In '{child}': The kind {kind!r} is not one of .*update")


@pytest.mark.parametrize("name", COMPOSITES)
@pytest.mark.parametrize("key", ["num_embeddings", "features"])
def test_sizes_inside_must_be_those_of_the_tensors(name, key, path):
  table = CASES[name]().table
  child = list(table.children)[-1]
  forge(path, table, metadata={f"{child}.{key}": "5"})
  refused(path, "damaged")
  forge(path, table, metadata={f"{child}.{key}": None})
  refused(path, "damaged")


def test_a_missing_table(path):
  table = CASES["sum"]().table
  parts = {n: None for n in table.tensors if n.startswith("second.")}
  forge(path, table, parts)
  refused(path, "In 'second': `rows` must be .*, got .*object.* damaged")


def test_unknown_tensors_beside_and_inside(path):
  table = CASES["sum"]().table
  forge(path, table, {"third.rows": np.zeros(3, np.uint8)})
  refused(path, "Unknown tensors .'third.rows'.")
  forge(path, table, {"first.rows.rows": np.zeros(3, np.uint8)})
  refused(path, "In 'first': Unknown tensors .'rows.rows'.")


@pytest.mark.parametrize("depth", [5, 50, 5000])
def test_files_that_nest_deeper_are_refused_before_they_are_read(depth, path):
  metadata = {
    "format": storage.FORMAT,
    "format_version": str(storage.FORMAT_VERSION),
  }
  prefix = ""
  for i in range(depth):
    # Beyond a few levels one name at the end tells the depth.
    if i < 50 or i == depth - 1:
      metadata[f"{prefix}kind"] = "projected"
    prefix += "inner."
  metadata[f"{prefix}kind"] = "dense"
  storage.write(path, {f"{prefix}rows": floats(2, 2)}, metadata)
  refused(path, f"nested at most 4 deep, got {depth}")


def test_tables_that_nest_deeper_are_refused():
  table = CASES["nested"]().table
  with pytest.raises(ValueError, match="nested at most 4 deep, got 5"):
    tables.SumTable(table, table)


@pytest.mark.parametrize(
  ("arrays", "text"),
  [
    ({"projection": floats(5, 3)}, r"shape \(6, 3\) to fit `inner` of 6"),
    ({"projection": floats(6)}, "`projection` must have 2 axes"),
    ({"projection": np.zeros((6, 3))}, "or int8, got float64"),
    ({"projection": np.zeros((6, 3), np.int8)}, "`projection_scales` must be"),
    (
      {"projection": floats(6, 3), "projection_scales": floats(6)},
      "and only for them, got float32 projection",
    ),
    (
      {
        "projection": np.zeros((6, 3), np.int8),
        "projection_scales": floats(3),
      },
      r"`projection_scales` must have shape \(6,\)",
    ),
    (
      {"projection": floats(6, 3), "bias": floats(6)},
      r"`bias` must have shape \(3,\) to fit `projection` \(6, 3\)",
    ),
  ],
)
def test_projections_that_do_not_fit(arrays, text):
  with pytest.raises(ValueError, match=text):
    tables.ProjectedTable(dense(), **arrays)


def test_a_rotation_keeps_what_codes_find():
  rotation = np.linalg.qr(floats(6, 6, seed=1))[0].astype(np.float32)
  inner = dense()
  table = tables.ProjectedTable(inner, projection=rotation)
  again = table._encode(table.to_dense())
  np.testing.assert_allclose(again.inner.rows, inner.rows, atol=1e-5)


@pytest.mark.parametrize(
  ("norms", "norm_range", "text"),
  [
    (floats(V - 1), None, r"shape \(11,\) to fit `inner` of 11 rows"),
    (np.zeros(V), None, "or uint8, got float64"),
    (np.zeros(V, np.uint8), None, "`norm_range` must be given for uint8"),
    (floats(V), floats(2), "only for them, got float32 norms"),
    (np.zeros(V, np.uint8), floats(3), r"`norm_range` must have shape \(2,\)"),
    (np.zeros(V, np.uint8), np.zeros(2), "must be float32, got float64"),
  ],
)
def test_norms_that_do_not_fit(norms, norm_range, text):
  with pytest.raises(ValueError, match=text):
    tables.ScaledTable(dense(), norms=norms, norm_range=norm_range)


@pytest.mark.parametrize(
  ("norms", "dtype", "text"),
  [
    ([1.0] * V, "int8", "`dtype` must be one of 'float32', 'float16', 'uint8'"),
    ([1.0] * (V - 1) + [-1.0], "uint8", "must not be negative, got -1.0"),
    ([1.0] * (V - 1) + [np.nan], "uint8", "`norms` must lie within"),
    ([1.0] * (V - 1) + [1e6], "float16", "`norms` must lie within 65504"),
    ([1.0] * 3, "uint8", "to fit `inner` of 11 rows"),
  ],
)
def test_norms_that_cannot_be_rounded(norms, dtype, text):
  with pytest.raises(ValueError, match=text):
    tables.ScaledTable.from_norms(dense(), norms, dtype=dtype)


@given(
  hnp.arrays(np.float32, V, elements=st.floats(0, 2**20, width=32)),
)
def test_rounded_norms_are_near(norms):
  norms = np.where(norms < 1e-6, np.float32(0), norms)
  table = tables.ScaledTable.from_norms(
    tables.DenseTable(np.ones((V, 1), np.float32)), norms
  )
  found, positive = table.to_dense()[:, 0], norms[norms > 0]
  np.testing.assert_array_equal(found[norms == 0], 0)
  assert not (table.norms[norms > 0] == 0).any()
  if positive.size:
    ratio = (positive.max() / positive.min()) ** (1 / 508) * 1.0001
    assert np.all(found[norms > 0] <= positive * ratio)
    assert np.all(found[norms > 0] >= positive / ratio)


def test_sums_of_unequal_tables():
  text = r"`second` must be of the size \(11, 6\) to fit `first`, got"
  for other in (dense(V - 1), dense(features=5)):
    with pytest.raises(ValueError, match=text):
      tables.SumTable(dense(), other)


@pytest.mark.parametrize(
  "hot_ids",
  [[0, 1, 1], [2, 1, 5], [-1, 0, 3], [0, 1, V], [0, 1, 2**40]],
  ids=str,
)
def test_hot_ids_out_of_order_or_range(hot_ids, path):
  hot, cold = dense(3), dense(V - 3)
  text = "`hot_ids` must be ascending ids below 11"
  with pytest.raises(ValueError, match=text):
    tables.TieredTable(hot, cold, hot_ids=hot_ids)
  if max(hot_ids) < 2**32 and min(hot_ids) >= 0:
    table = tables.TieredTable(hot, cold, hot_ids=[0, 1, 2])
    forge(path, table, {"hot_ids": np.array(hot_ids, np.uint32)})
    refused(path, text)


@pytest.mark.parametrize(
  ("hot_ids", "text"),
  [
    ([0, 1], r"`hot_ids` must have shape \(3,\) to fit `hot` of 3 rows"),
    ([[0, 1, 2]], r"`hot_ids` must have shape \(3,\)"),
    ([0.0, 1.0, 2.0], "`hot_ids` must be integers, got float64"),
  ],
)
def test_hot_ids_that_do_not_fit(hot_ids, text):
  with pytest.raises(ValueError, match=text):
    tables.TieredTable(dense(3), dense(V - 3), hot_ids=hot_ids)


def test_tiers_of_unequal_width():
  text = "`cold` must have 6 features to fit `hot`, got 5"
  with pytest.raises(ValueError, match=text):
    tables.TieredTable(dense(), dense(features=5))


@given(st.sets(st.integers(0, 19), min_size=1, max_size=19))
def test_every_split_gives_the_rows_in_order(hot_ids):
  rows, hot = floats(20, 3), sorted(hot_ids)
  cold = [i for i in range(20) if i not in hot_ids]
  table = tables.TieredTable(
    tables.DenseTable(rows[hot]), tables.DenseTable(rows[cold]), hot_ids=hot
  )
  np.testing.assert_array_equal(table.to_dense(), rows)
  ids = np.random.default_rng(0).integers(0, 20, 50)
  np.testing.assert_array_equal(table.lookup(ids), rows[ids])
  np.testing.assert_allclose(
    table.attend(rows[0]), rows @ rows[0], rtol=1e-5, atol=1e-5
  )


def test_the_first_symbols_need_no_ids():
  table = CASES["tiered_first"]().table
  assert "hot_ids" not in table.tensors
  explicit = dataclasses.replace(table, hot_ids=[0, 1, 2])
  assert explicit.nbytes == table.nbytes + 3
  assert explicit.vocabulary == WORDS
  np.testing.assert_array_equal(explicit.to_dense(), table.to_dense())
