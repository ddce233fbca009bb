"""Tests of the search for codes whose entries add up."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchor_codes.tables import code_search


def floats(*shape, seed=0):
  return np.random.default_rng(seed).standard_normal(shape, np.float32)


def errors_of(codes, vectors, books):
  total = sum(book[codes[:, j]] for j, book in enumerate(books))
  return np.square(vectors - total).sum(axis=1)


@given(st.integers(0, 1000), st.integers(1, 5), st.integers(2, 9))
def test_a_beam_is_never_worse_than_one_greedy_code(seed, length, size):
  books = floats(length, size, 3, seed=seed)
  vectors = floats(5, 3, seed=seed + 1)
  codes = code_search.nearest_sums(vectors, books)
  rest = vectors - sum(books[j][codes[:, j]] for j in range(length))
  greedy = vectors.copy()
  for book in books:
    distances = np.square(greedy[:, None] - book).sum(axis=2)
    greedy -= book[distances.argmin(axis=1)]
  found, limit = np.square(rest).sum(), np.square(greedy).sum()
  # In the mean of all rows, since the beam is pruned.
  assert found <= 1.2 * limit + 1e-4


@given(st.integers(0, 1000), st.integers(10, 20))
def test_no_other_value_of_one_digit_is_better(seed, size):
  # Few enough that the sweeps come to their end.
  books = floats(3, size, 2, seed=seed)
  vectors = floats(5, 2, seed=seed + 1)
  codes = code_search.nearest_sums(vectors, books)
  total = sum(books[j][codes[:, j]] for j in range(3))
  error = np.square(vectors - total).sum(axis=1)
  for j in range(3):
    others = total - books[j][codes[:, j]]
    changed = others[:, None] + books[j]
    errors = np.square(vectors[:, None] - changed).sum(axis=2)
    assert np.all(error <= errors.min(axis=1) + 1e-4)


@pytest.mark.parametrize("length", [2, 3])
def test_digits_move_until_no_other_value_is_better(length):
  books = floats(length, 6, 2)
  vectors = floats(200, 2, seed=1)
  codes = np.zeros((200, length), np.int32)  # Far from the best ones.
  rest = vectors - books[:, 0].sum(axis=0)
  scorers = [code_search._Scorer.of(book) for book in books]
  code_search._descend(codes, rest, scorers, num_sweeps=4)
  total = sum(book[codes[:, j]] for j, book in enumerate(books))
  np.testing.assert_allclose(rest, vectors - total, atol=1e-4)
  error = np.square(vectors - total).sum(axis=1)
  for j, book in enumerate(books):
    changed = (total - book[codes[:, j]])[:, None] + book
    errors = np.square(vectors[:, None] - changed).sum(axis=2)
    assert np.mean(error > errors.min(axis=1) + 1e-5) < 0.02


@given(st.integers(0, 1000), st.integers(1, 5), st.integers(1, 3))
def test_a_search_never_moves_away(seed, length, num_searches):
  books, vectors = floats(length, 6, 3, seed=seed), floats(20, 3, seed=seed + 1)
  rng = np.random.default_rng(seed)
  before = rng.integers(6, size=(20, length), dtype=np.int32)
  given_codes = before.copy()
  after = code_search.search_sums(
    rng, vectors, before, books, num_searches=num_searches
  )
  np.testing.assert_array_equal(before, given_codes)  # Not in place.
  errors = errors_of(after, vectors, books)
  assert np.all(errors <= errors_of(before, vectors, books) + 1e-4)


def test_more_searches_find_nearer_sums():
  books, vectors = floats(5, 5, 4), floats(200, 4, seed=1)
  every = np.array(list(itertools.product(range(5), repeat=5)))
  sums = sum(book[every[:, j]] for j, book in enumerate(books))
  least = np.square(vectors[:, None] - sums).sum(axis=2).min(axis=1)
  rng, start = np.random.default_rng(0), np.zeros((200, 5), np.int32)
  shares, excess = [], []
  for num_searches in (1, 10, 100):
    codes = code_search.search_sums(
      rng, vectors, start, books, num_searches=num_searches
    )
    found = errors_of(codes, vectors, books)
    shares.append(np.mean(found <= least + 1e-4))
    excess.append(found.mean() - least.mean())
  assert shares[0] < shares[1] < shares[2]
  assert excess[0] > excess[1] > excess[2]
  assert excess[2] < 0.1 * excess[0]


def test_what_is_found_for_a_vector_does_not_depend_on_others():
  books, vectors = floats(6, 8, 5), floats(40, 5, seed=1)
  whole = code_search.nearest_sums(vectors, books)
  alone = [code_search.nearest_sums(v[None], books)[0] for v in vectors]
  errors = errors_of(np.stack(alone), vectors, books)
  # Products of other sizes are rounded in other ways.
  np.testing.assert_allclose(
    errors, errors_of(whole, vectors, books), rtol=1e-3, atol=1e-3
  )
