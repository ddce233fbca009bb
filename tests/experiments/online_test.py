"""Runs over time: new rows, what runs leave, and who serves the others."""

import jax
import numpy as np
import pytest
from flax import nnx
from jax import numpy as jnp
from made_up_ratings import (
  ONLINE,
  make_data,
  make_run,
  metrics_of,
  outcome,
  tiny,
  train,
  train_in_part,
  usual_settings,
)

from anchor_codes import steps, tables, training
from experiments import (
  embeddings,
  online,
  recommending,
  train_recommender,
)
from experiments.analysis import trajectory
from experiments.models import recommender

KINDS = ("users", "items")
BATCHES = ONLINE["online_batches"]


@pytest.fixture(autouse=True, scope="module")
def _settings():
  with usual_settings():
    yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """A run that was not interrupted."""
  return train(tmp_path_factory.mktemp("whole"), **ONLINE)


@pytest.fixture
def run(tmp_path):
  """A run that has not begun."""
  return make_run(tmp_path, **ONLINE)


# Numbers of anchors while time goes on. Each time takes up all those that the
# time before had, and not those that its path has left.
SIZES = [[1], [1, 2, 4, 3, 2, 1], [4, 4, 4, 3, 2]]


# New rows.


@pytest.mark.parametrize("kind", ["anchors", "full", "low_rank"])
def test_the_mean_of_the_rows_is_the_mean_of_the_vectors(kind):
  layer = embeddings.make_embedding(
    8, tiny(embedding=kind, rank=3), scale=1.0, rngs=nnx.Rngs(0)
  )
  before = np.asarray(layer(jnp.arange(8)))
  online.set_to_mean(layer, 5, 7)
  after = np.asarray(layer(jnp.arange(8)))
  others = [0, 1, 2, 3, 4, 7]
  np.testing.assert_allclose(after[others], before[others], rtol=1e-5)
  mean = np.broadcast_to(before[:5].mean(axis=0), (2, 8))
  np.testing.assert_allclose(after[5:7], mean, rtol=1e-5, atol=1e-6)


def test_new_rows_start_as_the_mean(tmp_path):
  options = ONLINE | {"num_anchors": 4, "item_embedding": "low_rank"}
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


def test_its_trajectory_can_be_drawn(whole, tmp_path):
  course = trajectory.draw_trajectory(whole.folder, tmp_path)
  assert len(trajectory.batch_starts(course)) == BATCHES - 1
  assert "Time" in (tmp_path / "trajectory.md").read_text()


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
  options = {**ONLINE, "checkpoint_chunks": num_chunks - 1}
  stopped = train_in_part(tmp_path, num_chunks, **options)
  assert stopped.time == time
  assert (stopped.finish_from is not None) == ending
  resumed = train(tmp_path, resume=True, **options)
  assert len(resumed.run.record) < len(whole.run.record)
  assert outcome(resumed) == outcome(whole)


def test_a_damaged_checkpoint_leads_back_into_an_earlier_time(
  whole, tmp_path, monkeypatch
):
  # The first in the middle of an epoch, the second after the tables grew.
  options = {**ONLINE, "checkpoint_chunks": 1}
  stopped = train_in_part(tmp_path, 2, **options)
  assert stopped.time == 1
  old, new = training.Checkpointer(tmp_path / "checkpoints").steps()
  (tmp_path / "checkpoints" / str(new) / training.checkpoints.RECORD).unlink()
  # More checkpoints are not needed, and take long.
  monkeypatch.setattr(training.Checkpointer, "save", lambda *_: None)
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
    make_run(tmp_path / "none", **{**ONLINE, **options})
  assert not (tmp_path / "none").exists()


def test_the_first_batch_needs_somebody_to_validate(tmp_path):
  # The future is about others: who comes in the end was not there before.
  with pytest.raises(ValueError, match="first of `online_batches` must have"):
    make_run(
      tmp_path, **{**ONLINE, "online_batches": 300}, split="chronological"
    )


def test_the_options_are_checked_by_the_binary():
  config = tiny(rule="", online_batches=2)
  assert train_recommender.run_type(config) is online.OnlineRun
  with pytest.raises(ValueError, match="which can grow again, got ''"):
    recommending.check_config(config)


def test_more_epochs_than_any_path_has(tmp_path):
  run = make_run(tmp_path, **{**ONLINE, "regrowth_rounds": 9})
  config = run.config
  longest = 4 + 2 * (9 - 1 + 4) + config.decay_epochs
  assert run.max_epochs() >= longest
  assert isinstance(run.trainer.init(), steps.TrainState)
