"""Files with good checksums and bad content."""

import tracemalloc

import numpy as np
import pytest
from table_cases import CASES, KINDS, WORDS, V

from anchor_codes import bits, tables
from anchor_codes.tables import anchor_rows, base, storage, vocabulary


@pytest.fixture
def path(tmp_path):
  return tmp_path / "table.safetensors"


def forge(path, table, *, metadata=None, **tensors):
  """Writes a table with some parts exchanged, or left out if None."""
  arrays = {**table.tensors, **tensors}
  arrays = {n: array for n, array in arrays.items() if array is not None}
  words = {**table.metadata, **(metadata or {})}
  words = {n: word for n, word in words.items() if word is not None}
  storage.write(path, arrays, words)


def table_of(name):
  return CASES[name]().table


def refused(path, text, *, verify=True):
  with pytest.raises(tables.ArtifactError, match=text) as error:
    tables.load(path, verify=verify)
  assert str(error.value).startswith(f"{path}: ")


@pytest.mark.parametrize("name", KINDS)
def test_unforged_files_load(name, path):
  forge(path, table_of(name))
  assert tables.load(path).metadata == table_of(name).metadata


@pytest.mark.parametrize("kind", ["tensor_train", "", None])
def test_unknown_kinds_ask_for_an_update(kind, path):
  forge(path, table_of("dense_int8"), metadata={"kind": kind})
  refused(path, f"kind {kind!r} is not one of .*'anchors'.*: update anchor_cod")


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("value", ["13", "-1", "", "six", "06", None])
def test_features_must_be_those_of_the_tensors(name, value, path):
  forge(path, table_of(name), metadata={"features": value})
  refused(path, "damaged", verify=False)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("value", ["0", "-1", "", "eleven", "011", None])
def test_num_embeddings_must_be_that_of_the_tensors(name, value, path):
  forge(path, table_of(name), metadata={"num_embeddings": value})
  refused(path, "damaged", verify=False)


@pytest.mark.parametrize("name", KINDS)
def test_missing_tensors(name, path):
  table = table_of(name)
  for tensor in table.tensors:
    if tensor in ("indices", "bias", "buckets_2", "hot_ids"):
      continue
    if tensor.endswith(".indices"):
      continue
    forge(path, table, **{tensor: None})
    refused(path, "damaged", verify=False)


def test_dropping_the_indices_is_not_a_dense_table(path):
  forge(path, table_of("sparse_anchors"), indices=None)
  refused(path, r"`weights` must have shape \(11, 5\) to fit `anchors`")


@pytest.mark.parametrize("name", KINDS)
def test_unknown_tensors(name, path):
  forge(path, table_of(name), extra=np.zeros(3, np.uint8))
  refused(path, "Unknown tensors .*'extra'")


@pytest.mark.parametrize(
  "option", ["code_length", "codebook_size", "composition"]
)
def test_missing_options(option, path):
  forge(path, table_of("codes_sum"), metadata={option: None})
  refused(path, f"Missing options .*{option}")


@pytest.mark.parametrize(
  ("option", "value", "text"),
  [
    ("composition", "mean", "must be one of 'sum', 'concat', 'linear'"),
    ("composition", "linear", "`projection` must be given"),
    ("code_length", "5", r"`packed` must have shape \(11, 5\)"),
    ("code_length", "0", "`code_length` must be at least 1"),
    ("codebook_size", "1", "`codebook_size` must be at least 2"),
    ("codebook_size", "1000000", "`codebook_size` must be at most 65536"),
    ("codebook_size", "255", r"`codebooks` must have shape \(4, 255, 3\)"),
  ],
)
def test_options_that_do_not_fit(option, value, text, path):
  forge(path, table_of("codes_sum"), metadata={option: value})
  refused(path, text, verify=False)


@pytest.mark.parametrize("block", [4096, 2])
def test_digits_past_the_codebook(block, path, monkeypatch):
  monkeypatch.setattr(base, "_BLOCK", block)
  table = table_of("codes_concat_shared")
  codes = np.array(table.codes)
  codes[3, 1] = 3
  packed = bits.pack_codes(codes, codebook_size=4)
  forge(path, table, packed=packed)
  refused(path, "`packed` must hold digits below codebook_size 3, got 3")


