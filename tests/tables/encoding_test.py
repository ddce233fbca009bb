"""New rows for tables that exist: the nearest that their shared part gives."""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from table_cases import CASES, WORDS, V, floats, integers

from anchor_codes import tables
from anchor_codes.tables import (
  anchor_rows,
  base,
  code_search,
  pursuit,
  rounding,
)

# Rows that nobody can choose: they come from the id, or go through a network.
CLOSED = {
  "hash_sum": "kind 'hash'",
  "hash_product": "kind 'hash'",
  "quotient_remainder_sum": "kind 'hash'",
  "quotient_remainder_product": "kind 'hash'",
  "codes_mlp": "composition 'mlp': its network cannot be inverted",
  "codes_lstm": "composition 'lstm'",
  "codes_lstm_float16": "composition 'lstm'",
  "projected_network": "composition 'mlp'",
}
OPEN = [name for name in CASES if name not in CLOSED]
ROWS = [name for name in OPEN if not name.startswith("tiered")]

EXACT = [
  name
  for name in ROWS
  if name.startswith(("dense", "codes_concat", "projected_int8"))
]


def without_words(name):
  return dataclasses.replace(CASES[name]().table, vocabulary=None)


def error(table, vectors):
  return np.square(table.to_dense() - vectors).sum(axis=1)


def shared(table):
  return {n: a for n, a in table.tensors.items() if n not in table.row_names}


@pytest.mark.parametrize("name", OPEN)
def test_new_rows_go_on_from_the_old_ones(name):
  table = CASES[name]().table
  words = None if table.vocabulary is None else ["new", "newer"]
  grown = table.encode_new(floats(2, table.features), vocabulary=words)
  assert type(grown) is type(table)
  assert grown.num_embeddings == V + 2
  np.testing.assert_array_equal(grown.lookup(range(V)), table.to_dense())
  for tensor, array in shared(table).items():
    np.testing.assert_array_equal(grown.tensors[tensor], array)
  if words is not None:
    assert grown.vocabulary == (*WORDS, *words)
    np.testing.assert_array_equal(
      grown.lookup_words(["newer"]), grown.lookup([V + 1])
    )


@pytest.mark.parametrize("name", OPEN)
def test_new_rows_are_saved_and_loaded(name, tmp_path):
  table, path = without_words(name), tmp_path / "table.safetensors"
  grown = table.encode_new(floats(3, table.features))
  grown.save(path)
  np.testing.assert_array_equal(tables.load(path).to_dense(), grown.to_dense())


@pytest.mark.parametrize("name", ROWS)
def test_rows_have_the_form_of_the_old_ones(name):
  table = without_words(name)
  vectors = table.to_dense()
  again = table._encode(vectors)
  assert again.tensors.keys() == table.tensors.keys()
  for tensor, array in table.tensors.items():
    assert again.tensors[tensor].dtype == array.dtype
    assert again.tensors[tensor].shape[1:] == array.shape[1:]
  # The vectors of a table can be met, by their own rows at least; the searches
  # that are greedy come near, or have fewer non-zeros than some rows.
  limit = (0.002 if name in EXACT else 1) * np.square(vectors).sum()
  assert error(again, vectors).sum() < limit


@pytest.mark.parametrize("name", ROWS)
def test_blocks_do_not_change_the_rows(name, monkeypatch):
  table = without_words(name)
  vectors = floats(9, table.features, seed=5)
  whole = table._encode(vectors).to_dense()
  monkeypatch.setattr(base, "_BLOCK", 2)
  monkeypatch.setattr(code_search, "_BEAM_BLOCK", 4)
  monkeypatch.setattr(code_search, "_SEARCH_BLOCK", 3)
  monkeypatch.setattr(code_search, "_SMALL", 1)
  monkeypatch.setattr(anchor_rows, "_BLOCK", 4)
  monkeypatch.setattr(rounding, "_BLOCK", 4)
  monkeypatch.setattr(pursuit, "_BLOCK", 4)
  np.testing.assert_allclose(
    table._encode(vectors).to_dense(), whole, rtol=1e-3, atol=1e-3
  )


@pytest.mark.parametrize("name", ROWS)
def test_zeros_are_encoded_without_a_warning(name):
  table = without_words(name)
  again = table._encode(np.zeros((2, table.features), np.float32))
  assert np.isfinite(again.to_dense()).all()


@pytest.mark.parametrize("name", CLOSED)
def test_rows_that_cannot_be_chosen(name):
  table = without_words(name)
  with pytest.raises(ValueError, match=CLOSED[name]):
    table.encode_new(floats(1, table.features))


