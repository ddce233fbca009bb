"""Tests of the batches of sequences, and of what is exchanged in them."""

import doctest

import hypothesis
import jax
import numpy as np
import pytest
from hypothesis import strategies as st
from jax import numpy as jnp

from anchor_codes import ops
from experiments import sequence_batches
from experiments.datasets import sequences
from experiments.models import sequence_sharing

DATA = sequences.synthetic_sequences(1, num_users=40, num_items=20)


def draw(shape=(30, 16), data=DATA, **options):
  options = {"max_length": 12, **options}
  sampler = sequence_batches.SequenceSampler(data, **options)
  return sampler.draw(np.random.default_rng(0), shape)


def train_items(user, data=DATA):
  start = data.offsets[user]
  return data.items[start : start + data.train_lengths[user]]


@hypothesis.given(
  pairs=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 6)), max_size=30),
)
def test_items_outside_are_exactly_those_that_are_drawn(pairs):
  users = np.array([user for user, _ in pairs], int)
  items = np.array([item for _, item in pairs], int)
  sampler = sequence_batches.OutsideSampler(
    users, items, num_users=4, num_items=7
  )
  for user in range(4):
    outside = sorted(set(range(1, 8)) - set(items[users == user]))
    assert sampler.num_outside[user] == len(outside)
    drawn = sampler.draw(np.random.default_rng(0), np.full(300, user))
    np.testing.assert_array_equal(np.unique(drawn), outside)


def test_items_outside_are_drawn_uniformly():
  sampler = sequence_batches.OutsideSampler(
    [0, 0, 1], [1, 4, 2], num_users=2, num_items=5
  )
  drawn = sampler.draw(np.random.default_rng(0), np.tile([0, 1], (9000, 1)))
  shares = [np.bincount(column, minlength=6) / 9000 for column in drawn.T]
  third, quarter = 1 / 3, 1 / 4
  np.testing.assert_allclose(
    shares[0], [0, 0, third, third, 0, third], atol=0.02
  )
  np.testing.assert_allclose(
    shares[1], [0, quarter, 0, quarter, quarter, quarter], atol=0.02
  )


def test_targets_are_what_follows_in_training():
  batch = draw()
  assert batch.inputs.shape == batch.targets.shape == (30, 16, 12)
  np.testing.assert_array_equal(batch.inputs == 0, batch.targets == 0)
  np.testing.assert_array_equal(batch.inputs == 0, batch.negatives == 0)
  for user, inputs, targets in zip(
    batch.users.ravel(),
    batch.inputs.reshape(-1, 12),
    batch.targets.reshape(-1, 12),
    strict=True,
  ):
    own = train_items(user)
    known = inputs > 0
    np.testing.assert_array_equal(inputs[known], own[:-1][-12:])
    np.testing.assert_array_equal(targets[known], own[1:][-12:])
    # Padding comes first.
    assert (np.diff(known.astype(int)) >= 0).all()


def test_negatives_are_items_that_the_user_never_had_in_training():
  batch = draw()
  for user, negatives in zip(
    batch.users.ravel(), batch.negatives.reshape(-1, 12), strict=True
  ):
    assert not np.isin(negatives, train_items(user)).any()


def test_users_are_drawn_with_replacement_from_those_with_something_to_learn():
  data = sequences.make_sequences(
    "toy",
    users=[0] * 3 + [1] * 5 + [2] * 2,
    items=[0, 1, 2, 0, 1, 2, 3, 4, 5, 6],
    user_names=["short", "long", "two"],
    item_names=[str(number) for number in range(7)],
    source="ours",
  )
  users = draw(data=data).users
  np.testing.assert_array_equal(np.unique(users), [1, 2])
  assert 0.4 < np.mean(users == 1) < 0.6


def test_windows_end_anywhere_as_often_as_asked_for():
  long = DATA.train_lengths > 13
  starts, moved = [], []
  for rate in (0.0, 0.5, 1.0):
    batch = draw((200, 16), window_rate=rate)
    at_end = [
      np.array_equal(window, train_items(user)[-12:])
      for user, window in zip(
        batch.users[long[batch.users]],
        batch.targets[long[batch.users]],
        strict=True,
      )
    ]
    moved.append(1 - np.mean(at_end))
    starts.append(np.mean(batch.inputs == 0))
  # A move may be one of none.
  assert moved[0] == 0
  assert 0.4 < moved[1] < 0.5
  assert 0.85 < moved[2] < 1
  # A window is never shorter than the last items are.
  np.testing.assert_allclose(starts, starts[0], atol=0.01)


def test_a_user_who_has_had_all_items_is_named():
  data = sequences.make_sequences(
    "toy",
    users=[0] * 4,
    items=[0, 1, 1, 0],
    user_names=["ann"],
    item_names=["tea", "rum"],
    source="ours",
  )
  with pytest.raises(ValueError, match="user 'ann' of 'toy' has had all 2"):
    draw(data=data)
  short = data._replace(offsets=np.array([0, 3]))
  with pytest.raises(ValueError, match="two events to learn from"):
    draw(data=short)


