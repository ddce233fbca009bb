"""Vectors of words from counts of which words stand near which.

The positive pointwise mutual information of a word and a context, factored by
a truncated SVD, is a strong and fast set of word vectors (Levy and Goldberg,
NeurIPS 2014; Levy et al., TACL 2015). Clustered, such vectors give codes before
any training. SciPy, which JAX needs anyway, has all that this takes.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy import sparse
from scipy.sparse import linalg

from anchor_codes.typing import check_at_least, check_ids, check_rate

_BLOCK = 2**20  # Tokens to count at a time.


def cooccurrence_counts(
  tokens: np.ndarray, *, num_embeddings: int, window: int = 5
) -> sparse.csr_array:
  """Counts how often two words stand near each other.

  Args:
    tokens: Ids in the order of the text, one-dimensional.
    num_embeddings: Number of words.
    window: How far a context may be from its word, on both sides; a pair at
      distance d counts as ``(window - d + 1) / window``.

  Returns:
    A symmetric sparse matrix [num_embeddings, num_embeddings], float32.

  Raises:
    ValueError: If an option is out of range, or the tokens are not a list of
      integers.
    IndexError: If a token is outside the vocabulary.

  >>> counts = cooccurrence_counts(
  ...   np.array([0, 1, 2]), num_embeddings=3, window=2
  ... )
  >>> print(counts.toarray())
  [[0.  1.  0.5]
   [1.  0.  1. ]
   [0.5 1.  0. ]]
  """
  check_at_least("num_embeddings", num_embeddings, 1)
  check_at_least("window", window, 1)
  tokens = np.asarray(tokens)
  if tokens.ndim != 1:
    raise ValueError(f"`tokens` must have 1 axis, got shape {tokens.shape}.")
  check_ids(tokens, num_embeddings)
  shape = (num_embeddings, num_embeddings)
  total: Any = sparse.csr_array(shape, dtype=np.float32)
  for words, contexts, weight in _pairs(tokens, window):
    ones = np.full(len(words), weight, np.float32)
    # The sum of equal pairs, so that memory is that of different ones.
    total = total + sparse.coo_array((ones, (words, contexts)), shape).tocsr()
  return (total + total.T).tocsr()


def positive_information(
  counts: sparse.csr_array, *, smoothing: float = 0.75
) -> sparse.csr_array:
  r"""Turns counts into positive pointwise mutual information.

  Definition (Levy et al., 2015): :math:`\max(0, \log \frac{P(w, c)}{P(w)
  P_\alpha(c)})` with :math:`P_\alpha(c) \propto \#(c)^\alpha`, which takes
  weight from rare contexts.

  Args:
    counts: What :func:`cooccurrence_counts` returned.
    smoothing: The :math:`\alpha`, from 0 to 1; 1 for the plain definition.

  Returns:
    A sparse matrix of the same shape, with entries where information is
    positive.

  Raises:
    ValueError: If the smoothing is out of range.

  >>> counts = sparse.csr_array(np.array([[0.0, 2.0], [2.0, 4.0]]))
  >>> print(positive_information(counts, smoothing=1.0).toarray().round(3))
  [[0.    0.288]
   [0.288 0.   ]]
  """
  check_rate("smoothing", smoothing)
  pairs = counts.tocoo()
  words, contexts = pairs.coords
  of_words = np.asarray(counts.sum(axis=1), np.float64)
  of_contexts = np.asarray(counts.sum(axis=0), np.float64) ** smoothing
  ratios = pairs.data * of_contexts.sum()
  ratios = ratios / (of_words[words] * of_contexts[contexts])
  with np.errstate(divide="ignore"):  # A count of zero says nothing.
    values = np.maximum(np.log(ratios), 0).astype(np.float32)
  information = sparse.csr_array((values, (words, contexts)), counts.shape)
  information.eliminate_zeros()
  return information


def truncated_svd(
  matrix: sparse.csr_array, *, rank: int, power: float = 0.5, seed: int = 0
) -> np.ndarray:
  r"""Returns the rows of the best approximation of a rank.

  Definition: :math:`U_r \Sigma_r^p` of the singular value decomposition
  :math:`U \Sigma V^T`. Signs are such that the largest entry of each column
  is positive, so that equal input gives equal output.

  Args:
    matrix: A sparse matrix.
    rank: The :math:`r`, from 1 to less than the smaller side.
    power: The :math:`p`; 0.5 is best for words (Levy et al., 2015).
    seed: Seed of the start of the iteration.

  Returns:
    float32 [num_rows, rank], the largest singular value first.

  Raises:
    ValueError: If the rank is out of range.

  >>> matrix = sparse.csr_array(np.diag([1.0, 9.0, 4.0]))
  >>> print(np.abs(truncated_svd(matrix, rank=2).round(3)))
  [[0. 0.]
   [3. 0.]
   [0. 2.]]
  """
  check_at_least("rank", rank, 1)
  sides: Any = matrix.shape
  if rank >= min(sides):
    raise ValueError(
      f"`rank` must be less than {min(sides)}, the smaller side of the "
      f"matrix, got {rank}."
    )
  start = np.random.default_rng(seed).standard_normal(min(sides))
  found: Any = linalg.svds(matrix.astype(np.float64), k=rank, v0=start)
  left, values, _ = found
  order = np.argsort(-values)
  left, values = left[:, order], values[order]
  largest = np.argmax(np.abs(left), axis=0)
  signs = np.where(left[largest, np.arange(rank)] < 0, -1, 1)
  return (left * signs * values**power).astype(np.float32)


def cooccurrence_vectors(
  tokens: np.ndarray,
  *,
  num_embeddings: int,
  rank: int,
  window: int = 5,
  smoothing: float = 0.75,
) -> np.ndarray:
  """Returns a vector for each word of a text, from its neighbours in it.

  Args:
    tokens: Ids in the order of the text.
    num_embeddings: Number of words; one that does not occur gets zeros.
    rank: Width of a vector, less than the number of words.
    window: See :func:`cooccurrence_counts`.
    smoothing: See :func:`positive_information`.

  Returns:
    float32 [num_embeddings, rank].

  >>> tokens = np.array([0, 1, 2, 1, 0, 2, 3, 3])
  >>> cooccurrence_vectors(tokens, num_embeddings=5, rank=2).shape
  (5, 2)
  """
  counts = cooccurrence_counts(
    tokens, num_embeddings=num_embeddings, window=window
  )
  information = positive_information(counts, smoothing=smoothing)
  return truncated_svd(information, rank=rank)


def _pairs(
  tokens: np.ndarray, window: int
) -> Iterator[tuple[np.ndarray, np.ndarray, float]]:
  """Yields words, what follows them at some distance, and the weight of it."""
  for distance in range(1, window + 1):
    words, contexts = tokens[:-distance], tokens[distance:]
    weight = (window - distance + 1) / window
    for start in range(0, len(words), _BLOCK):
      block = slice(start, start + _BLOCK)
      yield words[block], contexts[block], weight