def test_tiers_are_the_outermost_table():
  table = without_words("tiered")
  scaled = tables.ScaledTable(table, norms=np.ones(V, np.float32))
  with pytest.raises(ValueError, match="tiers must be the outermost one"):
    scaled.encode_new(floats(1, 6))


def test_new_symbols_are_cold():
  table = without_words("tiered")
  grown = table.encode_new(floats(300, 6))
  assert grown.hot.num_embeddings == table.hot.num_embeddings
  np.testing.assert_array_equal(grown.hot_ids, table.hot_ids)
  assert grown.hot_ids.dtype == np.uint16  # 311 rows.


@pytest.mark.parametrize("name", ["codes_concat", "dense_int4", "tiered"])
@pytest.mark.parametrize(
  ("vectors", "text"),
  [
    (np.zeros(3), "`vectors` must be .* with at least one vector, got shape"),
    (np.zeros((2, 5)), "`vectors` must be .* got shape .2, 5."),
    (None, "`vectors` must be .* got shape"),
    (np.inf, "`vectors` must be finite"),
    (np.nan, "`vectors` must be finite"),
    (1e300, "`vectors` must be finite"),
  ],
)
def test_vectors_that_do_not_fit(name, vectors, text):
  table = without_words(name)
  if vectors is None:
    vectors = np.zeros((0, table.features))
  if np.ndim(vectors) == 0:
    vectors = np.full((2, table.features), vectors)
  with pytest.raises(ValueError, match=text):
    table.encode_new(vectors)


@pytest.mark.parametrize(
  ("has_words", "words", "text"),
  [
    (True, None, "must be given for a table that has one, and only for it"),
    (False, ["a"], "must be given for a table that has one, and only for it"),
    (True, ["a", "b"], "must have 1 words"),
    (True, [3], "must hold strings"),
    (True, [WORDS[4]], "must hold new words, got 'wörd 4"),
  ],
)
def test_new_words_that_do_not_fit(has_words, words, text):
  table = CASES["dense_float32"]().table
  if not has_words:
    table = dataclasses.replace(table, vocabulary=None)
  with pytest.raises(ValueError, match=text):
    table.encode_new(floats(1, 6), vocabulary=words)


def every_code(table, length):
  """Returns the vectors of all codes, in their order."""
  digits = itertools.product(range(table.codebook_size), repeat=length)
  codes = np.array(list(digits))
  return tables.CodeTable.from_codes(
    codes,
    table.codebooks,
    composition=table.composition,
    projection=table.projection,
    bias=table.bias,
    scales=table.scales,
  ).to_dense()


@pytest.mark.parametrize(
  "name",
  ["codes_concat_shared", "codes_concat_int8", "codes_linear_float16"],
)
def test_codes_are_the_nearest_of_all(name):
  table = without_words(name)
  vectors = floats(30, table.features, seed=4)
  every = every_code(table, table.code_length)
  least = np.square(vectors[:, None] - every).sum(axis=2).min(axis=1)
  found = error(table._encode(vectors), vectors)
  assert np.all(found >= least - 1e-3)
  if table.composition == "concat":
    np.testing.assert_allclose(found, least, rtol=1e-3, atol=1e-4)
  else:  # A beam finds most of them, and is near in the rest.
    assert np.mean(found <= 1.001 * least + 1e-4) > 0.5
    assert found.sum() <= 1.1 * least.sum()


@given(st.integers(0, 1000), st.integers(1, 4), st.booleans())
def test_sparse_weights_solve_their_normal_equations(seed, slots, positive):
  anchors, vectors = floats(7, 5, seed=seed), floats(6, 5, seed=seed + 1)
  indices, weights = pursuit.sparse_weights(
    vectors, anchors, num_nonzeros=slots, non_negative=positive
  )
  chosen = anchors[indices]
  rest = vectors - np.einsum("ns,nsd->nd", weights, chosen)
  products = np.einsum("nsd,nd->ns", chosen, rest)
  assert all(len(set(row)) == slots for row in indices.tolist())
  if positive:
    assert weights.min() >= 0
    products = np.where(weights > 0, products, np.maximum(products, 0))
    np.testing.assert_allclose(products, 0, atol=0.05)
  else:
    np.testing.assert_allclose(products, 0, atol=1e-3)


def test_as_many_slots_as_anchors_and_more():
  anchors, vectors = floats(3, 5), floats(4, 5, seed=1)
  exact = np.linalg.lstsq(anchors.T, vectors.T)[0].T
  indices, weights = pursuit.sparse_weights(vectors, anchors, num_nonzeros=5)
  found = np.zeros((4, 3), np.float32)
  np.add.at(found, (np.arange(4)[:, None], indices), weights)
  np.testing.assert_allclose(found, exact, rtol=1e-3, atol=1e-4)


