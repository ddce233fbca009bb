"""Tests of ranks, and of what is made of them."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchor_codes.ops import ranking

# Few values, so that there are ties; one length, so that little is compiled.
LENGTH = 6
SCORES = st.lists(st.integers(-2, 2), min_size=LENGTH, max_size=LENGTH)
WHERE = st.lists(st.booleans(), min_size=LENGTH, max_size=LENGTH)

ranks_of_targets = jax.jit(ranking.ranks_of_targets, static_argnames="ties")
hits_among_top = jax.jit(ranking.hits_among_top, static_argnames="k")


def by_hand(scores, target, where, ties):
  """Ranks one target in a loop."""
  above = equal = 0
  for i, score in enumerate(scores):
    if i != target and where[i]:
      above += score > scores[target]
      equal += score == scores[target]
  return above + {"best": 0, "mean": equal / 2, "worst": equal}[ties]


def normal(*shape):
  return jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)


@pytest.mark.parametrize("ties", ["mean", "best", "worst"])
@given(scores=SCORES, target=st.integers(0, LENGTH - 1), where=WHERE)
def test_ranks_count_what_is_better(ties, scores, target, where):
  rank = ranks_of_targets(
    jnp.array(scores, jnp.float32),
    jnp.array(target),
    where=jnp.array(where),
    ties=ties,
  )
  assert rank == by_hand(scores, target, where, ties)


def test_ranks_of_a_batch_are_those_of_its_rows():
  scores, targets = normal(2, 3, 9), jnp.array([[0, 8, 3], [1, 1, 5]])
  rank = jax.jit(chex.assert_max_traces(ranking.ranks_of_targets, n=1))
  together = rank(scores, targets)
  rows = jax.vmap(jax.vmap(ranking.ranks_of_targets))(scores, targets)
  np.testing.assert_array_equal(together, rows)
  np.testing.assert_array_equal(together, rank(scores + 1, targets))
  order = np.argsort(np.argsort(-np.asarray(scores), axis=-1), axis=-1)
  expected = np.take_along_axis(order, np.asarray(targets)[..., None], -1)
  np.testing.assert_array_equal(together, expected[..., 0])


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_targets_of_a_narrow_type_stand_for_themselves_alone(dtype):
  # The type does not hold all items: 4 and 260 must not be the same.
  targets = jnp.array([0, 4], dtype)
  ranks = ranking.ranks_of_targets(jnp.tile(jnp.arange(600.0), (2, 1)), targets)
  np.testing.assert_array_equal(ranks, [599, 595])


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_numbers_of_a_narrow_type_go_with_long_lists(dtype):
  gain = ranking.hits_ndcg_at(jnp.ones(300, bool), dtype(100), k=300)
  wide = ranking.hits_ndcg_at(jnp.ones(300, bool), np.int32(100), k=300)
  assert gain == wide


def test_a_model_whose_scores_are_all_equal_is_no_good():
  ranks = ranking.ranks_of_targets(jnp.zeros((1, 101)), jnp.zeros(1, int))
  assert ranks == 50
  assert ranking.hit_rate_at(ranks, k=10) == 0


def test_nan_is_never_good():
  nan = jnp.nan
  scores = jnp.array([[nan, 0.0, 0.0], [nan, nan, nan], [0.0, nan, -1.0]])
  ranks = ranking.ranks_of_targets(scores, jnp.array([1, 1, 0]))
  np.testing.assert_array_equal(ranks, [1.5, nan, 1])
  np.testing.assert_array_equal(ranking.hit_rate_at(ranks, k=3), [1, 0, 1])
  assert ranking.ndcg_at(ranks, k=3)[1] == 0
  hits = ranking.hits_among_top(scores[0], jnp.array([True, False, False]), k=2)
  assert not hits.any()


def test_a_model_of_nan_finds_nothing():
  relevant = jnp.array([True, True, False])
  scores = jnp.full(3, jnp.nan)
  for where in (None, jnp.array([True, True, False])):
    hits = ranking.hits_among_top(scores, relevant, k=3, where=where)
    assert not hits.any()
  hits = ranking.hits_among_top(scores.at[1].set(-5.0), relevant, k=3)
  np.testing.assert_array_equal(hits, [True, False, False])


@pytest.mark.parametrize("k", [1, 4])
def test_metrics_of_one_target(k):
  ranks = np.arange(6)
  hits = ranks < k
  found = ranking.hit_rate_at(jnp.float32(ranks), k=k)
  np.testing.assert_array_equal(found, hits)
  found = ranking.ndcg_at(jnp.float32(ranks), k=k)
  np.testing.assert_allclose(found, hits / np.log2(ranks + 2), rtol=1e-6)


@pytest.mark.parametrize("k", [1, 4, LENGTH])
def test_metrics_of_one_target_are_those_of_a_list_of_one(k):
  rng = np.random.default_rng(k)
  scores = jnp.asarray(rng.permuted(np.tile(np.arange(LENGTH), (9, 1)), axis=1))
  scores, targets = scores.astype(jnp.float32), jnp.arange(9) % LENGTH
  ranks = ranks_of_targets(scores, targets)
  relevant = jax.nn.one_hot(targets, LENGTH, dtype=jnp.bool_)
  hits, one = hits_among_top(scores, relevant, k=k), jnp.ones(9, jnp.int32)
  recall = ranking.recall_at(hits, one, k=k)
  np.testing.assert_array_equal(recall, ranking.hit_rate_at(ranks, k=k))
  gains = ranking.hits_ndcg_at(hits, one, k=k)
  np.testing.assert_allclose(gains, ranking.ndcg_at(ranks, k=k), rtol=1e-6)


def test_metrics_of_lists_by_hand():
  scores = jnp.array([[0.9, 0.8, 0.7, 0.6], [0.1, 0.2, 0.3, 0.4]])
  relevant = jnp.array([[True, False, True, False], [False] * 4])
  hits = ranking.hits_among_top(scores, relevant, k=3)
  np.testing.assert_array_equal(hits, [[True, False, True], [False] * 3])
  number = jnp.sum(relevant, axis=-1)
  for k, precision, recall, gain, best in (
    (1, 1.0, 0.5, 1.0, 1.0),
    (2, 0.5, 0.5, 1.0, 1 + 1 / np.log2(3)),
    (3, 2 / 3, 1.0, 1.5, 1 + 1 / np.log2(3)),
  ):
    found = ranking.precision_at(hits, k=k)
    np.testing.assert_allclose(found, [precision, 0], rtol=1e-6)
    found = ranking.recall_at(hits, number, k=k)
    np.testing.assert_allclose(found, [recall, 0], rtol=1e-6)
    found = ranking.hits_ndcg_at(hits, number, k=k)
    np.testing.assert_allclose(found, [gain / best, 0], rtol=1e-6)


def test_what_does_not_compete_is_no_hit():
  scores, relevant = jnp.array([3.0, 2.0, 1.0]), jnp.array([True, True, False])
  where = jnp.array([False, True, False])
  hits = ranking.hits_among_top(scores, relevant, k=3, where=where)
  np.testing.assert_array_equal(hits, [True, False, False])


def test_of_equal_scores_the_lower_id_comes_first():
  relevant = jnp.arange(4) == 0
  assert ranking.hits_among_top(jnp.zeros(4), relevant, k=1).all()


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda: ranking.hit_rate_at(jnp.zeros(1), k=0), "`k` must be at least 1"),
    (lambda: ranking.ndcg_at(jnp.zeros(1), k=0), "`k` must be at least 1"),
    (
      lambda: ranking.hits_among_top(jnp.zeros(2), jnp.ones(2) > 0, k=3),
      "at most the number of items, got 3 and 2",
    ),
    (
      lambda: ranking.precision_at(jnp.ones((1, 2)) > 0, k=3),
      "at most the length of the list, got 3 and 2",
    ),
    (
      lambda: ranking.ranks_of_targets(
        jnp.zeros((1, 2)),
        jnp.zeros(1, int),
        ties="any",  # pyright: ignore[reportArgumentType]
      ),
      "`ties` must be one of 'mean', 'best', 'worst', got 'any'",
    ),
  ],
)
def test_bad_options_are_named(call, message):
  with pytest.raises(ValueError, match=message):
    call()


def test_wrong_shapes_are_refused():
  with pytest.raises(AssertionError):
    ranking.ranks_of_targets(jnp.zeros((2, 3)), jnp.zeros(3, int))
  with pytest.raises(AssertionError):
    ranking.hits_among_top(jnp.zeros((2, 3)), jnp.zeros(3) > 0, k=1)
  with pytest.raises(AssertionError):
    ranking.recall_at(jnp.zeros((2, 3)) > 0, jnp.zeros(3, int), k=1)
