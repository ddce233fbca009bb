"""Tests of beam search against the search through all sequences."""

import functools
import itertools

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from experiments.models import beam_search

VOCAB_SIZE, LENGTH, BATCH = 7, 4, 3
PADDING, BEGIN, END = 0, 2, 3
LETTERS = (4, 5, 6)
IDS = {"begin_id": BEGIN, "end_id": END, "padding_id": PADDING}
SIZE = 1009


def make_table(seed=0, end=0.0):
  """Scores of the next token for each prefix, by a number of the prefix."""
  table = np.random.default_rng(seed).normal(size=(BATCH, SIZE, VOCAB_SIZE))
  table[..., END] += end
  table[..., [PADDING, 1, BEGIN]] = -np.inf
  return (2 * table).astype(np.float32)


def code_of(prefix):
  return sum(t * 8**i for i, t in enumerate((BEGIN, *prefix))) % SIZE


def make_step(table):
  """A model of which the whole past lies in the cache."""

  def step(tokens, position, visible, cache):
    start = position * tokens.shape[1]
    new = tokens * 8**position
    cache = jax.lax.dynamic_update_slice(cache, new, (0, start))
    codes = jnp.sum(jnp.where(visible, cache[:, None], 0), axis=-1)
    rows = jax.vmap(lambda t, c: t[c])(jnp.asarray(table), codes % SIZE)
    return rows, cache

  return step


@functools.cache
def compiled(beam_size, length_penalty, max_length):
  return jax.jit(
    lambda table: beam_search.beam_search(
      make_step(table),
      jnp.zeros((BATCH, max_length * beam_size), jnp.int32),
      batch_size=BATCH,
      beam_size=beam_size,
      max_length=max_length,
      length_penalty=length_penalty,
      **IDS,
    )
  )


def search(table, beam_size, length_penalty, max_length=LENGTH):
  return compiled(beam_size, length_penalty, max_length)(table)


def log_probs(table, prefix):
  scores = np.asarray(table[code_of(prefix)], np.float64)
  return scores - np.log(np.exp(scores).sum())


def all_scores(table, length_penalty):
  """The score of each sequence by its tokens."""
  found = {}
  for length in range(LENGTH):
    for letters in itertools.product(LETTERS, repeat=length):
      tokens = (*letters, END)
      total = sum(
        log_probs(table, tokens[:i])[token] for i, token in enumerate(tokens)
      )
      found[tokens] = total / ((5 + len(tokens)) / 6) ** length_penalty
  return found


@pytest.mark.parametrize("length_penalty", [0.0, 0.6])
def test_a_wide_beam_finds_the_best_of_all(length_penalty):
  table = make_table()
  found = search(table, 40, length_penalty)
  for number in range(BATCH):
    scores = all_scores(table[number], length_penalty)
    best = max(scores, key=scores.get)
    padded = [*best, *[PADDING] * (LENGTH - len(best))]
    assert found.tokens[number].tolist() == padded
    np.testing.assert_allclose(found.scores[number], scores[best], rtol=1e-4)


def test_the_penalty_decides_on_the_length():
  tables = [make_table(seed) for seed in range(5)]
  lengths = [
    sum(int((search(table, 40, penalty).tokens > 0).sum()) for table in tables)
    for penalty in (0.0, 0.6)
  ]
  assert lengths[0] < lengths[1]


@pytest.mark.parametrize("end", [-2.0, 1.0])
def test_a_beam_of_one_is_greedy(end):
  table = make_table(seed=1, end=end)
  found = search(table, 1, 0.6)
  for number in range(BATCH):
    tokens = []
    while END not in tokens:
      gains = log_probs(table[number], tokens)
      last = len(tokens) == LENGTH - 1
      tokens.append(END if last else int(gains.argmax()))
    padded = [*tokens, *[PADDING] * (LENGTH - len(tokens))]
    assert found.tokens[number].tolist() == padded


def test_wider_beams_find_no_worse_sequences():
  scores = [search(make_table(seed=2), size, 0.6).scores for size in (1, 2, 40)]
  # It is a law for the widest alone, but of means it nearly is one.
  assert scores[0].mean() <= scores[1].mean() <= scores[2].mean()
  assert (scores[2] >= np.maximum(scores[0], scores[1]) - 1e-5).all()


def test_room_for_the_end_alone():
  found = search(make_table(), 2, 0.6, max_length=1)
  assert found.tokens.tolist() == [[END]] * BATCH


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ((0, 1.0, 2), "`beam_size` must be at least 1"),
    ((1, -0.1, 2), "`length_penalty` must be non-negative, got -0.1"),
    ((1, float("nan"), 2), "`length_penalty` must be non-negative, got nan"),
    ((1, 1.0, 0), "`max_length` must be at least 1"),
  ],
)
def test_bad_options(options, message):
  beam_size, length_penalty, max_length = options
  with pytest.raises(ValueError, match=message):
    beam_search.beam_search(
      make_step(make_table()),
      None,
      batch_size=1,
      beam_size=beam_size,
      max_length=max_length,
      length_penalty=length_penalty,
      **IDS,
    )
