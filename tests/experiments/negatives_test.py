"""Tests of the items that users have not rated."""

import hypothesis
import numpy as np
from hypothesis import strategies as st

from experiments import negatives

PAIRS = st.lists(
  st.tuples(st.integers(0, 3), st.integers(0, 6)), min_size=1, max_size=25
)


def of_pairs(pairs, num_users=4):
  users, items = np.array(pairs).T
  return negatives.OtherItems.of_pairs(users, items, num_users=num_users)


@hypothesis.given(pairs=PAIRS, seed=st.integers(0, 9))
def test_draws_are_known_items_of_others(pairs, seed):
  others = of_pairs(pairs)
  known = {item for _, item in pairs}
  own = [{item for u, item in pairs if u == user} for user in range(4)]
  np.testing.assert_array_equal(others.exist, [known > mine for mine in own])
  users = np.repeat(np.flatnonzero(others.exist), 40)
  drawn = others.draw(np.random.default_rng(seed), users)
  assert drawn.dtype == np.int32
  for user, item in zip(users, drawn, strict=True):
    assert item in known - own[user]


def test_draws_are_uniform_and_reach_the_ends():
  others = of_pairs([(0, 0), (0, 3), (1, 1), (1, 2), (2, 4), (2, 9), (0, 0)])
  users = np.tile([0, 1, 2], 6_000)
  drawn = others.draw(np.random.default_rng(0), users)
  for user, allowed in enumerate([[1, 2, 4, 9], [0, 3, 4, 9], [0, 1, 2, 3]]):
    counts = np.bincount(drawn[users == user], minlength=10)
    np.testing.assert_array_equal(np.flatnonzero(counts), allowed)
    np.testing.assert_allclose(counts[allowed], 1500, atol=150)


def test_keys_of_many_users_and_items_do_not_overflow():
  others = negatives.OtherItems.of_pairs(
    np.array([10**6, 10**6], np.int32),
    np.array([0, 10**5], np.int32),
    num_users=10**6 + 1,
  )
  assert not others.exist[10**6]
  assert others.exist[0]
  drawn = others.draw(np.random.default_rng(0), np.array([5] * 50))
  assert set(drawn) == {0, 10**5}