def test_anchors_that_repeat_do_no_harm():
  anchors = np.tile(floats(2, 5), (3, 1))
  _, weights = pursuit.sparse_weights(floats(4, 5), anchors, num_nonzeros=6)
  assert np.abs(weights).max() < 100


def test_weights_stay_positive_if_all_are():
  table = tables.AnchorTable(
    floats(9, 6),
    weights=np.abs(floats(V, 3)),
    indices=integers(9, V, 3),
  )
  assert table._encode(floats(50, 6)).weights.min() >= 0
  table = dataclasses.replace(table, weights=-table.weights)
  assert table._encode(floats(50, 6)).weights.min() < 0


def test_the_norm_is_the_best_for_the_chosen_direction():
  inner = tables.CodeTable.from_codes(
    integers(8, V, 2), floats(2, 8, 3), composition="concat"
  )
  table = tables.ScaledTable(inner, norms=np.ones(V, np.float32))
  vectors = floats(20, 6, seed=3)
  found = table._encode(vectors)
  for factor in (0.9, 1.1):
    other = dataclasses.replace(found, norms=found.norms * np.float32(factor))
    assert np.all(error(found, vectors) <= error(other, vectors) + 1e-5)


@pytest.mark.parametrize("name", CASES)
def test_joined_tables_have_the_rows_of_all(name):
  table = without_words(name)
  if name in CLOSED and "codes" not in name and "network" not in name:
    with pytest.raises(ValueError, match="computed from the ids"):
      tables.concatenate([table, table])
    return
  joined = tables.concatenate([table, table, table])
  assert joined.num_embeddings == 3 * V
  np.testing.assert_array_equal(
    joined.to_dense(), np.tile(table.to_dense(), (3, 1))
  )


def test_tiers_of_any_number_of_rows_are_joined():
  """The ids of the hot rows are kept in other types there."""
  dense = lambda *rows: tables.DenseTable(np.float32(rows)[:, None])
  small = tables.TieredTable(dense(7), dense(1, 2), hot_ids=[1])
  large = tables.TieredTable(dense(8), dense(*range(300)), hot_ids=[299])
  assert small.hot_ids.dtype != large.hot_ids.dtype
  for parts in ([small, large], [large, small]):
    np.testing.assert_array_equal(
      tables.concatenate(parts).to_dense(),
      np.concatenate([part.to_dense() for part in parts]),
    )


def test_words_are_joined():
  table = CASES["dense_int8"]().table
  other = dataclasses.replace(table, vocabulary=list("abcdefghijk"))
  joined = tables.concatenate([table, other])
  assert joined.vocabulary == (*WORDS, *"abcdefghijk")
  with pytest.raises(ValueError, match="must not repeat words"):
    tables.concatenate([table, table])
  with pytest.raises(ValueError, match="all have a vocabulary, or none"):
    tables.concatenate([table, dataclasses.replace(table, vocabulary=None)])


@pytest.mark.parametrize(
  ("one", "other"),
  [
    ("dense_int8", "dense_float32"),
    ("dense_float32", "dense_float16"),
    ("dense_int8", "dense_int4"),
    ("dense_int4", "dense_int2"),
    ("codes_concat", "codes_concat_int8"),
    ("sparse_anchors", "masked_anchors"),
    ("sparse_anchors", "sparse_anchors_float16"),
    ("tiered", "tiered_first"),
    ("projected_codes", "projected_network"),
    ("scaled_float16", "scaled_uint8"),
  ],
)
def test_tables_that_differ_are_not_joined(one, other):
  text = "`tables` must differ in their rows alone: number 2 does not"
  first, second = without_words(one), without_words(other)
  with pytest.raises(ValueError, match=text):
    tables.concatenate([first, first, second])
  with pytest.raises(ValueError, match="at least one table, got none"):
    tables.concatenate([])


def test_tables_with_other_anchors_are_not_joined():
  table = without_words("sparse_anchors")
  rows = {"weights": table.weights[:, :2], "indices": table.indices[:, :2]}
  shorter = dataclasses.replace(table, **rows)
  with pytest.raises(ValueError, match="must differ in their rows alone"):
    tables.concatenate([table, shorter])
  other = dataclasses.replace(table, anchors=table.anchors + np.float32(1))
  with pytest.raises(ValueError, match="the shared arrays of number 0"):
    tables.concatenate([table, other])
