"""Runs over time: who comes when, what is kept, and who serves the others."""

import itertools

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax import numpy as jnp
from made_up_ratings import (
  OnlineRun,
  make_data,
  make_run,
  metrics_of,
  outcome,
  tiny,
  train,
  train_in_part,
)

from anchor_codes import tables, training
from experiments import online, recommending, row_trainer, train_recommender
from experiments.models import recommender

KINDS = ("users", "items")
BATCHES, REPLAY = 3, 100
OPTIONS = {
  "run_type": OnlineRun,
  "online_batches": BATCHES,
  "replay": REPLAY,
  "num_anchors": 1,
  "growth_rounds": 1,
  "regrowth_rounds": 3,
  "max_anchors": 4,
  "anchor_penalty": 0.01,
}


@pytest.fixture(autouse=True, scope="module")
def _quick_and_usual():
  # The binaries run without the strict settings of the unit tests; programs
  # that run for milliseconds need no optimisation.
  jax.config.update("jax_disable_most_optimizations", True)
  with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
    yield
  jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """A run that was not interrupted."""
  return train(tmp_path_factory.mktemp("whole"), **OPTIONS)


@pytest.fixture
def run(tmp_path):
  """A run that has not begun."""
  return make_run(tmp_path, **OPTIONS)


# Numbers of anchors while time goes on. Each time takes up all those that the
# time before had, and not those that its path has left.
SIZES = [[1], [1, 2, 4, 3, 2, 1], [4, 4, 4, 3, 2]]


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
  run = make_run(tmp_path, **{**OPTIONS, "replay": replay})
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


# New rows.


@pytest.mark.parametrize("kind", ["anchors", "full", "low_rank"])
def test_new_rows_start_as_the_mean(tmp_path, kind):
  options = OPTIONS | {"num_anchors": 3, "item_embedding": kind}
  run = make_run(tmp_path, **options)
  state = run.trainer.init()
  # Biases start at zero, where each is the mean.
  model = run.trainer.model_of(state)
  for layer in (model.user_bias, model.item_bias):
    layer.embedding[...] = jnp.arange(32.0)[:, None]
  state = run.trainer.replace_model(state, model)
  old = run.trainer.vectors(state)
  before = run._learn_batch(1)
  new = run.admit(state, before)
  vectors = run.trainer.vectors(new)
  for table, rows in zip(recommender.TABLES, vectors, strict=False):
    name = "users" if table.startswith("user") else "items"
    first, last = before[name], run.seen[name]
    start = getattr(old, table)[:first]
    np.testing.assert_allclose(rows[:first], start, rtol=1e-5, atol=1e-6)
    expected = np.broadcast_to(start.mean(axis=0), rows[first:last].shape)
    np.testing.assert_allclose(rows[first:last], expected, atol=1e-6)
    assert rows.shape[0] == run.table_sizes()[name] == 64


def test_the_optimiser_keeps_the_old_rows_and_starts_new_ones_at_zero(run):
  state = run.trainer.init()
  fill = lambda leaf: jnp.ones_like(leaf) if np.ndim(leaf) else leaf + 7
  state = state._replace(row_states=jax.tree.map(fill, state.row_states))
  new = run.admit(state, run._learn_batch(1))
  for leaf in jax.tree.leaves(new.row_states):
    if np.ndim(leaf):
      assert leaf.shape[0] == 64
      assert (leaf[:32] == 1).all()
      assert not leaf[32:].any()
    else:
      assert leaf == 7
  # It is what the steps of the new tables want, and what they return.
  batch = [part[0] for part in run.batches(0, 0, 1)]
  stepped, _ = jax.eval_shape(run.trainer.step, new, batch)
  assert jax.tree.map(np.shape, stepped) == jax.tree.map(np.shape, new)


def test_without_new_symbols_nothing_changes(run):
  state = run.trainer.init()
  same = run.admit(state, run.seen)
  jax.tree.map(np.testing.assert_array_equal, same, state)


# What a run leaves.


