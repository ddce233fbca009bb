"""Runs that learn their numbers of anchors: what they leave, and how."""

import itertools
import math

import numpy as np
import pytest
from jax import numpy as jnp
from made_up_ratings import (
  Watched,
  make_run,
  metrics_of,
  outcome,
  tiny,
  train,
  train_in_part,
  usual_settings,
)
from matplotlib import image

from anchor_codes import tables, training
from experiments import nonparametric, online, recommending, train_recommender
from experiments.analysis import trajectory

TABLES = ("users", "items")
PATIENCE = 3  # Of the controller.


@pytest.fixture(autouse=True, scope="module")
def _settings():
  with usual_settings():
    yield


@pytest.fixture(scope="module")
def traced(tmp_path_factory):
  """A run that was not interrupted, and the number of its traces."""
  before = Watched.programs.traces
  trained = train(tmp_path_factory.mktemp("whole"))
  return trained, Watched.programs.traces - before


@pytest.fixture(scope="module")
def whole(traced):
  return traced[0]


@pytest.fixture(scope="module")
def start(tmp_path_factory):
  """A trainer, and its state before the first step."""
  trainer = make_run(tmp_path_factory.mktemp("start")).trainer
  return trainer, trainer.init()


def numbers(row):
  return [int(float(row[f"num_anchors_{name}"])) for name in TABLES]


def objective(loss, num_nonzeros, num_anchors):
  """Equation 5 of Liang et al. (2021), as it stands there."""
  config = tiny()
  price = config.anchor_penalty - config.l1
  return loss + config.l1 * num_nonzeros + price * num_anchors


def courses(trained):
  """Returns the epochs of growth, of pruning, and of the second part."""
  rows = [r for r in metrics_of(trained.folder) if r["valid_mse"]]
  config = trained.run.config
  edges = config.growth_rounds, len(rows) - config.decay_epochs
  return rows[: edges[0]], rows[edges[0] - 1 : edges[1]], rows[edges[1] :]


# What a run leaves.


def test_all_records_agree_on_the_numbers_of_anchors(whole):
  for name in TABLES:
    table = tables.load(whole.folder / f"{name}.safetensors")
    number = whole.result.metrics[f"num_anchors_{name}"]
    assert table.num_anchors == number == whole.run.num_anchors[name]
    assert 1 < number < 8
    assert len(table.vocabulary) == table.num_embeddings
  total = sum(whole.run.num_anchors.values())
  assert whole.result.num_anchors == total


def test_the_objective_is_that_of_the_stored_tables(whole):
  stored = [tables.load(whole.folder / f"{n}.safetensors") for n in TABLES]
  nonzeros = sum(np.count_nonzero(table.weights) for table in stored)
  anchors = sum(table.num_anchors for table in stored)
  metrics = whole.result.metrics
  assert metrics["num_nonzeros"] == nonzeros
  assert metrics["objective"] == pytest.approx(
    objective(metrics["valid_mse"], nonzeros, anchors), rel=1e-12
  )


def test_it_learns_more_than_the_mean(whole):
  run = whole.run
  values = run.data.values[run.splits.test]
  assert whole.result.metrics["test_mse"] < 0.7 * np.var(values)


def test_the_best_epoch_of_the_second_part_is_stored(whole):
  *_, last = courses(whole)
  losses = [float(row["valid_mse"]) for row in last]
  metrics = whole.result.metrics
  assert metrics["valid_mse"] == pytest.approx(min(losses), rel=1e-6)
  epochs = len(whole.run.record)
  assert epochs - len(last) < metrics["best_epoch"] <= epochs


def test_its_trajectory_can_be_drawn(whole, tmp_path):
  course = trajectory.draw_trajectory(whole.folder, tmp_path)
  assert len(course) == len(whole.run.record)
  assert "Time" not in (tmp_path / "trajectory.md").read_text()
  pixels = image.imread(tmp_path / "trajectory.png")
  assert pixels.shape == (750, 1200, 4)


# How it comes about.


