"""Tests of how well vectors of words agree with people."""

import doctest

import numpy as np
import pytest
from scipy import stats

from experiments import word_quality

WORDS = ("the", "Berlin", "athens", "greece", "germany", "cat")


def normal(size, features):
  rng = np.random.default_rng(0)
  return rng.standard_normal((size, features), np.float32)


def test_examples():
  assert doctest.testmod(word_quality).failed == 0


def write(folder, text):
  path = folder / "lines.txt"
  path.write_bytes(text.encode())
  return path


def test_pairs_have_any_case_and_any_ends_of_lines(tmp_path):
  text = "Athens\tGreece\t9.5\r\nberlin Berlin 2\r\nthe dog 3\r\ncat the 1\n"
  pairs = word_quality.load_pairs(write(tmp_path, text), vocabulary=WORDS)
  # A name that is small in the file is not that which is capital here.
  assert pairs.ids.tolist() == [[2, 3], [5, 0]]
  assert pairs.scores.tolist() == [9.5, 1.0]


def test_questions_have_sections_and_known_words_only(tmp_path):
  text = ": capitals\nAthens Greece Berlin Germany\nAthens Greece Oslo Norway\n"
  path = write(tmp_path, text)
  questions = word_quality.load_questions(path, vocabulary=WORDS)
  assert questions.tolist() == [[2, 3, 1, 4]]


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("the cat 3\nthe cat\n", "must have 3 words in a line, .* line 2"),
    ("dog house 3\n", "must have words of the vocabulary, got none"),
  ],
)
def test_other_files_are_refused(tmp_path, text, message):
  with pytest.raises(ValueError, match=message):
    word_quality.load_pairs(write(tmp_path, text), vocabulary=WORDS)


def test_ranks_are_those_of_scipy():
  rng = np.random.default_rng(0)
  for _ in range(5):
    first, second = rng.integers(0, 6, (2, 30))
    expected = stats.spearmanr(first, second).statistic
    found = word_quality.rank_correlation(first, second)
    assert found == pytest.approx(expected)
  assert word_quality.rank_correlation(np.ones(3), np.arange(3)) == 0


def test_similarity_is_of_directions():
  vectors, rng = normal(20, 4), np.random.default_rng(1)
  pairs = word_quality.Pairs(rng.integers(0, 20, (30, 2)), rng.random(30))
  found = word_quality.word_similarity(vectors, pairs)
  lengths = rng.random((20, 1), np.float32) + 1
  scaled = word_quality.word_similarity(vectors * lengths, pairs)
  assert found == pytest.approx(scaled, abs=1e-6)
  units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
  cosines = [units[i] @ units[j] for i, j in pairs.ids]
  assert found == pytest.approx(
    stats.spearmanr(cosines, pairs.scores).statistic
  )


def test_analogies_are_those_one_by_one():
  vectors, rng = normal(40, 6), np.random.default_rng(2)
  questions = rng.permuted(np.tile(np.arange(40), (700, 1)), axis=1)[:, :4]
  units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
  answers = []
  for a, b, c, _ in questions:
    scores = units @ (units[b] - units[a] + units[c])
    scores[[a, b, c]] = -np.inf
    answers.append(scores.argmax())
  # Half of the questions get the answer that is found as the right one.
  questions[::2, 3] = answers[::2]
  right = np.mean(np.array(answers) == questions[:, 3])
  assert word_quality.analogy_accuracy(vectors, questions) == right >= 0.5