def test_the_course_of_a_run(whole):
  rows = [row for row in metrics_of(whole.folder) if row["valid_mse"]]
  times = [int(float(row["time_batch"])) for row in rows]
  assert times == sorted(times)
  assert set(times) == set(range(BATCHES))
  for time in range(BATCHES):
    path = [r for r, at in zip(rows, times, strict=True) if at == time]
    assert len({row["num_users"] for row in path}) == 1
    sizes = [int(float(row["num_anchors_items"])) for row in path]
    assert sizes[: len(SIZES[time])] == SIZES[time]
  assert float(rows[-1]["num_users"]) == whole.run.seen["users"]
  finish = rows[-whole.run.config.decay_epochs :]
  assert len({row["num_anchors_items"] for row in finish}) == 1
  assert max(row["dead"] for row in whole.run.record) == 0


def test_few_snapshots_are_held(whole):
  held = [epoch["snapshots"] for epoch in whole.run.record]
  assert max(held) <= 3 + 2  # The patience of the controller.
  assert held[-1] == 0


def test_it_learns_more_than_the_mean(whole):
  values = whole.run.data.values[whole.run.splits.test]
  assert whole.result.metrics["test_mse"] < 0.8 * np.var(values)


def test_all_records_agree_on_the_numbers_of_anchors(whole):
  for name in KINDS:
    table = tables.load(whole.folder / f"{name}.safetensors")
    number = whole.result.metrics[f"num_anchors_{name}"]
    assert table.num_anchors == number == whole.run.num_anchors[name]
    assert table.num_embeddings == whole.run.seen[name] + 1


def test_the_vocabulary_names_all_who_were_seen_and_the_others(whole):
  original, train_rows = make_data(), whole.run.splits.train
  for name, ids, names in (
    ("users", original.users, original.user_names),
    ("items", original.items, original.item_names),
  ):
    table = tables.load(whole.folder / f"{name}.safetensors")
    seen = {names[i] for i in ids[train_rows]}
    assert set(table.vocabulary) == seen | {online.UNSEEN}
    assert table.vocabulary[-1] == online.UNSEEN


def test_the_row_of_the_unseen_is_the_mean_of_all_others(whole):
  for name in KINDS:
    table = tables.load(whole.folder / f"{name}.safetensors")
    vectors = table.lookup(np.arange(table.num_embeddings))
    np.testing.assert_allclose(
      vectors[-1], vectors[:-1].mean(axis=0), rtol=1e-4, atol=1e-5
    )


def stored_predictions(trained, rows):
  """Predicts ratings of the file by what is stored, by name."""
  data, run = make_data(), trained.run
  model = run.trainer.model_of(run.final)
  parts, biases = [], run.data.values[:0].sum() + model.mean[...]
  for name, ids, names, layer in (
    ("users", data.users, data.user_names, model.user_bias),
    ("items", data.items, data.item_names, model.item_bias),
  ):
    table = tables.load(trained.folder / f"{name}.safetensors")
    known = set(table.vocabulary)
    wanted = [names[i] if names[i] in known else online.UNSEEN for i in ids]
    found = table.ids_of([wanted[row] for row in rows])
    parts.append(table.lookup(found))
    biases = biases + np.asarray(layer.embedding[...])[found, 0]
  return biases + np.sum(parts[0] * parts[1], axis=1)


@pytest.mark.parametrize("part", ["test", "valid"])
def test_stored_tables_give_the_error_that_was_measured(whole, part):
  run = whole.run
  rows = getattr(run.splits, part)
  values = make_data().values[rows]
  error = float(np.mean((stored_predictions(whole, rows) - values) ** 2))
  metric = whole.result.metrics[f"{part}_mse"]
  assert metric == pytest.approx(error, rel=1e-5)


