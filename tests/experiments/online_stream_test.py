"""Ratings in the order of time: who comes when, and what is kept."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up_ratings import ONLINE, make_data, make_run

from experiments import online

KINDS = ("users", "items")
BATCHES, REPLAY = ONLINE["online_batches"], ONLINE["replay"]


@pytest.fixture
def run(tmp_path):
  """A run that has not begun."""
  return make_run(tmp_path, **ONLINE)


def at_each_time(run):
  for number in range(BATCHES):
    yield number, run._learn_batch(number)


# Numbers of symbols.


@st.composite
def streams(draw):
  """Names of symbols, ids of some of them, and a stream of some ids."""
  number = draw(st.integers(1, 8))
  ids = st.lists(st.integers(0, number - 1), min_size=1, max_size=20)
  names = draw(st.permutations([f"s{i}" for i in range(number)]))
  stream = np.array(draw(ids), np.int32)
  return tuple(names), np.array(draw(ids), np.int32), stream


@given(streams())
def test_a_symbol_keeps_its_name(drawn):
  names, ids, stream = drawn
  numbered, new_names = online.renumber(ids, stream, names)
  assert [new_names[i] for i in numbered] == [names[i] for i in ids]
  assert sorted(new_names) == sorted(names)
  assert numbered.dtype == ids.dtype


@given(streams())
def test_numbers_follow_the_first_appearance(drawn):
  names, _, stream = drawn
  numbered, _ = online.renumber(stream, stream, names)
  seen = list(dict.fromkeys(numbered.tolist()))
  assert seen == list(range(len(seen)))


@given(streams())
def test_those_outside_the_stream_come_last_in_their_order(drawn):
  names, _, stream = drawn
  every = np.arange(len(names), dtype=np.int32)
  numbered, _ = online.renumber(every, stream, names)
  outside = np.setdiff1d(every, stream)
  first = len(names) - len(outside)
  assert numbered[outside].tolist() == list(range(first, len(names)))


@given(streams())
def test_numbering_again_changes_nothing(drawn):
  names, ids, stream = drawn
  both = np.concatenate([ids, stream])
  numbered, new_names = online.renumber(both, stream, names)
  again, same_names = online.renumber(numbered, numbered[len(ids) :], new_names)
  np.testing.assert_array_equal(again, numbered)
  assert same_names == new_names


# Who is there when.


def test_symbols_come_in_order(run):
  data = run.data
  for number, _ in at_each_time(run):
    so_far = np.concatenate(run.batches_in_time[: number + 1])
    for name, ids in (("users", data.users), ("items", data.items)):
      present = np.unique(ids[so_far])
      np.testing.assert_array_equal(present, np.arange(run.seen[name]))


def test_batches_are_all_training_ratings_in_the_order_of_time(run):
  batches = run.batches_in_time
  together = np.concatenate(batches)
  assert sorted(together) == sorted(run.splits.train)
  for before, after in itertools.pairwise(batches):
    assert run.data.order[before].max() <= run.data.order[after].min()


def test_the_ratings_are_those_of_the_file(run):
  old, new = make_data(), run.data
  for ids, names in (("users", "user_names"), ("items", "item_names")):
    rated = [
      np.array(getattr(d, names))[getattr(d, ids)].tolist() for d in (old, new)
    ]
    assert rated[0] == rated[1]
  np.testing.assert_array_equal(old.values, new.values)


def test_tables_grow_in_powers_of_two_with_a_free_row(run):
  all_sizes = []
  for _, before in at_each_time(run):
    sizes = run.table_sizes()
    for name in KINDS:
      size, seen = sizes[name], run.seen[name]
      assert size.bit_count() == 1
      assert seen < size <= 2 * seen
      assert before[name] <= seen
      np.testing.assert_array_equal(run.unseen[name], np.arange(size) >= seen)
    all_sizes.append(tuple(sizes.values()))
  assert all_sizes == [(32, 32), (64, 64), (64, 64)]


def test_validation_knows_only_those_who_are_there(run):
  number = []
  for _ in at_each_time(run):
    users, items, _ = run.ratings_of(run.valid)
    assert users.max() < run.seen["users"]
    assert items.max() < run.seen["items"]
    number.append(len(run.valid))
  assert 0 < number[0] < number[-1] <= len(run.splits.valid)


def test_strangers_share_the_row_behind_all_others(run):
  everything = np.arange(len(run.data.values))
  users, items, values = run.ratings_of(everything)
  strangers = run.data.users >= run.seen["users"]
  assert strangers.any()
  assert (users[strangers] == run.seen["users"]).all()
  np.testing.assert_array_equal(users[~strangers], run.data.users[~strangers])
  assert items.max() <= run.seen["items"]
  np.testing.assert_array_equal(values, run.data.values)
  assert run.count_unseen(everything)["users"] == strangers.sum()


# What is kept of the past.


def split_learned(run, number):
  """Returns the replayed ratings, and those before the batch."""
  new = run.batches_in_time[number]
  np.testing.assert_array_equal(run.learned[: len(new)], new)
  old = np.concatenate([new[:0], *run.batches_in_time[:number]])
  return run.learned[len(new) :], old


def test_replay_is_bounded_and_of_earlier_batches(run):
  for number, _ in at_each_time(run):
    kept, old = split_learned(run, number)
    assert len(kept) == min(REPLAY, len(old)) == len(set(kept))
    assert np.isin(kept, old).all()


def test_what_is_forgotten_is_never_asked_for_again(run):
  memory = None
  for number, _ in at_each_time(run):
    kept, _ = split_learned(run, number)
    if memory is not None:
      assert set(kept) <= memory
    memory = {*kept, *run.batches_in_time[number]}


@pytest.mark.parametrize("replay", [0, 10_000])
def test_replay_of_nothing_and_of_all(tmp_path, replay):
  run = make_run(tmp_path, **{**ONLINE, "replay": replay})
  for number, _ in at_each_time(run):
    kept, old = split_learned(run, number)
    assert len(kept) == (len(old) if replay else 0)


def test_replay_is_a_uniform_sample(run):
  counts, draws = 0, 300
  for seed in range(draws):
    run.config.seed = seed
    run.learn_from(run.splits.train)
    run._learn_batch(2)
    kept, old = split_learned(run, 2)
    counts = counts + np.isin(old, kept)
  share = REPLAY / len(old)
  deviation = np.sqrt(draws * share * (1 - share))
  assert np.abs(counts - draws * share).max() < 5 * deviation
  # The older half is not kept more rarely.
  older, newer = np.array_split(counts, 2)
  assert np.mean(older) == pytest.approx(np.mean(newer), rel=0.05)


def test_batches_to_learn_from_hold_no_strangers(run):
  for number, _ in at_each_time(run):
    users, items, values = run.batches(number, 0, run.steps_per_epoch)
    assert users.shape == items.shape == values.shape
    assert users.shape == (run.steps_per_epoch, run.config.batch_size)
    assert users.max() < run.seen["users"]
    assert items.max() < run.seen["items"]