def test_growth_doubles_and_pruning_goes_on_by_trial(whole):
  growth, path, last = courses(whole)
  assert [numbers(row) for row in growth] == [[4, 4], [8, 8]]
  for before, after in itertools.pairwise(path):
    for number, left in zip(numbers(before), numbers(after), strict=True):
      assert left == number - max(number // 5, 1)
  assert len({tuple(numbers(row)) for row in last}) == 1


def test_the_best_trial_is_taken_up_again(whole):
  _, path, last = courses(whole)
  losses = np.array([float(row["valid_mse"]) for row in path])
  losses[1:-1] = (losses[:-2] + 2 * losses[1:-1] + losses[2:]) / 4
  trials = [
    objective(loss, float(row["num_nonzeros"]), sum(numbers(row)))
    for loss, row in zip(losses, path, strict=True)
  ]
  best = int(np.argmin(trials))
  assert numbers(path[best]) == numbers(last[0])
  assert best + PATIENCE + 1 >= len(path) - 1


def test_the_rate_falls_to_zero_from_the_state_that_was_taken_up(whole):
  run = whole.run
  steps = run.steps_per_epoch
  *_, last = courses(whole)
  growth_and_path = [r for r in run.record if numbers(r) == numbers(last[0])]
  restored = run.record.index(growth_and_path[0])
  phase = run.trainer.phase
  assert phase.decay_from == (restored + 1) * steps
  assert phase.decay_steps == run.config.decay_epochs * steps
  updates = nonparametric.num_updates(run.final)
  assert updates == phase.decay_from + phase.decay_steps
  # No two checkpoints have one number.
  assert int(run.final.step) == len(run.record) * steps


def test_few_snapshots_are_held(whole):
  held = [epoch["snapshots"] for epoch in whole.run.record]
  assert max(held) <= PATIENCE + 2
  assert held[0] == 0
  assert max(held) > 0
  assert held[-1] == 0


def test_places_without_an_anchor_stay_empty(whole):
  assert max(epoch["dead"] for epoch in whole.run.record) == 0


def test_it_compiles_for_powers_of_two_alone(traced):
  trained, traces = traced
  rounds = len(trained.run.controller.rounds)
  # One for each capacity of 8 anchors and less, and one for the second part.
  assert traces <= math.log2(8) + 2
  assert traces < rounds


def test_the_same_seed_gives_the_same_run(whole, tmp_path):
  assert outcome(train(tmp_path)) == outcome(whole)


def test_another_seed_gives_another_start(start, tmp_path):
  trainer, state = start
  other = make_run(tmp_path, seed=1).trainer
  anchors = [
    t.model_of(s).users.anchors[...]
    for t, s in ((trainer, state), (other, other.init()))
  ]
  assert np.abs(anchors[0] - anchors[1]).max() > 0.01


def test_a_larger_price_never_gives_more_anchors(whole, tmp_path):
  totals = [whole.result.num_anchors]
  for price in (1e-5, 10.0):
    trained = train(tmp_path / str(price), anchor_penalty=price, decay_epochs=0)
    totals.append(trained.result.num_anchors)
    # The path is the same, only where it ends is another matter.
    paths = [
      [row["valid_mse"] for row in run.record[: len(run.controller.rounds)]]
      for run in (trained.run, whole.run)
    ]
    length = min(map(len, paths))
    assert paths[0][:length] == paths[1][:length]
  medium, small, large = totals
  assert small > medium > large == 2


def test_without_a_second_part_the_numbers_are_the_same(whole, tmp_path):
  trained = train(tmp_path, decay_epochs=0)
  assert trained.result.num_anchors == whole.result.num_anchors
  table = tables.load(tmp_path / "users.safetensors")
  assert table.num_anchors == trained.run.num_anchors["users"]


@pytest.mark.parametrize(
  ("where", "num_chunks"), [("growth", 13), ("pruning", 45), ("end", 80)]
)
def test_an_interrupted_run_ends_the_same(whole, tmp_path, where, num_chunks):
  # What came after the checkpoint is done again.
  options = {"checkpoint_chunks": num_chunks - 1}
  stopped = train_in_part(tmp_path, num_chunks, **options)
  rounds, config = len(stopped.controller.rounds), stopped.config
  found = "growth" if rounds < config.growth_rounds else "pruning"
  assert where == ("end" if stopped.finish_from is not None else found)
  resumed = train(tmp_path, resume=True, **options)
  assert len(resumed.run.record) < len(whole.run.record)
  assert outcome(resumed) == outcome(whole)
  assert resumed.run.controller == whole.run.controller


def test_a_finished_run_resumes_to_its_result(whole, tmp_path):
  options = {"checkpoint_chunks": len(whole.run.record) * 8}
  train(tmp_path, **options)
  assert outcome(train(tmp_path, resume=True, **options)) == outcome(whole)


# Anchors that come and go.


def predict(trainer, state):
  vectors = trainer.vectors(state)
  grid = np.indices((len(vectors.users), len(vectors.items)))
  return np.asarray(vectors.predict(*map(jnp.asarray, grid.reshape(2, -1))))


def plan_of(keep, num_new):
  return training.AnchorPlan(
    dict.fromkeys(TABLES, tuple(keep)), dict.fromkeys(TABLES, num_new)
  )


def test_fresh_anchors_change_predictions_only_a_little(start):
  trainer, state = start
  grown = trainer.apply_plan(state, plan_of(range(4), 4))
  difference = predict(trainer, grown) - predict(trainer, state)
  # Of ratings whose standard deviation is larger than one.
  assert 1e-4 < np.sqrt(np.mean(difference**2)) < 0.03
  assert np.abs(difference).max() < 0.2
  before, after = trainer.model_of(state), trainer.model_of(grown)
  for name in TABLES:
    old, new = getattr(before, name), getattr(after, name)
    np.testing.assert_array_equal(new.anchors[:4], old.anchors[:4])
    np.testing.assert_array_equal(new.transform[:, :4], old.transform[:, :4])
    assert (np.abs(new.anchors[4:]).max(axis=1) > 0).all()
    assert (new.transform[...] >= 0).all()


@pytest.mark.parametrize("num_new", [1, 2, 3])
def test_places_behind_fresh_anchors_are_empty(start, num_new):
  trainer, state = start
  grown = trainer.apply_plan(state, plan_of(range(4), num_new))
  layer = trainer.model_of(grown).items
  assert layer.num_anchors == 8
  assert not layer.anchors[4 + num_new :].any()
  assert not layer.transform[:, 4 + num_new :].any()
  assert layer.anchors[4 : 4 + num_new].any(axis=1).all()


def test_fresh_anchors_are_others_in_each_table_and_at_each_time(start):
  trainer, state = start
  drawn = []
  for step in (0, 7):
    at = state._replace(step=jnp.int32(step))
    model = trainer.model_of(trainer.apply_plan(at, plan_of(range(4), 4)))
    drawn += [np.asarray(getattr(model, name).anchors[4:]) for name in TABLES]
  for first, second in itertools.combinations(drawn, 2):
    assert np.abs(first - second).max() > 0.01


def test_dropped_anchors_are_gone_and_the_others_close_ranks(start):
  trainer, state = start
  left = trainer.apply_plan(state, plan_of((1, 3), 0))
  before, after = trainer.model_of(state), trainer.model_of(left)
  for name in TABLES:
    old, new = getattr(before, name), getattr(after, name)
    assert new.num_anchors == 2
    kept = jnp.array([1, 3])
    np.testing.assert_array_equal(new.anchors[...], old.anchors[kept])
    np.testing.assert_array_equal(new.transform[...], old.transform[:, kept])


def test_importance_is_the_rise_of_the_error_without_an_anchor(whole):
  run, state = whole.run, whole.run.final
  ratings = run.ratings_of(run.splits.valid)
  found = run.importances(state)["items"]
  model = run.trainer.model_of(state)
  base = np.mean((_vectors_predict(run, state, ratings) - ratings[2]) ** 2)
  for place, rise in enumerate(found):
    model.items.transform[...] = (
      run.trainer.model_of(state).items.transform[...].at[:, place].set(0)
    )
    without = run.trainer.replace_model(state, model)
    error = _vectors_predict(run, without, ratings) - ratings[2]
    assert rise == pytest.approx(np.mean(error**2) - base, abs=1e-5)


def _vectors_predict(run, state, ratings):
  vectors = run.trainer.vectors(state)
  return np.asarray(vectors.predict(*map(jnp.asarray, ratings[:2])))


# Other rules, other tables.


def test_the_trend_runs_and_ends(tmp_path):
  trained = train(tmp_path, rule="trend", epochs=4, decay_epochs=1)
  record = trained.run.record
  assert len(record) == 4
  # The first two rounds, of which there is no trend, let two anchors come.
  assert [numbers(row) for row in record[:3]] == [[4, 4], [6, 6], [8, 8]]
  table = tables.load(tmp_path / "items.safetensors")
  assert [table.num_anchors] * 2 == numbers(record[-1])
  assert numbers(trained.result.metrics) == numbers(record[-1])
  assert max(row["snapshots"] for row in record) == 0
  assert max(row["dead"] for row in record) == 0


def test_anchors_beside_a_table_of_another_kind(tmp_path):
  trained = train(
    tmp_path,
    item_embedding="low_rank",
    rank=3,
    num_anchors=2,
    max_anchors=2,
    growth_rounds=1,
    decay_epochs=1,
  )
  metrics = trained.result.metrics
  assert "num_anchors_items" not in metrics
  users = tables.load(tmp_path / "users.safetensors")
  assert users.num_anchors == metrics["num_anchors_users"]
  assert metrics["num_nonzeros"] == np.count_nonzero(users.weights)
  items = tables.load(tmp_path / "items.safetensors")
  assert items.anchors.shape == (3, 8)


# Options.


@pytest.mark.parametrize(
  ("options", "text"),
  [
    ({"l1": -0.5}, r"`l1` must be non-negative, got -0\.5\."),
    (
      {"l1": 0.1, "anchor_penalty": 0.01},
      r"`anchor_penalty` must be at least `l1`, .* got 0\.01 and 0\.1\.",
    ),
    (
      {"rule": "trend", "online_batches": 2},
      "`online_batches` needs `rule` 'marginal', .* got 'trend'",
    ),
  ],
)
def test_prices_are_checked_before_all_else(options, text, tmp_path):
  with pytest.raises(ValueError, match=text):
    recommending.check_config(tiny(**options))
  with pytest.raises(ValueError, match=text):
    make_run(tmp_path / "none", **options)
  assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
  ("options", "text"),
  [
    ({"rule": "largest"}, "`rule` must be one of 'marginal', 'trend', got 'la"),
    ({"embedding": "full"}, "`rule` chooses the number of 'anchors', got none"),
    ({"num_nonzeros": 2}, "`num_nonzeros` 0 and `max_nonzeros` 0, got 2 and 0"),
    ({"max_anchors": 3}, "`max_anchors` must be at least .* got 3 and 4"),
    ({"item_anchors": 9}, "`max_anchors` must be at least .* got 8 and 9"),
    ({"growth_rounds": 0}, "`growth_rounds` must be at least 1, got 0"),
    ({"relations": "genres", "start": "frequent"}, "must be empty, got 'genre"),
    (
      {"rule": "trend", "epochs": 3},
      "`decay_epochs` must be less than `epochs`, .* got 3 and 3",
    ),
    (
      {"max_nonzeros": 50, "prune_from": 1, "prune_epochs": 1},
      "`num_nonzeros` 0 and `max_nonzeros` 0, got 0 and 50",
    ),
  ],
)
def test_options_that_do_not_go_together(options, text, tmp_path):
  with pytest.raises(ValueError, match=text):
    make_run(tmp_path / "none", **options)
  assert not (tmp_path / "none").exists()


def test_the_binary_chooses_the_run():
  kinds = {
    recommending.Run: {"rule": ""},
    nonparametric.NonparametricRun: {},
    online.OnlineRun: {"online_batches": 2},
  }
  for kind, options in kinds.items():
    assert train_recommender.run_type(tiny(**options)) is kind
