"""Tests of the ranking of the items that came next."""

import doctest

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from experiments import sequential_evaluation
from experiments.datasets import sequences

DATA = sequences.synthetic_sequences(
  2, num_users=48, num_items=30, mean_length=12, num_groups=3
)


def task_of(held_out, **options):
  options = {"max_length": 8, "draws": 2, "num_candidates": 40, **options}
  return sequential_evaluation.make_task(DATA, held_out=held_out, **options)


@pytest.mark.parametrize("held_out", [1, 2])
def test_tasks_hold_what_was_known_then(held_out):
  task = task_of(held_out)
  flat = [np.asarray(part).reshape(-1, *part.shape[2:]) for part in task[:-1]]
  assert task.number == DATA.num_users
  bits = np.unpackbits(flat[4], axis=1, count=31, bitorder="little")
  for user, inputs, target, candidates, seen in zip(
    *flat[:4], bits, strict=True
  ):
    own = DATA.items[DATA.offsets[user] : DATA.offsets[user + 1]]
    before = own[: len(own) - held_out]
    assert target == own[len(own) - held_out]
    np.testing.assert_array_equal(inputs[inputs > 0], before[-8:])
    assert not np.isin(candidates, [*before, target]).any()
    # What comes later is not known, and may be drawn.
    later = np.setdiff1d(np.arange(1, 31), [*before, target])
    np.testing.assert_array_equal(np.unique(candidates), np.intersect1d(
      np.unique(candidates), later))  # fmt: skip
    np.testing.assert_array_equal(np.flatnonzero(seen), np.unique([0, *before]))


def test_candidates_are_the_same_for_all_models_and_loose_if_asked_for():
  jax.tree.map(np.testing.assert_array_equal, task_of(1), task_of(1))
  other = task_of(1, seed=1)
  assert (other.candidates != task_of(1).candidates).any()
  loose = task_of(1, loose=True)
  held = [DATA.items[DATA.offsets[1:] - place] for place in (1, 2)]
  users = loose.users.reshape(-1)
  drawn = loose.candidates.reshape(len(users), -1)
  for items in held:
    assert (drawn == items[users][:, None]).any()


def test_fewer_users_can_be_measured():
  task = task_of(1, num_users=7)
  assert task.number == len(set(task.users.reshape(-1))) == 7


class Given:
  """A model whose scores are given, for one user and items 0 to 5."""

  def __init__(self, scores):
    self._scores = jnp.asarray(scores, jnp.float32)

  def item_table(self):
    return self._scores

  def scores(self, inputs, users, table):
    return jnp.broadcast_to(table, (len(users), len(table)))


def test_ranks_of_a_case_by_hand():
  history = sequential_evaluation.history_bits(
    np.array([0]), np.array([4]), num_users=1, num_rows=6
  )
  task = sequential_evaluation.RankingTask(
    users=np.zeros((1, 1), np.int32),
    inputs=np.ones((1, 1, 2), np.int32),
    targets=np.array([[2]]),
    # One above, the target's equal, and one below; and others.
    candidates=np.array([[[[3, 5, 1], [1, 1, 1], [3, 3, 5]]]]),
    history=history[None],
    number=1,
  )
  # Item 4 came before, padding is no item: neither competes.
  scores = [9.0, 0.0, 0.5, 0.8, 7.0, 0.5]
  ranks = sequential_evaluation.unbatched(
    *sequential_evaluation.rank_targets(Given(scores), task), number=1
  )
  np.testing.assert_array_equal(ranks.sampled, [[1.5, 0, 2.5]])
  np.testing.assert_array_equal(ranks.full, [1.5])
  metrics = sequential_evaluation.metrics_of(ranks)
  expected = np.mean(1 / np.log2(np.array([1.5, 0, 2.5]) + 2))
  np.testing.assert_allclose(metrics["ndcg_at_10"], expected, rtol=1e-6)
  assert metrics["full_recall_at_10"] == 1


def test_a_user_who_has_had_all_items_is_named():
  data = sequences.make_sequences(
    "toy",
    users=[0] * 3,
    items=[0, 1, 0],
    user_names=["ann"],
    item_names=["tea", "rum"],
    source="ours",
  )
  with pytest.raises(ValueError, match="user 'ann' of 'toy' has had all 2"):
    sequential_evaluation.make_task(data, held_out=1, max_length=2)


def test_examples_of_the_docstrings():
  flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
  result = doctest.testmod(sequential_evaluation, optionflags=flags)
  assert result.attempted
  assert not result.failed
