"""Tests of tokens, vocabularies and batches."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.datasets import text

WORDS = st.lists(st.sampled_from(["a", "b", "c", "dd", "<eos>"]), min_size=1)


@pytest.mark.parametrize(
  ("line", "expected"),
  [
    ("", []),
    (" \t\n", []),
    ("Return os.path.join.", ["Return", "os.path.join", "."]),
    ("don't, it\u2019s", ["don't", ",", "it\u2019s"]),
    ("a non-empty list", ["a", "non-empty", "list"]),
    ("pi = 3.14", ["pi", "=", "3.14"]),
    ("__init__(self)", ["__init__", "(", "self", ")"]),
    (">>> f(g(x))", [">>>", "f", "(", "g", "(", "x", ")", ")"]),
    ("x**2 != ``y``", ["x", "**", "2", "!", "=", "``", "y", "``"]),
    ("'quoted'", ["'", "quoted", "'"]),
    ("caf\xe9 \u2028 na\xefve", ["caf\xe9", "na\xefve"]),
  ],
)
def test_tokenize(line, expected):
  assert text.tokenize(line) == expected


@given(st.text())
def test_tokens_lose_nothing_but_white_space(line):
  assert "".join(text.tokenize(line)) == re.sub(r"\s", "", line)


@given(st.text())
def test_tokenize_is_idempotent(line):
  tokens = text.tokenize(line)
  assert text.tokenize(" ".join(tokens)) == tokens


@given(WORDS)
def test_vocabulary_follows_frequency_then_spelling(words):
  vocabulary = text.build_vocabulary(words)
  keys = [(-words.count(word), word) for word in vocabulary]
  assert keys == sorted(keys)
  assert set(vocabulary) == {*words, text.UNKNOWN}


@given(WORDS, st.integers(1, 4))
def test_vocabulary_leaves_rare_words_out(words, min_count):
  vocabulary = text.build_vocabulary(words, min_count=min_count)
  frequent = {word for word in words if words.count(word) >= min_count}
  assert set(vocabulary) == {*frequent, text.UNKNOWN}


def test_unknown_ranks_by_the_words_that_it_stands_for():
  words = ["a", "a", "a", "b", "b", "c", "d", "<unk>"]
  vocabulary = text.build_vocabulary(words, min_count=2)
  assert vocabulary == ("<unk>", "a", "b")


def test_unknown_is_there_even_if_nothing_is_rare():
  assert text.build_vocabulary(["a"]) == ("a", "<unk>")


@pytest.mark.parametrize("min_count", [0, -1, 1.5])
def test_vocabulary_refuses_min_count(min_count):
  with pytest.raises(ValueError, match="`min_count` must be"):
    text.build_vocabulary(["a"], min_count=min_count)


@given(WORDS, WORDS, WORDS)
def test_dataset_decodes_to_its_words(train, valid, test):
  splits = {"train": train, "valid": valid, "test": test}
  data = text.make_text_dataset("toy", splits, source="ours")
  for split, words in splits.items():
    ids = getattr(data, split)
    decoded = [data.vocabulary[i] for i in ids]
    expected = [w if w in train else "<unk>" for w in words]
    assert decoded == expected
    assert ids.dtype == np.int32
    assert data.unknown_counts[split] == expected.count("<unk>")


def test_dataset_counts_only_words_that_it_replaced():
  splits = {"train": ["<unk>", "a"], "valid": ["<unk>", "b"], "test": []}
  data = text.make_text_dataset("toy", splits, source="ours")
  assert data.unknown_counts == {"train": 0, "valid": 1, "test": 0}
  assert (data.name, data.source) == ("toy", "ours")


@given(st.integers(0, 300), st.integers(1, 6), st.integers(1, 9))
def test_batches_are_consecutive_pieces_of_streams(size, batch_size, num_steps):
  tokens = np.arange(size, dtype=np.int32)
  if size < batch_size * (num_steps + 1):
    with pytest.raises(ValueError, match="`tokens` must hold at least"):
      text.batch_tokens(tokens, batch_size=batch_size, num_steps=num_steps)
    return
  inputs, targets = text.batch_tokens(
    tokens, batch_size=batch_size, num_steps=num_steps
  )
  num_batches = (size // batch_size - 1) // num_steps
  assert inputs.shape == targets.shape == (num_batches, batch_size, num_steps)
  assert inputs.dtype == tokens.dtype
  np.testing.assert_array_equal(targets, inputs + 1)
  for row in range(batch_size):
    stream = inputs[:, row].reshape(-1)
    start = row * (size // batch_size)
    np.testing.assert_array_equal(stream, start + np.arange(len(stream)))


def test_batches_are_contiguous_in_memory():
  batches = text.batch_tokens(np.arange(50), batch_size=3, num_steps=4)
  assert all(array.flags.c_contiguous for array in batches)


def test_too_short_text_says_how_much_it_takes():
  with pytest.raises(ValueError, match=r"at least 42 tokens .* got 41"):
    text.batch_tokens(np.arange(41), batch_size=2, num_steps=20)


@pytest.mark.parametrize("name", ["batch_size", "num_steps"])
def test_batches_refuse_options(name):
  sizes = {"batch_size": 2, "num_steps": 2, name: 0}
  with pytest.raises(ValueError, match=f"`{name}` must be at least 1, got 0"):
    text.batch_tokens(np.arange(20), **sizes)
