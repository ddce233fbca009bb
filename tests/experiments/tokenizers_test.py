"""Tests of what cuts texts into symbols, and of the marks around them."""

import numpy as np
import pytest

from experiments.datasets import classification, tokenizers

TEXTS = ["To be, or not to be?", "that is the question", "to do or not to do"]
PIECES = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PIECES += ["to", "be", "##ing", "do", "or", "not", ","]


def make(kind):
  if kind == "words":
    return tokenizers.WordTokenizer.train(TEXTS)
  if kind == "subwords":
    return tokenizers.SubwordTokenizer.train(TEXTS * 9, vocab_size=30)
  return tokenizers.WordPieceTokenizer(PIECES)


KINDS = ("words", "subwords", "pieces")


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_vocabulary_gives_the_same_ids(kind, tmp_path):
  tokenizer = make(kind)
  tokenizer.save(tmp_path)
  loaded = tokenizers.load_tokenizer(tmp_path)
  assert type(loaded) is type(tokenizer)
  assert loaded.vocabulary == tokenizer.vocabulary
  assert loaded.marks == tokenizer.marks
  assert loaded.special_ids == tokenizer.special_ids
  assert loaded.encode(TEXTS) == tokenizer.encode(TEXTS)


@pytest.mark.parametrize("kind", KINDS)
def test_texts_have_no_marks_but_unknown(kind):
  tokenizer = make(kind)
  marks = set(tokenizer.special_ids)
  assert {0, *tokenizer.marks[:3]} <= marks
  for text in (*TEXTS, "<cls> <mask> <pad>"):
    for ids in tokenizer.encode([text]):
      assert not (set(ids) & marks) - {tokenizer.marks.unknown}
  assert all(len(ids) <= 2 for ids in tokenizer.encode(TEXTS, max_length=2))


def test_pieces_are_the_longest_in_the_vocabulary():
  tokenizer = make("pieces")
  assert tokenizer.encode(["TO being, doubt"]) == [[6, 7, 8, 12, 2]]
  assert tokenizer.marks == (2, 3, 5, 4)
  assert tokenizer.special_ids == (0, 1, 2, 3, 4, 5)
  rows = tokenizers.encode_texts(tokenizer, ["to be", ""], max_length=4)
  np.testing.assert_array_equal(rows, [[3, 6, 7, 4], [3, 4, 0, 0]])


def test_long_texts_are_cut_into_pieces_or_off():
  tokenizer = make("words")
  ids = tokenizer.encode(TEXTS[:1])[0]
  cut = tokenizers.encode_texts(tokenizer, TEXTS[:1], max_length=4)
  np.testing.assert_array_equal(cut, [[2, *ids[:3]]])
  pieces = tokenizers.encode_texts(
    tokenizer, TEXTS[:1], max_length=4, max_pieces=0
  )
  assert [i for row in pieces for i in row if i not in (0, 2)] == ids
  two = tokenizers.encode_texts(
    tokenizer, TEXTS[:1], max_length=4, max_pieces=2
  )
  np.testing.assert_array_equal(two, pieces[:2])


def test_a_dataset_has_a_row_for_each_text():
  rows = [(text, 0) for text in TEXTS * 4] + [("", 1)]
  splits = {"train": rows, "valid": rows[:2], "test": rows[-1:]}
  data = classification.make_dataset("toy", splits, "ab", source="ours")
  tokenizer = make("words")
  encoded = tokenizers.encode_dataset(data, tokenizer, max_length=5)
  assert encoded.train.tokens.shape == (13, 5)
  assert (encoded.train.tokens[:, 0] == tokenizer.marks.begin).all()
  np.testing.assert_array_equal(encoded.test.tokens, [[2]])
  plain = tokenizers.encode_dataset(data, tokenizer, max_length=5, marked=False)
  assert tokenizer.marks.begin not in plain.train.tokens
  assert encoded.vocabulary == tokenizer.vocabulary


def test_a_small_vocabulary_keeps_frequent_words():
  tokenizer = tokenizers.WordTokenizer.train(TEXTS, max_words=5)
  assert tokenizer.vocabulary == (*tokenizers.MARKS, "to")


def test_mistakes_are_named(tmp_path):
  with pytest.raises(FileNotFoundError, match=r"words\.txt, subwords\.model"):
    tokenizers.load_tokenizer(tmp_path)
  with pytest.raises(ValueError, match="must begin with"):
    tokenizers.WordTokenizer(["to", "be"])
  with pytest.raises(ValueError, match=r"no \['\[MASK\]'\]"):
    tokenizers.WordPieceTokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
  with pytest.raises(ValueError, match="`max_length` must be at least 2"):
    tokenizers.encode_texts(make("words"), TEXTS, max_length=1)
  with pytest.raises(ValueError, match="must leave a word"):
    tokenizers.WordTokenizer.train(TEXTS, max_words=4)
