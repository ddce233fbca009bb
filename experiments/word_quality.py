"""How well vectors of words agree with what people say about words."""

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from experiments.datasets import files

_BLOCK = 512  # Questions that are answered at a time.


_FOLDER = "wordsim"
_PAIRS = {
  "men": (
    "EN-MEN-TR-3k.txt",
    "888b13580faa362c7b11da0a670258cf1b1eb4bf0ecbcd418918729a3bd3f43a",
    "the 3,000 pairs of MEN (Bruni et al., 2014), a score in each line",
  ),
  "ws353": (
    "EN-WS-353-ALL.txt",
    "ce12919b240af45bdf46d243601eaca2b6212b159b5e7e9b435ee7ee40c5619c",
    "the pairs of WordSim-353 (Finkelstein et al., 2001), with scores",
  ),
}
_QUESTIONS = (
  "questions-words.txt",
  "8c29b3332afc46f3fb8be04cb5297bf96f39aa7131272dff57869b4485b22a36",
  "the analogies of word2vec (Mikolov et al., 2013)",
)


class Pairs(NamedTuple):
  """Pairs of words that people have judged.

  Attributes:
    ids: int64 [size, 2], the rows of the words.
    scores: float64 [size], more for words that are more alike.
  """

  ids: np.ndarray
  scores: np.ndarray


def load_tasks(
  vocabulary: Sequence[str], *, data_dir: str | os.PathLike[str] | None = None
) -> dict[str, Callable[[np.ndarray], float]]:
  """Loads all that vectors of words are measured by.

  Args:
    vocabulary: The word of each row.
    data_dir: Folder of data sets, see :func:`files.data_folder`.

  Returns:
    'men' and 'ws353', similarities, and 'analogies': functions of vectors
    float32 [len(vocabulary), features].

  Raises:
    FileNotFoundError: If a file is missing; it names the path.
  """

  def find(name: str, sha256: str, origin: str) -> os.PathLike[str]:
    return files.find_file(
      name, dataset=_FOLDER, sha256=sha256, origin=origin, data_dir=data_dir
    )

  tasks: dict[str, Callable[[np.ndarray], float]] = {
    name: functools.partial(
      word_similarity, pairs=load_pairs(find(*known), vocabulary=vocabulary)
    )
    for name, known in _PAIRS.items()
  }
  questions = load_questions(find(*_QUESTIONS), vocabulary=vocabulary)
  tasks["analogies"] = functools.partial(analogy_accuracy, questions=questions)
  return tasks


def load_pairs(
  path: str | os.PathLike[str], *, vocabulary: Sequence[str]
) -> Pairs:
  """Loads judged pairs of which both words are known.

  Args:
    path: Lines of two words and a score, between blanks or tabs.
    vocabulary: The word of each row. One that is asked for in a case in which
      it is unknown is looked for in lower case.

  Returns:
    The pairs, in the order of the file.

  Raises:
    ValueError: If a line is not like that, or no pair is known.
    FileNotFoundError: If there is no such file.
  """
  row_of = _rows(vocabulary)
  pairs, scores = [], []
  for words in _read(path, length=3):
    ids = [_find(row_of, word) for word in words[:2]]
    if min(ids) >= 0:
      pairs.append(ids)
      scores.append(float(words[2]))
  _check_found(path, pairs)
  return Pairs(np.array(pairs), np.array(scores))


def load_questions(
  path: str | os.PathLike[str], *, vocabulary: Sequence[str]
) -> np.ndarray:
  """Loads analogies of which all words are known.

  Args:
    path: Lines of four words, "a is to b as c is to d"; one that starts with a
      colon names a section.
    vocabulary: The word of each row, see :func:`load_pairs`.

  Returns:
    int64 [size, 4], the rows of a, b, c, and d.

  Raises:
    ValueError: If a line is not like that, or no question is known.
    FileNotFoundError: If there is no such file.
  """
  row_of = _rows(vocabulary)
  found = [
    [_find(row_of, word) for word in words] for words in _read(path, length=4)
  ]
  questions = [ids for ids in found if min(ids) >= 0]
  _check_found(path, questions)
  return np.array(questions)


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
  """Computes Spearman's correlation; equal values share their mean rank.

  Args:
    first: Numbers [size], at least 2.
    second: Numbers [size].

  Returns:
    From -1 to 1; 0 if all values of one side are equal.

  >>> rank_correlation(np.array([1, 2, 3]), np.array([10, 1000, 100]))
  0.5
  """
  a, b = (ranks - ranks.mean() for ranks in map(_ranks, (first, second)))
  variances = float((a @ a) * (b @ b))
  return float(a @ b) / variances**0.5 if variances else 0.0


