"""Tests of the ids of symbols."""

import hypothesis
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import strategies as st

from anchor_codes import tables
from experiments.datasets import interactions_ids as ids_lib
from experiments.datasets.interactions_columns import Symbols

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
WORD = 2**64


def symbols(texts):
  return Symbols(pa.array(texts, pa.string()), np.arange(len(texts)))


def slow_hash(text):
  """The formula, number by number."""

  def mix(word):
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
      word = (word ^ word >> 33) * factor % WORD
    return word ^ word >> 33

  golden, data = 0x9E3779B97F4A7C15, text.encode()
  value = mix((golden + len(data)) % WORD)
  for begin in range(0, len(data), 8):
    word = int.from_bytes(data[begin : begin + 8], "little")
    value = (mix(value ^ word) + golden) % WORD
  return value


@hypothesis.given(st.lists(TEXTS, max_size=6))
def test_hash_is_that_of_the_formula(texts):
  found = ids_lib.symbol_hashes(symbols(texts))
  assert found.tolist() == [slow_hash(text) for text in texts]


def test_hash_of_a_part_of_an_array():
  names = pa.array(["left", "out", "a", "long enough for words"])[2:]
  found = ids_lib.symbol_hashes(Symbols(names, np.arange(2)))
  assert found.tolist() == [slow_hash(text) for text in names.to_pylist()]


def test_zeros_at_the_end_count():
  texts = ["a", "a\0", "a\0\0", "a" + "\0" * 8]
  assert len(set(ids_lib.symbol_hashes(symbols(texts)).tolist())) == 4


def test_many_symbols_have_hashes_of_their_own():
  found = ids_lib.symbol_hashes(symbols([str(i) for i in range(100_000)]))
  assert len(np.unique(found)) == 100_000


def test_buckets_are_used_evenly():
  ids = ids_lib.Buckets(64).encode(symbols([f"u{i}" for i in range(64_000)]))
  counts = np.bincount(ids, minlength=64)
  # Five standard deviations.
  np.testing.assert_allclose(counts, 1000, atol=5 * 1000**0.5)
  assert ids.dtype == np.int32


def test_seeds_choose_buckets():
  some = symbols([f"u{i}" for i in range(100)])
  first, second = (
    ids_lib.Buckets(1000, seed=seed).encode(some) for seed in (0, 1)
  )
  assert np.mean(first == second) < 0.1


@pytest.mark.parametrize("num_buckets", [300, 1000, 5000])
def test_estimated_collisions_are_those_that_happen(num_buckets):
  ids = ids_lib.Buckets(num_buckets).encode(symbols([*map(str, range(1000))]))
  used = len(np.unique(ids))
  estimate = ids_lib.estimate_collisions(used, num_buckets)
  np.testing.assert_allclose(estimate, 1000 - used, atol=0.1 * 1000)


def test_estimate_is_finite_when_all_buckets_are_used():
  assert 0 < ids_lib.estimate_collisions(10, 10) < np.inf
  assert ids_lib.estimate_collisions(0, 10) == 0


def test_vocabulary_numbers_its_symbols():
  vocabulary = ids_lib.Vocabulary(["a", "b"])
  ids = vocabulary.encode(symbols(["b", "c", "a", "<unknown>"]))
  np.testing.assert_array_equal(ids, [1, 2, 0, 2])
  assert ids.dtype == np.int32
  assert vocabulary.names == ("a", "b", "<unknown>")
  assert vocabulary.num_embeddings == 3


def test_a_name_for_unknown_symbols_is_no_symbol():
  vocabulary = ids_lib.Vocabulary(["a", "<unknown>", "b"])
  assert vocabulary.names == ("a", "b", "<unknown>")


def test_unknown_symbols_can_be_refused():
  vocabulary = ids_lib.Vocabulary(["a", "<unknown>"], refuse_unknown=True)
  np.testing.assert_array_equal(vocabulary.encode(symbols(["b", "a"])), [-1, 0])
  assert vocabulary.names == ("a", "<unknown>")
  assert vocabulary.unknown is None


@pytest.mark.parametrize(
  ("texts", "problem"),
  [(["a", "b", "a"], "must be different, got 'a'"), ([], "at least 1, got 0")],
)
def test_vocabularies_that_are_none(texts, problem):
  with pytest.raises(ValueError, match=problem):
    ids_lib.Vocabulary(texts)


LINES = TEXTS.filter(lambda text: "\n" not in text and not text.endswith("\r"))


@hypothesis.given(st.lists(LINES, min_size=1, unique=True))
def test_files_give_back_what_was_saved(tmp_path_factory, texts):
  # A byte order mark at the start of a file is no part of its text.
  hypothesis.assume(not texts[0].startswith("\ufeff"))
  path = tmp_path_factory.mktemp("vocabulary") / "users.txt"
  ids_lib.save_vocabulary(texts, path)
  assert ids_lib.load_vocabulary(path) == texts


@pytest.mark.parametrize("text", ["a\nb", "a\r", "\n"])
def test_line_ends_cannot_be_saved(tmp_path, text):
  with pytest.raises(ValueError, match="must not hold a line end, got"):
    ids_lib.save_vocabulary([text], tmp_path / "users.txt")
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  ("content", "problem"),
  [
    (b"a\n\nb\n", "users.txt, line 2: a symbol must not be empty"),
    (b"a\nb\na\n", "users.txt, line 3: 'a' stands in line 1 already"),
    (b"", "users.txt, line 1: a symbol must not be empty"),
    (b"a\n\xff\n", r"got byte 0xff at position 2 \(line 2\)"),
  ],
)
def test_bad_files_are_refused(tmp_path, content, problem):
  path = tmp_path / "users.txt"
  path.write_bytes(content)
  with pytest.raises(ValueError, match=problem):
    ids_lib.load_vocabulary(path)


def test_tables_have_vocabularies(tmp_path):
  path = tmp_path / "table.safetensors"
  table = tables.DenseTable(np.eye(2, dtype=np.float32), vocabulary=("a", "b"))
  table.save(path)
  assert ids_lib.load_vocabulary(path) == ["a", "b"]
  tables.DenseTable(np.eye(2, dtype=np.float32)).save(path)
  with pytest.raises(ValueError, match="must have a vocabulary, got none"):
    ids_lib.load_vocabulary(path)


def test_ranks_are_by_count_and_then_by_text():
  counts = {"b": 2, "a": 2, "c": 3, "d": 1}
  assert ids_lib.rank_symbols(counts) == ["c", "a", "b", "d"]
  assert ids_lib.rank_symbols(counts, min_count=2, max_size=2) == ["c", "a"]
  for name in ("min_count", "max_size"):
    with pytest.raises(ValueError, match=f"`{name}` must be at least"):
      ids_lib.rank_symbols(counts, **{name: -1})