@pytest.mark.parametrize("position", [0, 3])
@pytest.mark.parametrize(
  "name", ["codes_concat_shared", "codes_concat_int8", "codes_lstm_float16"]
)
def test_bad_digits_never_read_other_vectors_without_verification(
  name, position, path
):
  table = table_of(name)
  codes = np.array(table.codes).astype(int)
  codes[3, position] = table.codebook_size
  packed = bits.pack_codes(codes, codebook_size=table.codebook_size + 1)
  forge(path, table, packed=packed)
  loaded = tables.load(path, verify=False)
  np.testing.assert_array_equal(loaded.lookup([2]), table.lookup([2]))
  text = f"digit {table.codebook_size} is out of range .* table is damaged"
  for use in (
    lambda: loaded.lookup(3),
    lambda: loaded.attend(np.zeros(loaded.features)),
  ):
    with pytest.raises(IndexError, match=text):
      use()


def test_indices_past_the_anchors(path):
  table = table_of("sparse_anchors")
  indices = np.array(table.indices)
  indices[3, 1] = 5
  forge(path, table, indices=indices)
  refused(path, r"`indices` must lie in \[0, 5\), the number of anchors, got 5")


def test_bad_indices_never_wrap_without_verification(path):
  table = table_of("sparse_anchors")
  indices = np.array(table.indices)
  indices[3, 1] = 5
  forge(path, table, indices=indices)
  with pytest.raises(IndexError):
    tables.load(path, verify=False).lookup(3)
  forge(path, table, indices=indices.astype(np.uint32) + 256)
  refused(path, "`indices` must lie in", verify=False)


def corrupt_masks(how):
  """Returns masks that do not fit the weights, each in another way."""
  masks = np.array(table_of("masked_anchors").masks)
  match how:
    case "one bit more":
      masks[7, 0] |= 1
    case "one bit less":
      masks[2, 1] ^= 1
    case "past the anchors":
      masks[5, 1] |= 1 << 5
    case "moved past the anchors":
      masks[2, 1] ^= 1 | 1 << 7
    case "nothing":
      masks[:] = 0
    case "everything":
      masks[:] = 255
  return masks


CORRUPT_MASKS = {
  "one bit more": r"one bit for each of the (\d+) weights, got \d+ bits",
  "one bit less": r"one bit for each of the (\d+) weights, got \d+ bits",
  "past the anchors": "no bits past the 13 anchors, got 1 rows with some",
  "moved past the anchors": "no bits past the 13 anchors, got 1 rows",
  "nothing": r"one bit for each of the (\d+) weights, got 0 bits",
  "everything": "no bits past the 13 anchors, got 11 rows",
}


@pytest.mark.parametrize("how", CORRUPT_MASKS)
def test_masks_that_do_not_fit_the_weights(how, path):
  forge(path, table_of("masked_anchors"), masks=corrupt_masks(how))
  refused(path, f"`masks` must have {CORRUPT_MASKS[how]}")


@pytest.mark.parametrize("how", CORRUPT_MASKS)
def test_bad_masks_never_read_other_rows_without_verification(how, path):
  forge(path, table_of("masked_anchors"), masks=corrupt_masks(how))
  table = tables.load(path, verify=False)
  for _ in range(2):  # A failure is not remembered as a success.
    with pytest.raises(ValueError, match="`masks` must have"):
      table.lookup(0)
    with pytest.raises(ValueError, match="`masks` must have"):
      table.attend(np.zeros(6))


@pytest.mark.parametrize("size", [0, 1, 10_000])
def test_weights_that_do_not_fit_the_masks(size, path):
  weights = np.zeros(size, np.float32)
  forge(path, table_of("masked_anchors"), weights=weights)
  refused(path, f"`masks` must have one bit for each of the {size} weights")
  with pytest.raises(ValueError, match="one bit for each"):
    tables.load(path, verify=False).lookup(0)


def test_masks_beside_indices(path):
  masks = np.zeros((V, 1), np.uint8)
  forge(path, table_of("sparse_anchors"), masks=masks)
  refused(path, "`masks` must be given without `indices`", verify=False)


def test_masked_rows_need_no_look_at_the_masks_to_load(path, monkeypatch):
  table_of("masked_anchors").save(path)

  def look(*args, **kwargs):
    raise AssertionError("The masks were read.")

  monkeypatch.setattr(anchor_rows, "mask_offsets", look)
  table = tables.load(path, verify=False)
  with pytest.raises(AssertionError, match="The masks were read"):
    table.lookup(0)