def share(batch, **options):
  options = {
    "user_rate": 0.3,
    "item_rate": 0.1,
    "target_rate": 0.2,
    **options,
  }
  sharing = sequence_sharing.SequenceSharing(40, 20, **options)
  return jax.jit(sharing)(jax.random.key(0), batch)


def flat_batch():
  batch = draw((1, 2000))
  return jax.tree.map(lambda part: jnp.asarray(part[0]), batch)


def test_each_kind_of_id_has_a_rate_of_its_own():
  batch = flat_batch()
  shared = share(batch)
  known = batch.inputs > 0
  np.testing.assert_array_equal(shared.inputs > 0, known)
  np.testing.assert_array_equal(shared.targets > 0, known)
  inputs = (shared.inputs != batch.inputs)[known]
  targets = (shared.targets != batch.targets)[known]
  np.testing.assert_allclose(np.mean(inputs), 0.1, atol=0.01)
  np.testing.assert_allclose(np.mean(targets), 0.2, atol=0.01)
  # Independent draws: the shares multiply.
  np.testing.assert_allclose(np.mean(inputs & targets), 0.02, atol=0.005)
  users = shared.users[:, 0] != batch.users
  np.testing.assert_allclose(np.mean(users), 0.3, atol=0.03)
  np.testing.assert_array_equal(shared.users, shared.target_users)
  assert shared.users.shape == (2000, 1)


def test_users_of_each_position_are_drawn_apart():
  batch = flat_batch()
  shared = share(batch, per_position=True)
  reading = shared.users != batch.users[:, None]
  scoring = shared.target_users != batch.users[:, None]
  assert reading.shape == batch.inputs.shape
  np.testing.assert_allclose(np.mean(reading), 0.3, atol=0.01)
  np.testing.assert_allclose(np.mean(reading & scoring), 0.09, atol=0.01)


def test_rates_of_zero_change_nothing():
  batch = flat_batch()
  rates = {"user_rate": 0.0, "item_rate": 0.0, "target_rate": 0.0}
  same = sequence_sharing.unshared(batch)
  shared = share(batch, official=True, **rates)
  jax.tree.map(np.testing.assert_array_equal, shared, same)


def test_rates_of_the_published_sampler():
  # Of many items, so that a draw is hardly ever the old one.
  ids = jnp.arange(4000 * 12).reshape(4000, 12) + 1
  ids = jnp.where(jnp.arange(12)[None] < 2, 0, ids)
  targets = jnp.where(ids > 0, ids + 1, 0)
  inputs, labels = sequence_sharing.official_exchange(
    jax.random.key(0), ids, targets, num_items=10**6, rate=0.1
  )
  np.testing.assert_array_equal(inputs[:, :2], 0)
  np.testing.assert_array_equal(labels[:, :2], 0)
  changed = np.mean(labels != targets, axis=0)
  np.testing.assert_allclose(np.mean(inputs != ids, axis=0)[2:], 0.1, atol=0.02)
  np.testing.assert_allclose(changed[2:-1], 0.19, atol=0.025)
  np.testing.assert_allclose(changed[2:-1].mean(), 0.19, atol=0.008)
  np.testing.assert_allclose(changed[-1], 0.1, atol=0.02)
  # A new input is the label before it, unless that has been drawn itself.
  carried = np.mean((inputs != ids)[:, 3:] & (labels[:, 2:-1] == inputs[:, 3:]))
  np.testing.assert_allclose(carried, 0.09, atol=0.01)


def test_items_are_exchanged_along_a_graph():
  batch = flat_batch()
  # Items 1 and 2, 3 and 4, ... are neighbours.
  edges = np.arange(20).reshape(10, 2)
  graph = ops.graph_from_edges(edges, num_nodes=20)
  shared = share(batch, graphs={"items": graph}, neighbor_ratio=1e6)
  changed = shared.inputs != batch.inputs
  np.testing.assert_allclose(np.mean(changed[batch.inputs > 0]), 0.1, atol=0.01)
  partner = (batch.inputs - 1) ^ 1
  np.testing.assert_array_equal(shared.inputs[changed] - 1, partner[changed])


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"user_rate": 1.5}, "`user_sharing_rate` must be"),
    ({"target_rate": float("nan")}, "`target_sharing_rate` must be"),
    ({"official": True, "per_position": True}, "`official_sampler` draws"),
    (
      {"graphs": {"items": ops.graph_from_edges([(0, 1)], num_nodes=3)}},
      "graph of the items must have 20 nodes, got 3",
    ),
  ],
)
def test_bad_options_are_named(options, message):
  with pytest.raises(ValueError, match=message):
    share(flat_batch(), **options)


@pytest.mark.parametrize("module", [sequence_batches, sequence_sharing])
def test_examples_of_the_docstrings(module):
  flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
  result = doctest.testmod(module, optionflags=flags)
  assert result.attempted
  assert not result.failed
