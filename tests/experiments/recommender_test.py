"""Tests of matrix factorisation: the model, and its compiled steps."""

import dataclasses
import doctest
import itertools

import chex
import jax
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st
from jax import numpy as jnp

from anchor_codes.steps import TrainState
from experiments import (
  optimizers,
  recommender_options,
  recommender_trainer,
)
from experiments.models import recommender
from experiments.recommender_options import RecommenderConfig

NUM_USERS, NUM_ITEMS = 13, 9
SIZES = {"users": NUM_USERS, "items": NUM_ITEMS}
MEAN = 3.5


@pytest.fixture(autouse=True, scope="module")
def _usual_promotion():
  # The binaries run without the strict settings of the unit tests.
  with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
    yield


def make_config(**options):
  config = RecommenderConfig(
    features=4,
    num_anchors=6,
    code_length=2,
    codebook_size=4,
    rank=2,
    num_buckets=5,
    batch_size=8,
    start_scale=0.5,
    lazy_from=0.0,
  )
  return dataclasses.replace(config, **options)


def make_trainer(phase=None, **options):
  phase = phase or recommender_trainer.Phase()
  config = make_config(**options)
  return recommender_trainer.Trainer(config, SIZES, MEAN, phase)


def make_ratings(size, *, seed=0):
  rng = np.random.default_rng(seed)
  return (
    rng.integers(NUM_USERS, size=size, dtype=np.int32),
    rng.integers(NUM_ITEMS, size=size, dtype=np.int32),
    rng.uniform(1, 5, size=size).astype(np.float32),
  )


def all_pairs(*, seed=0):
  """A rating of each user for each item, in a random order."""
  users, items = np.divmod(
    np.random.default_rng(seed).permutation(NUM_USERS * NUM_ITEMS), NUM_ITEMS
  )
  values = 1 + (users * items) % 5
  return users.astype(np.int32), items.astype(np.int32), values.astype("f4")


def with_biases(model):
  """Moves the biases away from zero, where they start."""
  rng = np.random.default_rng(7)
  for name in ("user_bias", "item_bias"):
    table = getattr(model, name).embedding
    table[...] = jnp.asarray(rng.normal(size=table[...].shape), jnp.float32)
  return model


def make_model(**options):
  return with_biases(make_trainer(**options).make_model())


def steps(trainer, batches, state=None):
  """Takes some steps; returns the states after each and the last metrics."""
  step = jax.jit(trainer.step)
  state = trainer.init() if state is None else state
  states = []
  for batch in batches:
    chunk = trainer.prepare(state, tuple(jnp.asarray(a)[None] for a in batch))
    state, metrics = step(state, tuple(a[0] for a in chunk))
    states.append((state, metrics))
  return states


def predict_by_hand(vectors, users, items):
  u, i, bu, bi, mean = map(np.asarray, vectors)
  return np.array(
    [
      mean + bu[user] + bi[item] + sum(u[user] * i[item])
      for user, item in zip(users, items, strict=True)
    ]
  )


class FactorizationTest(parameterized.TestCase):
  @parameterized.parameters("full", "dpq")
  def test_predicts_by_the_formula(self, kind):
    model = make_model(embedding=kind)
    model.eval()
    users, items, _ = make_ratings(20)
    vectors = model.vectors()
    chex.assert_shape(vectors.users, (NUM_USERS, 4))
    chex.assert_shape(vectors.item_bias, (NUM_ITEMS,))
    np.testing.assert_allclose(vectors.users[users], model.users(users))
    expected = predict_by_hand(vectors, users, items)
    predicted = vectors.predict(users, items)
    np.testing.assert_allclose(predicted, expected, rtol=1e-5)

  def test_starts_with_biases_of_zero_and_the_mean(self):
    vectors = make_trainer().make_model().vectors()
    self.assertEqual(vectors.mean, MEAN)
    self.assertFalse(jnp.any(vectors.user_bias) | jnp.any(vectors.item_bias))
    self.assertFalse(np.allclose(vectors.users[:9], vectors.items))

  def test_the_mean_is_no_parameter(self):
    self.assertNotIn("mean", nnx.state(make_trainer().make_model(), nnx.Param))

  @parameterized.parameters("full", "anchors")
  def test_loss_is_the_error_and_the_norms_of_what_was_rated(self, kind):
    model = make_model(embedding=kind)
    users, items, values = make_ratings(20)
    u, i, bu, bi, _ = map(np.asarray, model.vectors())
    error = predict_by_hand(model.vectors(), users, items) - values
    norms = np.mean(
      [
        np.sum(u[user] ** 2) + np.sum(i[item] ** 2) + bu[user] ** 2
        + bi[item] ** 2
        for user, item in zip(users, items, strict=True)
      ]
    )  # fmt: skip
    positions = {"users": users, "user_bias": users}
    positions |= {"items": items, "item_bias": items}
    for l2 in (0.0, 0.3):
      loss, mse = model.loss(positions, values, l2=l2)
      np.testing.assert_allclose(mse, np.mean(error**2), rtol=1e-5)
      np.testing.assert_allclose(loss, mse + l2 * norms, rtol=1e-5)

  def test_codebooks_have_a_loss_of_their_own(self):
    model = make_model(embedding="dpq", relaxation="nearest")
    users, items, values = make_ratings(20)
    positions = {"users": users, "user_bias": users}
    positions |= {"items": items, "item_bias": items}
    loss, mse = model.loss(positions, values, l2=0.0)
    expected = model.users.auxiliary_loss(users)
    expected += model.items.auxiliary_loss(items)
    self.assertGreater(expected, 0)
    np.testing.assert_allclose(loss - mse, expected, rtol=1e-4)

  def test_errors_are_squared(self):
    vectors = make_model().vectors()
    ratings = make_ratings(20)
    errors = recommender.squared_errors(vectors, *ratings)
    expected = (predict_by_hand(vectors, *ratings[:2]) - ratings[2]) ** 2
    np.testing.assert_allclose(errors, expected, rtol=1e-4)
    mean = recommender.mean_squared_error(vectors, *ratings)
    np.testing.assert_allclose(mean, expected.mean(), rtol=1e-5)