def test_strangers_are_served_as_in_training(whole):
  """The stored row gives what the free row gave before it was cut off."""
  run = whole.run
  strangers = run.data.users[run.splits.test] >= run.seen["users"]
  assert strangers.sum() == whole.result.metrics["test_unseen_users"] > 0
  rows = run.splits.test[strangers]
  vectors = run.trainer.vectors(run.final)
  users = recommender.fill_unseen(
    vectors.users[:-1], np.zeros(run.seen["users"], bool)
  )
  mean, bias = users.mean(axis=0), vectors.user_bias[:-1].mean()
  items = run.ratings_of(rows)[1]
  expected = vectors.mean + bias + vectors.item_bias[items]
  expected += vectors.items[items] @ mean
  np.testing.assert_allclose(
    stored_predictions(whole, rows), expected, rtol=1e-4, atol=1e-5
  )


# Interruptions.


@pytest.mark.parametrize(
  ("time", "num_chunks", "ending"),
  [(1, 6, False), (2, 17, False), (2, 28, True)],
)
def test_an_interrupted_run_ends_the_same(
  whole, tmp_path, time, num_chunks, ending
):
  options = {**OPTIONS, "checkpoint_chunks": num_chunks - 1}
  stopped = train_in_part(tmp_path, num_chunks, **options)
  assert stopped.time == time
  assert (stopped.finish_from is not None) == ending
  resumed = train(tmp_path, resume=True, **options)
  assert len(resumed.run.record) < len(whole.run.record)
  assert outcome(resumed) == outcome(whole)


def test_a_damaged_checkpoint_leads_back_into_an_earlier_time(whole, tmp_path):
  # The first in the middle of an epoch, the second after the tables grew.
  options = {**OPTIONS, "checkpoint_chunks": 1}
  stopped = train_in_part(tmp_path, 2, **options)
  assert stopped.time == 1
  old, new = training.Checkpointer(tmp_path / "checkpoints").steps()
  (tmp_path / "checkpoints" / str(new) / training.checkpoints.RECORD).unlink()
  with pytest.warns(UserWarning, match=f"damaged checkpoint {new}"):
    resumed = train(tmp_path, resume=True, **options)
  assert resumed.run.record[0]["time_batch"] == 0
  assert old < new
  assert outcome(resumed) == outcome(whole)


# Options.


@pytest.mark.parametrize(
  ("options", "text"),
  [
    ({"rule": ""}, "`online_batches` needs `rule` 'marginal', .* got ''"),
    ({"rule": "trend"}, "`online_batches` needs `rule` 'marginal', .*'trend'"),
    ({"online_batches": -1}, "`online_batches` must be at least 1, got -1"),
    ({"replay": -1}, "`replay` must be at least 0, got -1"),
    ({"regrowth_rounds": 0}, "`regrowth_rounds` must be at least 1, got 0"),
    ({"item_embedding": "kd"}, "'anchors', 'full', 'low_rank', got 'kd'"),
    ({"penalty": "frequency"}, "`penalty` must be one of 'plain', 'keep_one'"),
    ({"online_batches": 10_000}, "`num_batches` must be at most the number"),
  ],
)
def test_options_that_do_not_go_together(tmp_path, options, text):
  with pytest.raises(ValueError, match=text):
    make_run(tmp_path / "none", **{**OPTIONS, **options})
  assert not (tmp_path / "none").exists()


def test_the_first_batch_needs_somebody_to_validate(tmp_path):
  # The future is about others: who comes in the end was not there before.
  with pytest.raises(ValueError, match="first of `online_batches` must have"):
    make_run(
      tmp_path, **{**OPTIONS, "online_batches": 300}, split="chronological"
    )


def test_the_options_are_checked_by_the_binary():
  config = tiny(rule="", online_batches=2)
  assert train_recommender.run_type(config) is online.OnlineRun
  with pytest.raises(ValueError, match="which can grow again, got ''"):
    recommending.check_config(config)


def test_more_epochs_than_any_path_has(tmp_path):
  run = make_run(tmp_path, **{**OPTIONS, "regrowth_rounds": 9})
  config = run.config
  longest = 4 + 2 * (9 - 1 + 4) + config.decay_epochs
  assert run.max_epochs() >= longest
  assert isinstance(run.trainer.init(), row_trainer.TrainState)
