"""The laws of every compact table, whatever its kind."""

import dataclasses
import pathlib
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from table_cases import CASES, V, floats, sparse_anchors

from anchor_codes import accounting, tables
from anchor_codes.tables import base, checks, vocabulary

BATCH_SHAPES = ((), (4,), (2, 3), (0,), (2, 0))


@pytest.fixture(params=CASES)
def case(request):
  return CASES[request.param]()


@pytest.fixture
def table(case):
  return case.table


@pytest.mark.parametrize("shape", BATCH_SHAPES)
def test_lookup_is_the_rows_of_the_definition(case, shape):
  ids = np.random.default_rng(0).integers(0, V, shape)
  vectors = case.table.lookup(ids)
  assert vectors.dtype == np.float32
  assert vectors.shape == (*shape, case.table.features)
  np.testing.assert_allclose(vectors, case.dense[ids], rtol=1e-5, atol=1e-5)


def test_to_dense_is_the_lookup_of_all_rows(case):
  dense = case.table.to_dense()
  assert dense.dtype == np.float32
  np.testing.assert_allclose(dense, case.dense, rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(
    dense, case.table.lookup(np.arange(V)), rtol=1e-6, atol=1e-6
  )


@pytest.mark.parametrize("shape", BATCH_SHAPES)
def test_attend_is_the_product_with_the_full_table(case, shape):
  query = floats(*shape, case.table.features, seed=3)
  scores = case.table.attend(query)
  assert scores.dtype == np.float32
  assert scores.shape == (*shape, V)
  np.testing.assert_allclose(scores, query @ case.dense.T, rtol=1e-4, atol=1e-4)


def test_blocks_do_not_change_anything(case, monkeypatch):
  query = floats(2, case.table.features)
  whole = case.table.to_dense(), case.table.attend(query)
  monkeypatch.setattr(base, "_BLOCK", 3)
  blocks = case.table.to_dense(), case.table.attend(query)
  for one, other in zip(whole, blocks, strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
  "ids",
  [3, [3, 0], [[1], [2]], (), [], [[], []], np.uint64([5]), np.int8(2)],
  ids=str,
)
def test_lookup_takes_python_and_numpy_integers(table, ids):
  vectors = table.lookup(ids)
  expected = table.to_dense()[np.asarray(ids, np.intp)]
  np.testing.assert_allclose(vectors, expected, rtol=1e-5, atol=1e-6)


def test_lookup_takes_jax_arrays(table):
  ids = jnp.array([[1, 2], [3, 4]])
  np.testing.assert_array_equal(
    table.lookup(ids), table.lookup([[1, 2], [3, 4]])
  )


@pytest.mark.parametrize(("bad", "place"), [(V, r"\(1,\)"), (-1, r"\(1,\)")])
def test_ids_out_of_range_are_named_with_the_size(table, bad, place):
  text = rf"id {bad} at position {place} is out of range for a table of {V} "
  with pytest.raises(IndexError, match=text):
    table.lookup([0, bad])


@pytest.mark.parametrize(
  "ids", [1.0, [0.0, 1.0], np.zeros(0), [True], ["a"]], ids=str
)
def test_ids_that_are_not_integers_are_refused(table, ids):
  with pytest.raises(ValueError, match="ids must be integers, got"):
    table.lookup(ids)


def test_queries_of_the_wrong_width_are_refused(table):
  for shape in ((), (table.features + 1,), (table.features, 1)):
    text = rf"`query` must be \[..., {table.features}\], got shape"
    with pytest.raises(ValueError, match=text):
      table.attend(np.zeros(shape))


def test_sizes_follow_from_the_tensors(table):
  rows = sum(8 * table.tensors[n].nbytes for n in table.row_names)
  assert table.nbytes == sum(a.nbytes for a in table.tensors.values())
  assert 0 <= table.bits_per_row * V - rows < V
  assert table.dense_bytes == V * table.features * 4
  assert table.compression_ratio == table.dense_bytes / table.nbytes
  if any(name.endswith(("masks", "hot_ids")) for name in table.row_names):
    return  # Whose rows differ in size.
  if isinstance(table, tables.TieredTable):
    return
  assert table.bits_per_row * V == rows
  assert table.nbytes == accounting.table_bytes(
    V,
    row_bits=table.bits_per_row,
    shared_bytes=table.nbytes - rows // 8,
  )


@pytest.mark.parametrize("dtype", checks.FLOATS)
def test_astype_rounds_the_floats_and_nothing_else(case, dtype):
  table = case.table.astype(dtype)
  assert type(table) is type(case.table)
  assert table.vocabulary == case.table.vocabulary
  assert table.metadata == case.table.metadata
  assert table.tensors.keys() == case.table.tensors.keys()
  for name, array in case.table.tensors.items():
    is_scale = name.endswith(("scales", "norm_range"))
    keeps = array.dtype.kind != "f" or is_scale
    expected = array if keeps else array.astype(dtype)
    assert table.tensors[name].dtype == expected.dtype
    np.testing.assert_array_equal(table.tensors[name], expected)
  np.testing.assert_allclose(table.to_dense(), case.dense, rtol=0.02, atol=0.01)


def test_astype_there_and_back_is_one_rounding(table):
  half = table.astype("float16")
  for again in (half.astype("float16"), half.astype("float32")):
    np.testing.assert_array_equal(again.to_dense(), half.to_dense())
  ids, query = [3, 1], floats(2, table.features)
  np.testing.assert_array_equal(
    table.astype("float32").lookup(ids), table.lookup(ids)
  )
  np.testing.assert_allclose(
    half.attend(query), query @ half.to_dense().T, rtol=1e-3, atol=1e-3
  )


def test_what_astype_gave_is_saved_and_loaded(table, tmp_path):
  path, half = tmp_path / "table.safetensors", table.astype("float16")
  half.save(path)
  np.testing.assert_array_equal(tables.load(path).to_dense(), half.to_dense())


def test_astype_knows_two_types(table):
  text = "`dtype` must be one of 'float32', 'float16', got 'int8'"
  with pytest.raises(ValueError, match=text):
    table.astype("int8")


@pytest.mark.parametrize("value", [65520, np.inf, np.nan])
@pytest.mark.parametrize("name", ["anchors", "weights"])
def test_astype_refuses_what_is_too_large(name, value):
  arrays = {"anchors": floats(5, 6), "weights": floats(V, 5)}
  arrays[name][1, 2] = value
  table = tables.AnchorTable(arrays.pop("anchors"), **arrays)
  text = f"`{name}` must lie within 65504.0 for float16"
  with pytest.raises(ValueError, match=text):
    table.astype("float16")


def test_the_quality_is_kept_in_the_file(table, tmp_path):
  path = tmp_path / "table.safetensors"
  rated = dataclasses.replace(table, quality='{"cosine":0.9}')
  rated.save(path)
  loaded = tables.load(path)
  assert loaded.quality == '{"cosine":0.9}'
  assert table.quality is None
  assert "quality" not in table.metadata
  # It says nothing of other values.
  assert loaded.astype("float16").quality is None
  with pytest.raises(ValueError, match=r"`quality` must be a string, got 0\.9"):
    dataclasses.replace(table, quality=0.9)


def test_words_are_looked_up(case):
  table = dataclasses.replace(case.table, vocabulary=list("abcdefghijk"))
  np.testing.assert_array_equal(
    table.lookup_words(["k", "a"]), table.lookup([10, 0])
  )
  with pytest.raises(KeyError, match="'z' is not in the vocabulary"):
    table.lookup_words(["a", "z"])


def test_bags_and_the_best_rows_are_methods(case):
  ids, weights = [3, 1, 3], floats(3)
  pooled = case.table.bag(ids, [0, 1], weights)
  expected = weights[:, None] * case.dense[ids]
  expected = np.stack([expected[0], expected[1] + expected[2]])
  np.testing.assert_allclose(pooled, expected, rtol=1e-4, atol=1e-4)
  query = floats(case.table.features)
  scores, best = case.table.top_k(query, 2)
  expected = case.dense @ query
  np.testing.assert_allclose(scores, expected[best], rtol=1e-4, atol=1e-4)
  np.testing.assert_array_equal(best, np.argsort(-expected)[:2])


def test_load_gives_back_what_was_saved(table, tmp_path):
  path = tmp_path / "table.safetensors"
  table.save(path)
  loaded = tables.load(path)
  assert type(loaded) is type(table)
  assert loaded.metadata == table.metadata
  assert loaded.vocabulary == table.vocabulary
  assert loaded.tensors.keys() == table.tensors.keys()
  for name, array in table.tensors.items():
    assert loaded.tensors[name].dtype == array.dtype
    np.testing.assert_array_equal(loaded.tensors[name], array)
  np.testing.assert_array_equal(loaded.to_dense(), table.to_dense())


def test_saving_twice_gives_the_same_bytes(table, tmp_path):
  paths = [tmp_path / name for name in ("a", "b", "c")]
  table.save(paths[0])
  table.save(str(paths[1]))
  tables.load(paths[0]).save(paths[2])
  contents = [path.read_bytes() for path in paths]
  assert contents[0] == contents[1] == contents[2]


def test_the_reference_reader_reads_the_file(table, tmp_path):
  path = tmp_path / "table.safetensors"
  table.save(path)
  arrays = safetensors.numpy.load_file(path)
  vocabulary = arrays.pop("vocabulary", None)
  assert (vocabulary is None) == (table.vocabulary is None)
  assert sum(a.nbytes for a in arrays.values()) == table.nbytes
  for name, array in table.tensors.items():
    np.testing.assert_array_equal(arrays[name], array)


def test_a_file_rewritten_by_the_reference_writer_still_loads(table, tmp_path):
  path = tmp_path / "table.safetensors"
  table.save(path)
  with safetensors.safe_open(path, "numpy") as file:
    metadata = file.metadata()
  arrays = safetensors.numpy.load_file(path)
  safetensors.numpy.save_file(arrays, path, metadata)
  assert tables.load(path).metadata == table.metadata


def test_loaded_arrays_are_mapped_and_read_only(table, tmp_path):
  path = tmp_path / "table.safetensors"
  table.save(path)
  for array in tables.load(path).tensors.values():
    assert not array.flags.writeable
    owner = array
    while isinstance(owner.base, np.ndarray):
      owner = owner.base
    assert isinstance(owner, np.memmap)


def test_a_table_outlives_the_replacement_of_its_file(table, tmp_path):
  path = tmp_path / "table.safetensors"
  table.save(path)
  loaded = tables.load(path)
  sparse_anchors().table.save(path)
  np.testing.assert_array_equal(loaded.to_dense(), table.to_dense())


def test_tables_are_frozen(table):
  with pytest.raises(dataclasses.FrozenInstanceError):
    table.features = 3
  for array in table.tensors.values():
    with pytest.raises(ValueError, match="read-only"):
      array[:] = 0


def test_replace_keeps_the_rest(table):
  replaced = dataclasses.replace(table, vocabulary=list("abcdefghijk"))
  assert replaced.vocabulary == tuple("abcdefghijk")
  np.testing.assert_array_equal(replaced.to_dense(), table.to_dense())


def test_bytes_in_another_order_are_put_in_that_of_the_machine(table):
  tensors = {
    name: array.astype(array.dtype.newbyteorder(">"))
    for name, array in table.tensors.items()
  }
  again = table.from_tensors(tensors, table.metadata)
  assert all(array.dtype.isnative for array in again.tensors.values())
  np.testing.assert_array_equal(again.to_dense(), table.to_dense())


def test_repr_is_one_short_line(table):
  assert repr(table) == (
    f"{type(table).__name__}(num_embeddings={V}, "
    f"features={table.features}, nbytes={table.nbytes})"
  )


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_not_saved(value, tmp_path):
  anchors = floats(5, 6)
  anchors[1, 2] = value
  table = tables.AnchorTable(anchors, weights=floats(V, 5))
  with pytest.raises(ValueError, match="`anchors` must be finite"):
    table.save(tmp_path / "table.safetensors")
  assert list(tmp_path.iterdir()) == []


def make(vocabulary, num_embeddings=3):
  rows = np.zeros((num_embeddings, 2), np.float32)
  return tables.DenseTable(rows, vocabulary=vocabulary)


def test_words_have_ids():
  table = make(["b", "", "ä\n"])
  assert table.vocabulary == ("b", "", "ä\n")
  ids = table.ids_of(["ä\n", "b", "b"])
  np.testing.assert_array_equal(ids, [2, 0, 0])
  assert ids.dtype == np.int32
  assert table.ids_of(()).shape == (0,)


def test_an_unknown_word_is_named():
  with pytest.raises(KeyError, match="'dog' is not in the vocabulary"):
    make(["a", "b", "c"]).ids_of(["a", "dog", "eel"])


def test_one_string_is_not_a_list_of_words():
  with pytest.raises(ValueError, match="must be a list of strings, got 'ab'"):
    make(["a", "b", "c"]).ids_of("ab")


def test_words_without_a_vocabulary():
  with pytest.raises(ValueError, match="no vocabulary: look ids up instead"):
    make(None).ids_of(["a"])


@pytest.mark.parametrize(
  ("words", "text"),
  [
    (["a", "b"], "must have 3 words, one for each row, got 2"),
    (["a", "b", "a"], "must not repeat words, got 'a' 2 times"),
    (["a", "b", 3], "must hold strings, got 3"),
    (["a", "b", "\ud800"], "must be valid text, got '.ud800'"),
  ],
)
def test_vocabularies_that_do_not_fit_are_refused(words, text):
  with pytest.raises(ValueError, match=text):
    make(words)


@given(st.lists(st.text(), min_size=1, max_size=20, unique=True))
def test_any_words_survive_the_file(words):
  encoded = vocabulary.encode(words)
  assert encoded.dtype == np.uint8
  assert vocabulary.decode(encoded) == words


def test_all_is_what_is_documented():
  assert tables.__all__ == sorted(tables.__all__)
  for name in tables.__all__:
    assert getattr(tables, name).__doc__


@pytest.mark.parametrize(
  "module", ["tables", "bits", "accounting", "cli", "typing"]
)
def test_importing_does_not_load_jax(module):
  program = (
    f"import sys, anchor_codes.{module}\n"
    "print(sorted({'jax', 'jaxlib', 'flax', 'optax', 'chex', 'ml_dtypes'}"
    " & set(sys.modules)))"
  )
  root = pathlib.Path(tables.__file__).parents[2]
  result = subprocess.run(
    [sys.executable, "-c", program],
    cwd=root,
    capture_output=True,
    text=True,
    check=True,
  )
  assert result.stdout.strip() == "[]"