class FillUnseenTest(parameterized.TestCase):
  @given(st.lists(st.booleans(), min_size=5, max_size=5), st.booleans())
  def test_gives_the_mean_of_the_others(self, unseen, is_bias):
    unseen = np.array(unseen)
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(5,) if is_bias else (5, 3)).astype(np.float32)
    filled = recommender.fill_unseen(jnp.asarray(rows), jnp.asarray(unseen))
    np.testing.assert_array_equal(filled[~unseen], rows[~unseen])
    mean = np.zeros(rows.shape[1:]) if unseen.all() else rows[~unseen].mean(0)
    expected = np.broadcast_to(mean, rows[unseen].shape)
    np.testing.assert_allclose(filled[unseen], expected, atol=1e-6)

  def test_what_is_unseen_has_no_influence(self):
    rows = jnp.array([[1.0, 2.0], [jnp.nan, jnp.inf]])
    filled = recommender.fill_unseen(rows, jnp.array([False, True]))
    np.testing.assert_array_equal(filled, [[1, 2], [1, 2]])

  def test_each_table_has_its_own(self):
    trainer = make_trainer()
    state = trainer.state_of(make_model())
    unseen = {name: np.zeros(size, bool) for name, size in SIZES.items()}
    unseen["users"][[0, 4]] = unseen["items"][2] = True
    found, plain = trainer.vectors(state, unseen), trainer.vectors(state)
    for name in recommender.TABLES:
      mask = unseen["users" if name.startswith("user") else "items"]
      rows, filled = (np.asarray(getattr(v, name)) for v in (plain, found))
      np.testing.assert_array_equal(filled[~mask], rows[~mask])
      expected = np.broadcast_to(rows[~mask].mean(0), filled[mask].shape)
      np.testing.assert_allclose(filled[mask], expected, rtol=1e-5)


