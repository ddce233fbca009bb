"""Slow NumPy versions of the ops, in float64, written from the papers."""

import itertools

import numpy as np


def normal(seed, *shape):
  """Standard normal float32 test data; JAX would compile for each shape."""
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def softmax(logits, temperature=1.0):
  """Along the last axis."""
  scores = np.asarray(logits, np.float64) / temperature
  scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
  return scores / scores.sum(axis=-1, keepdims=True)


def softmax_jacobian(logits, temperature=1.0):
  """Derivative of the softmax of one vector of logits (a square matrix)."""
  p = softmax(logits, temperature)
  return (np.diag(p) - np.outer(p, p)) / temperature


def straight_through_lookup(logits, codebooks, cotangent, temperature=1.0):
  """Value and gradients of hard codes, one symbol and position at a time.

  Chen et al., ICML 2018: the value and the gradient of the codebooks are those
  of the one-hot codes, the gradient of the logits is that of the softmax.

  Returns:
    Vectors, gradient of the logits, gradient of the codebooks.
  """
  code_length, codebook_size = logits.shape[-2:]
  vectors = np.zeros((*logits.shape[:-1], codebooks.shape[-1]))
  logits_gradient = np.zeros(logits.shape)
  codebooks_gradient = np.zeros(codebooks.shape)
  for batch in np.ndindex(logits.shape[:-2]):
    for j in range(code_length):
      book = j if len(codebooks) > 1 else 0
      at = (*batch, j)
      chosen = max(range(codebook_size), key=lambda k, at=at: logits[at][k])
      vectors[at] = codebooks[book][chosen]
      codebooks_gradient[book][chosen] += cotangent[at]
      dots = np.array(
        [codebooks[book][k] @ cotangent[at] for k in range(codebook_size)]
      )
      jacobian = softmax_jacobian(logits[at], temperature)
      logits_gradient[at] = jacobian.T @ dots
  return vectors, logits_gradient, codebooks_gradient


def decode(codes, codebooks, composition, *, projection=None, bias=None):
  """Embeddings of codes [num_embeddings, code_length], one after the other."""
  rows = []
  for code in np.asarray(codes):
    books = itertools.cycle(np.asarray(codebooks, np.float64))
    parts = [book[digit] for digit, book in zip(code, books, strict=False)]
    if composition == "concat":
      row = np.concatenate(parts)
    else:
      row = np.sum(parts, axis=0)
    if projection is not None:
      row = row @ np.asarray(projection, np.float64)
    rows.append(row if bias is None else row + np.asarray(bias))
  return np.array(rows)


def squared_distances(queries, entries):
  """All pairs, by the differences."""
  return np.array(
    [[np.sum((q - c) ** 2) for c in entries] for q in np.float64(queries)]
  )


def normalize_per_entry(scores, epsilon=1e-3):
  """Distance batch normalisation of DPQ (Chen et al., ICML 2020)."""
  scores = np.array(scores, np.float64)
  for k in range(scores.shape[-1]):
    entry = scores[..., k]
    mean = entry.sum() / entry.size
    variance = ((entry - mean) ** 2).sum() / entry.size
    scores[..., k] = (entry - mean) / np.sqrt(variance + epsilon)
  return scores


def transition_matrix(adjacency, rate, neighbor_ratio):
  """The matrix P of SSE (Wu et al., NeurIPS 2019, eqs. 3 and 5).

  It is fixed by its diagonal, 1 - rate, by its rows, which sum to 1, and by
  the ratio of neighbours to nodes that are none.
  """
  size = len(adjacency)
  matrix = np.zeros((size, size))
  for j in range(size):
    for k in range(size):
      if k != j:
        matrix[j, k] = neighbor_ratio if adjacency[j][k] else 1.0
    matrix[j] *= rate / matrix[j].sum()
    matrix[j, j] = 1 - rate
  return matrix


def neighbor_overlap(table, approx, num_neighbors):
  """Mean share of common nearest neighbours by the cosine."""

  def neighbors(rows, i):
    norms = np.linalg.norm(rows, axis=1)
    cosines = [
      -np.inf if k == i else rows[i] @ rows[k] / (norms[i] * norms[k])
      for k in range(len(rows))
    ]
    return set(np.argsort(cosines)[::-1][:num_neighbors])

  shares = [
    len(neighbors(table, i) & neighbors(approx, i)) / num_neighbors
    for i in range(len(table))
  ]
  return np.mean(shares)