@pytest.mark.parametrize(
  ("name", "tensor", "array"),
  [
    ("masked_anchors", "masks", np.zeros((V, 2), np.float32)),
    ("masked_anchors", "masks", np.zeros((V, 1), np.uint8)),
    ("masked_anchors", "masks", np.zeros((V, 3), np.uint8)),
    ("masked_anchors", "masks", np.zeros(V, np.uint8)),
    ("masked_anchors", "masks", np.zeros((0, 2), np.uint8)),
    ("masked_anchors", "weights", np.zeros((V, 3), np.float32)),
    ("masked_anchors", "weights", np.zeros(3, np.uint8)),
    ("masked_anchors", "anchors", np.zeros((17, 6), np.float32)),
    ("sparse_anchors", "weights", np.zeros((V, 3), np.uint8)),
    ("sparse_anchors", "weights", np.zeros((V, 2), np.float32)),
    ("sparse_anchors", "anchors", np.zeros(5, np.float32)),
    ("sparse_anchors", "indices", np.zeros((V, 3), np.float32)),
    ("codes_concat_shared", "packed", np.zeros((V, 2), np.uint8)),
    ("codes_concat_shared", "packed", np.zeros((V, 1), np.float32)),
    ("codes_concat_shared", "bias", np.zeros(5, np.float32)),
    ("dense_int8", "scales", np.zeros(5, np.float32)),
    ("dense_int8", "rows", np.zeros((V, 6), np.float32)),
    ("hash_sum", "buckets_1", np.zeros((4, 5), np.float32)),
    ("hash_sum", "buckets_1", np.zeros((0, 6), np.float32)),
    ("quotient_remainder_sum", "buckets_1", np.zeros((9, 6), np.float32)),
  ],
)
def test_tensors_that_do_not_fit(name, tensor, array, path):
  forge(path, table_of(name), **{tensor: array})
  refused(path, "`.*` must .*, got .*", verify=False)


@pytest.mark.parametrize(
  ("text", "reason"),
  [
    (b"", "vocabulary is not valid JSON"),
    (b"{}", "vocabulary is not a JSON list"),
    (b'"abcdefghijk"', "vocabulary is not a JSON list"),
    (b"[1,2,3,4,5,6,7,8,9,10,11]", "must hold strings, got 1"),
    (b'["a"]', "must have 11 words, one for each row, got 1"),
    (b'["a","b","c","d","e","f","g","h","i","j","a"]', "must not repeat"),
    (b"[" * 100_000, "vocabulary is not valid JSON"),
  ],
)
def test_vocabularies_that_do_not_fit(text, reason, path):
  words = np.frombuffer(text, np.uint8)
  forge(path, table_of("dense_int8"), vocabulary=words)
  refused(path, reason)
  # Without verification the words wait until they are asked for.
  table = tables.load(path, verify=False)
  assert table.lookup(0).shape == (6,)
  for use in (lambda: table.ids_of(["a"]), lambda: table.vocabulary[0]):
    with pytest.raises(tables.ArtifactError, match=reason) as error:
      use()
    assert str(error.value).startswith(f"{path}: ")


def test_words_are_decoded_when_they_are_asked_for(path, monkeypatch):
  table_of("dense_int8").save(path)
  with monkeypatch.context() as patch:
    patch.setattr(vocabulary, "decode", lambda tensor: 1 / 0)
    table = tables.load(path, verify=False)
    assert len(table.vocabulary) == V
    with pytest.raises(ZeroDivisionError):
      table.vocabulary[0]
  assert table.vocabulary == WORDS
  assert list(table.vocabulary) == list(WORDS)
  assert hash(table.vocabulary) == hash(WORDS)
  np.testing.assert_array_equal(
    table.lookup_words([WORDS[3]]), tables.load(path).lookup([3])
  )


def test_a_lazy_vocabulary_must_be_of_the_right_size(path):
  table_of("dense_int8").save(path)
  words = tables.load(path, verify=False).vocabulary
  with pytest.raises(ValueError, match=r"must have 2 words, .* got 11"):
    tables.DenseTable(np.zeros((2, 2), np.float32), vocabulary=words)


def test_foreign_metadata_are_no_error(path):
  forge(path, table_of("dense_int8"), metadata={"made_by": "me"})
  assert tables.load(path).num_embeddings == V


def test_the_vocabulary_is_text_in_the_file(path):
  table_of("dense_int8").save(path)
  assert "wörd 3\\n".encode() in path.read_bytes()
  assert tables.load(path).vocabulary == WORDS


def test_without_verification_only_the_asked_rows_are_read(path):
  rows = np.zeros((1 << 16, 64), np.float32)
  tables.DenseTable(rows).save(path)
  tracemalloc.start()
  try:
    tables.load(path, verify=False).lookup([1, 2, 3])
    _, peak = tracemalloc.get_traced_memory()
  finally:
    tracemalloc.stop()
  assert peak < rows.nbytes / 20