class TrainerTest(parameterized.TestCase):
  @parameterized.parameters("full", "anchors")
  def test_a_step_by_row_is_a_step_of_the_whole(self, kind):
    # Of the first step all is equal; later the moments of the biases move
    # those that no batch holds.
    options = {"embedding": kind, "row_optimizer": "sgd", "l2": 0.1}
    batch = make_ratings(8)
    by_row, whole = (
      steps(make_trainer(**options, lazy_from=lazy_from), [batch])[0]
      for lazy_from in (0.0, 1e9)
    )
    chex.assert_trees_all_close(by_row[0].rows, whole[0].rows, atol=1e-6)
    chex.assert_trees_all_close(by_row[0].params, whole[0].params, atol=1e-6)
    chex.assert_trees_all_close(by_row[1], whole[1], rtol=1e-6)

  @parameterized.parameters(("full", "adam"), ("anchors", "sgd"))
  def test_batches_of_all_symbols_take_the_same_steps(self, kind, optimizer):
    options = {"embedding": kind, "row_optimizer": optimizer}
    options |= {"batch_size": NUM_USERS * NUM_ITEMS}
    batches = [all_pairs(seed=seed) for seed in range(4)]
    by_row, whole = (
      steps(make_trainer(**options, lazy_from=lazy_from), batches)
      for lazy_from in (0.0, 1e9)
    )
    chex.assert_trees_all_close(by_row[-1][0], whole[-1][0], atol=1e-4)
    losses = [float(metrics["loss"]) for _, metrics in by_row]
    self.assertTrue(all(a > b for a, b in itertools.pairwise(losses)))

  def test_a_step_by_row_leaves_other_rows_alone(self):
    trainer = make_trainer()
    start = trainer.vectors(trainer.init())
    users, items, values = make_ratings(4)
    (state, _), *_ = steps(trainer, [(users, items, values)])
    end = trainer.vectors(state)
    for name in recommender.TABLES:
      ids = users if name.startswith("user") else items
      moved = getattr(start, name) != getattr(end, name)
      moved = np.asarray(moved).reshape(len(moved), -1).any(axis=1)
      self.assertEqual(set(np.flatnonzero(moved)), set(ids.tolist()))

  def test_the_metric_is_the_error_before_the_step(self):
    trainer, batch = make_trainer(l2=10.0), make_ratings(20)
    vectors = trainer.vectors(trainer.init())
    (_, metrics), *_ = steps(trainer, [batch])
    expected = recommender.mean_squared_error(vectors, *batch)
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-5)

  def test_seeds_start_apart(self):
    first, again, other = (
      make_trainer(seed=seed).make_model().vectors().users for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    self.assertFalse(np.allclose(first, other))

  def test_sharing_exchanges_ids(self):
    batch = make_ratings(8)
    never, always = (
      float(
        steps(make_trainer(sharing="se", sharing_rate=rate), [batch])[0][1][
          "loss"
        ]
      )
      for rate in (0.0, 1.0)
    )
    trainer = make_trainer()
    vectors = trainer.vectors(trainer.init())
    expected = recommender.mean_squared_error(vectors, *batch)
    self.assertAlmostEqual(never, float(expected), places=4)
    self.assertNotAlmostEqual(always, float(expected), places=4)

  def test_zeros_stay_in_the_phase_for_it(self):
    trainer = make_trainer(embedding="anchors", weight_scale=1.0)
    state = trainer.init()
    model = trainer.model_of(state)
    model.users.transform[...] = model.users.transform[...].at[:, :3].set(0)
    state = trainer.replace_model(state, model)
    batches = [all_pairs(seed=seed) for seed in range(3)]
    ended = {}
    for keep_zeros in (False, True):
      phase = recommender_trainer.Phase(keep_zeros=keep_zeros)
      found = steps(trainer.in_phase(phase), batches, state)[-1][0]
      chex.assert_trees_all_equal_structs(found, state)
      ended[keep_zeros] = trainer.model_of(found).users.transform[...]
    self.assertTrue(ended[False][:, :3].any())
    self.assertFalse(ended[True][:, :3].any())
    self.assertTrue(ended[True][:, 3:].any())
    self.assertFalse(trainer.phase.keep_zeros)

  def test_the_rate_of_a_phase_falls_to_zero(self):
    phase = recommender_trainer.Phase(decay_from=1, decay_steps=2)
    states = steps(make_trainer(phase), [make_ratings(20)] * 4)
    rows = [np.asarray(jax.tree.leaves(state.rows)[0]) for state, _ in states]
    change = [np.abs(b - a).max() for a, b in itertools.pairwise(rows)]
    # The steps 1, 2 and 3, counted from 0, at a rate of 1, 1/2 and 0.
    self.assertGreater(change[0], 1.5 * change[1])
    self.assertEqual(change[2], 0)

  def test_one_trace_for_all_batches(self):
    trainer = make_trainer(embedding="anchors")
    step = jax.jit(chex.assert_max_traces(trainer.step, n=1))
    state = trainer.init()
    for seed in range(3):
      state, _ = step(state, make_ratings(8, seed=seed))
    self.assertEqual(state.step, 3)


class ImportanceTest(parameterized.TestCase):
  def test_importances_are_those_of_taking_anchors_out(self):
    trainer = make_trainer(embedding="anchors", weight_scale=1.0)
    state = trainer.state_of(make_model(embedding="anchors", weight_scale=1.0))
    ratings = tuple(map(jnp.asarray, all_pairs()))
    error = lambda state: recommender.mean_squared_error(
      trainer.vectors(state), *ratings
    )
    numbers = {"users": 6, "items": 4}
    found = trainer.importances(state, ratings, numbers)
    self.assertEqual(list(found), ["users", "items"])
    for name, number in numbers.items():
      expected = []
      for k in range(number):
        model = trainer.model_of(state)
        weights = getattr(model, name).transform
        weights[...] = weights[...].at[:, k].set(0)
        without = trainer.replace_model(state, model)
        expected.append(error(without) - error(state))
      np.testing.assert_allclose(found[name], expected, atol=2e-5)
      self.assertGreater(np.abs(found[name]).max(), 1e-3)

  def test_an_anchor_without_weights_has_none(self):
    trainer = make_trainer(embedding="anchors")
    model = make_model(embedding="anchors")
    model.users.transform[...] = model.users.transform[...].at[:, 2].set(0)
    state = trainer.state_of(model)
    ratings = tuple(map(jnp.asarray, all_pairs()))
    found = trainer.importances(state, ratings, {"users": 6})
    self.assertAlmostEqual(found["users"][2], 0, places=5)

  @parameterized.parameters(("adam", 0.0), ("yogi", 1e9))
  def test_saliencies_are_those_of_the_definition(self, optimizer, lazy_from):
    options = {"embedding": "anchors", "row_optimizer": optimizer}
    trainer = make_trainer(**options, lazy_from=lazy_from, weight_scale=1.0)
    batches = [make_ratings(8, seed=seed) for seed in range(3)]
    state = steps(trainer, batches)[-1][0]
    counts = {
      name: np.arange(size) % 3 for name, size in reversed(SIZES.items())
    }
    found = trainer.saliencies(state, counts)
    self.assertEqual(list(found), ["items", "users"])
    for name, count in counts.items():
      weights = getattr(trainer.model_of(state), name).transform[...]
      (nu,) = [
        leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(
          state.row_states[name]
        )
        if any(getattr(key, "name", "") == "nu" for key in path)
      ]
      touched = 1 - (1 - count / count.sum()) ** 8
      if lazy_from:
        touched = np.ones(len(count))
      expected = touched[:, None] * nu * weights**2 / 2
      np.testing.assert_allclose(found[name], expected, rtol=1e-4, atol=1e-12)
      # In a lazy table what never occurs costs nothing.
      costs = np.asarray(found[name])[count == 0].any()
      self.assertEqual(bool(costs), bool(lazy_from))

  def test_saliencies_rank_weights_by_what_they_cost(self):
    trainer = make_trainer(embedding="anchors", weight_scale=1.0, l2=0.0)
    batches = [all_pairs(seed=seed) for seed in range(60)]
    state = steps(trainer, batches)[-1][0]
    counts = {name: np.ones(size) for name, size in SIZES.items()}
    users = np.asarray(trainer.saliencies(state, counts)["users"])
    ratings = tuple(map(jnp.asarray, all_pairs()))
    errors = []
    for kept in (users > np.median(users), users <= np.median(users)):
      model = trainer.model_of(state)
      weights = model.users.transform
      weights[...] = jnp.where(kept, weights[...], 0)
      vectors = trainer.vectors(trainer.replace_model(state, model))
      errors.append(recommender.mean_squared_error(vectors, *ratings))
    self.assertLess(*errors)


class OptionsTest(parameterized.TestCase):
  def test_items_are_like_users_by_default(self):
    config = make_config(embedding="anchors")
    options = recommender_options.table_options(config)
    self.assertEqual(list(options), ["users", "items"])
    self.assertEqual(options["items"], config)

  def test_items_may_differ(self):
    config = make_config(
      embedding="anchors", item_embedding="low_rank", item_anchors=3
    )
    options = recommender_options.table_options(config)
    self.assertEqual(options["users"].embedding, "anchors")
    self.assertEqual(options["users"].num_anchors, 6)
    self.assertEqual(options["items"].embedding, "low_rank")
    self.assertEqual(options["items"].num_anchors, 3)
    self.assertEqual(options["items"].rank, config.rank)

  def test_the_model_has_the_embeddings_of_the_options(self):
    model = make_trainer(embedding="anchors", item_anchors=3).make_model()
    self.assertEqual(model.users.anchors[...].shape, (6, 4))
    self.assertEqual(model.items.anchors[...].shape, (3, 4))
    trainer = make_trainer(embedding="anchors", item_embedding="hash")
    trainer.init()
    self.assertEqual(trainer.tables, ("users", "user_bias", "item_bias"))

  def test_rate_is_constant_and_falls_linearly(self):
    schedule = optimizers.linear_decay(0.1, 10, 4)
    steps = [0, 10, 11, 12, 13, 14, 100]
    rates = [float(schedule(jnp.int32(step))) for step in steps]
    expected = [0.1, 0.1, 0.075, 0.05, 0.025, 0, 0]
    np.testing.assert_allclose(rates, expected, rtol=1e-5, atol=1e-8)

  def test_rate_without_decay_is_constant(self):
    schedule = optimizers.linear_decay(0.1, 10, 0)
    rates = [schedule(jnp.int32(step)) for step in (0, 10, 1000)]
    np.testing.assert_allclose(rates, 0.1, rtol=1e-6)

  def test_state_has_the_form_of_all_runs(self):
    state = make_trainer().init()
    self.assertIsInstance(state, TrainState)
    self.assertEqual(set(state.row_states), set(recommender.TABLES))


@pytest.mark.parametrize("module", [recommender, recommender_trainer])
def test_examples(module):
  flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
  assert doctest.testmod(module, optionflags=flags).failed == 0


if __name__ == "__main__":
  absltest.main()