def word_similarity(vectors: np.ndarray, pairs: Pairs) -> float:
  """Computes Spearman's correlation of cosines and of what people say.

  Args:
    vectors: float32 [num_embeddings, features].
    pairs: Pairs of its rows.

  >>> pairs = Pairs(np.array([[0, 1], [0, 2]]), np.array([9.0, 1.0]))
  >>> vectors = np.float32([[1, 0], [2, 1], [0, 1]])
  >>> round(word_similarity(vectors, pairs), 6)
  1.0
  """
  first, second = _unit(vectors[pairs.ids.T])
  return rank_correlation(np.einsum("nd,nd->n", first, second), pairs.scores)


def analogy_accuracy(vectors: np.ndarray, questions: np.ndarray) -> float:
  r"""Computes the share of analogies with the right answer.

  Definition (Mikolov et al., NAACL 2013): of all rows but those in question,
  the answer is :math:`\arg\max_x \cos(x, b) - \cos(x, a) + \cos(x, c)`.

  Args:
    vectors: float32 [num_embeddings, features].
    questions: The rows of a, b, c, and the right answer, [size, 4].

  >>> vectors = np.float32([[1, 0], [1, 1], [-1, 0], [-1, 1], [0, -1]])
  >>> analogy_accuracy(vectors, np.array([[0, 1, 2, 3]]))
  1.0
  """
  units = _unit(vectors)
  # Few words make many questions: their cosines are computed once.
  words, places = np.unique(questions[:, :3], return_inverse=True)
  places = places.reshape(-1, 3)
  cosines = units[words] @ units.T
  right = 0
  for start in range(0, len(questions), _BLOCK):
    block = slice(start, start + _BLOCK)
    a, b, c = places[block].T
    scores = cosines[b] - cosines[a] + cosines[c]
    np.put_along_axis(scores, questions[block, :3], -np.inf, axis=1)
    answers = scores.argmax(axis=1)
    right += int(np.count_nonzero(answers == questions[block, 3]))
  return right / len(questions)


def _read(path: str | os.PathLike[str], *, length: int) -> list[list[str]]:
  """Reads lines of so many words, whatever their ends."""
  lines = [line.split() for line in files.read_lines(path)]
  wrong = [
    i
    for i, words in enumerate(lines, start=1)
    if len(words) not in (0, length) and words[0] != ":"
  ]
  if wrong:
    raise ValueError(
      f"{path} must have {length} words in a line, got other ones in line "
      f"{wrong[0]}."
    )
  return [words for words in lines if words and words[0] != ":"]


def _check_found(
  path: str | os.PathLike[str], found: Sequence[list[int]]
) -> None:
  if not found:
    raise ValueError(f"{path} must have words of the vocabulary, got none.")


def _rows(vocabulary: Sequence[str]) -> dict[str, int]:
  return {word: row for row, word in enumerate(vocabulary)}


def _find(row_of: Mapping[str, int], word: str) -> int:
  """Returns the row of a word, -1 for an unknown one."""
  # Names are capital in the files, and small in many vocabularies.
  return row_of.get(word, row_of.get(word.lower(), -1))


def _ranks(values: np.ndarray) -> np.ndarray:
  _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
  return (np.cumsum(counts) - (counts - 1) / 2)[places]


def _unit(vectors: np.ndarray) -> np.ndarray:
  lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
  return vectors / np.where(lengths > 0, lengths, 1)
