"""Tests of the factorisation that repeats published training."""

import dataclasses
import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from anchor_codes import training
from experiments.benchmarks import published_training
from experiments.benchmarks.published_training import Setting
from experiments.datasets import ratings

SMALL = {"features": 4, "num_anchors": (2, 3), "batch_size": 16, "epochs": 3}
FULL = Setting(learning_rate=0.01, **SMALL)
FREE = Setting(learning_rate=0.01, l1=0.0, **SMALL)
SPARSE = Setting(learning_rate=0.01, l1=1e-3, **SMALL)
IMPROVED = Setting(learning_rate=0.01, l1=1e-3, improved=True, **SMALL)
SETTINGS = (FULL, FREE, SPARSE, IMPROVED)
NUM_USERS, NUM_ITEMS = 12, 9


@pytest.fixture(name="data", scope="module")
def fixture_data():
  rng = np.random.default_rng(0)
  users, items = rng.integers(NUM_USERS, size=200), rng.integers(9, size=200)
  return ratings.make_ratings(
    "toy",
    users=users,
    items=items,
    values=1 + (users + items) % 5,
    order=np.arange(200),
    user_names=[str(i) for i in range(NUM_USERS)],
    item_names=[str(i) for i in range(NUM_ITEMS)],
    source="ours",
  )


@functools.cache
def draw(setting, seed, num_users, num_items):
  # Compiled as one, which takes less time than the operations one by one.
  init = functools.partial(
    published_training.init_params,
    setting=setting,
    num_users=num_users,
    num_items=num_items,
    mean=3.5,
  )
  return jax.device_get(jax.jit(init)(jax.random.key(seed)))


def start(setting, *, seed=0, num_users=NUM_USERS, num_items=NUM_ITEMS):
  # Copies, because training takes over its buffers.
  return jax.tree.map(jnp.array, draw(setting, seed, num_users, num_items))


@functools.cache
def make_epoch(learning_rate, l1):
  setting = Setting(learning_rate=learning_rate, l1=l1, **SMALL)
  return published_training.make_epoch(setting)


def epoch_of(setting):
  """Returns the compiled epoch, shared by all tests of the same steps."""
  return make_epoch(setting.learning_rate, setting.l1)


def vectors(side):
  if "vectors" in side:
    return side["vectors"]
  return side["transform"] @ side["anchors"]


def errors_by_hand(params, data, rows):
  """Errors of the predictions, in NumPy and one rating at a time."""
  users, items = vectors(params["users"]), vectors(params["items"])
  return np.array(
    [
      users[data.users[row]] @ items[data.items[row]]
      + params["bias"]
      - data.values[row]
      for row in rows
    ]
  )


def gradients_by_hand(params, data, rows):
  """Gradient of the mean squared error, summed over the ratings."""
  gradients = {
    "bias": 0.0,
    "users": np.zeros_like(vectors(params["users"])),
    "items": np.zeros_like(vectors(params["items"])),
  }
  for row, error in zip(rows, errors_by_hand(params, data, rows), strict=True):
    user, item, slope = data.users[row], data.items[row], 2 * error / len(rows)
    gradients["bias"] += slope
    gradients["users"][user] += slope * vectors(params["items"])[item]
    gradients["items"][item] += slope * vectors(params["users"])[user]
  for side in ("users", "items"):
    table, gradient = params[side], gradients[side]
    gradients[side] = (
      {"vectors": gradient}
      if "vectors" in table
      else {
        "transform": gradient @ table["anchors"].T,
        "anchors": table["transform"].T @ gradient,
      }
    )
  return gradients


def train_by_hand(params, data, batches, *, rate, l1):
  """Steps of Yogi, and the threshold of the definition, in float64."""
  params = jax.tree.map(lambda p: np.asarray(p, np.float64), params)
  m = jax.tree.map(np.zeros_like, params)
  v = jax.tree.map(lambda p: np.full_like(p, 1e-6), params)
  for t, rows in enumerate(batches, 1):
    g = gradients_by_hand(params, data, rows)
    m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, g)
    v = jax.tree.map(lambda v, g: v - 0.001 * np.sign(v - g**2) * g**2, v, g)
    step = rate * math.sqrt(1 - 0.999**t) / (1 - 0.9**t)
    scale = jax.tree.map(lambda v, step=step: step / (np.sqrt(v) + 1e-3), v)
    params = jax.tree.map(lambda p, s, m: p - s * m, params, scale, m)
    for side in ("users", "items") if l1 else ():
      moved, s = params[side]["transform"], scale[side]["transform"]
      params[side]["transform"] = np.maximum(moved - l1 * s, 0)
  return params


def make_batches(data, rows, batch_size=16):
  return published_training.make_batches(data, rows, batch_size=batch_size)


# Batches.


@pytest.mark.parametrize(
  ("size", "num_batches"), [(1, 1), (15, 1), (16, 1), (17, 2), (32, 2)]
)
def test_batches_keep_the_order_and_pad_the_last(data, size, num_batches):
  rows = np.random.default_rng(1).permutation(200)[:size]
  batches = make_batches(data, rows)
  chex.assert_shape(batches, (num_batches, 16))
  kept = batches.weights.ravel() > 0
  np.testing.assert_array_equal(kept, np.arange(num_batches * 16) < size)
  np.testing.assert_array_equal(batches.users.ravel()[kept], data.users[rows])
  np.testing.assert_array_equal(batches.items.ravel()[kept], data.items[rows])
  np.testing.assert_array_equal(batches.values.ravel()[kept], data.values[rows])


def test_batches_have_the_types_of_the_ratings(data):
  batches = make_batches(data, np.arange(40))
  dtypes = [leaf.dtype for leaf in batches]
  assert dtypes == [np.int32, np.int32, np.float32, np.float32]


@pytest.mark.parametrize("setting", SETTINGS)
def test_error_of_a_batch_is_a_mean_without_padding(data, setting):
  params, rows = start(setting), np.arange(20)
  batches = make_batches(data, rows)
  batch_error = jax.jit(published_training.batch_error)
  expected = errors_by_hand(params, data, rows) ** 2
  for i, part in enumerate((slice(0, 16), slice(16, 20))):
    batch = jax.tree.map(lambda leaf, i=i: leaf[i], batches)
    error = batch_error(params, batch)
    np.testing.assert_allclose(error, expected[part].mean(), rtol=1e-5)


# The start.


@pytest.mark.parametrize("setting", [FULL, FREE, SPARSE])
def test_published_start_is_positive_with_a_bias_of_zero(setting):
  params = start(setting)
  assert params.pop("bias") == 0
  assert all((leaf > 0).all() for leaf in jax.tree.leaves(params))


def test_improved_start_has_random_signs_of_anchors_and_the_mean():
  params = start(dataclasses.replace(IMPROVED, features=200))
  assert params["bias"] == 3.5
  for side in ("users", "items"):
    assert (params[side]["transform"] > 0).all()
    assert 0.4 < (params[side]["anchors"] > 0).mean() < 0.6


def test_improved_start_differs_in_signs_alone():
  improved, published = start(IMPROVED), start(SPARSE)
  improved["bias"] = published["bias"]
  chex.assert_trees_all_equal(jax.tree.map(jnp.abs, improved), published)


def test_start_has_the_scale_of_the_number_of_rows():
  setting = dataclasses.replace(SPARSE, num_anchors=(50, 40), features=50)
  params = start(setting, num_users=500, num_items=30)
  for leaf in jax.tree.leaves([params["users"], params["items"]]):
    square = np.mean(np.square(leaf))
    assert square == pytest.approx(2 / leaf.shape[0], rel=0.15)


def test_start_has_the_shapes_of_the_setting():
  shapes = jax.tree.map(jnp.shape, start(SPARSE))
  assert shapes == {
    "bias": (),
    "users": {"transform": (NUM_USERS, 2), "anchors": (2, 4)},
    "items": {"transform": (NUM_ITEMS, 3), "anchors": (3, 4)},
  }
  shapes = jax.tree.map(jnp.shape, start(FULL))
  assert shapes["users"] == {"vectors": (NUM_USERS, 4)}
  assert shapes["items"] == {"vectors": (NUM_ITEMS, 4)}


def test_users_items_and_seeds_start_differently():
  sizes = {"num_users": 10, "num_items": 10}
  first, second = start(FULL, **sizes), start(FULL, seed=1, **sizes)
  starts = [first["users"], first["items"], second["users"], second["items"]]
  drawn = {float(side["vectors"][0, 0]) for side in starts}
  assert len(drawn) == 4


# The optimiser.


def run(transformation, params, gradients):
  state = transformation.init(params)
  for gradient in gradients:
    updates, state = transformation.update(gradient, state, params)
    params = optax.apply_updates(params, updates)
  return params


def test_yogi_is_the_proximal_one_without_its_projection():
  # Far from zero, where there is nothing to project.
  gradients = [jnp.array([0.01, -0.2]), jnp.array([-0.3, 0.0])] * 3
  params = jnp.array([5.0, 7.0])
  proximal = run(training.proximal_yogi(0.01, l1=0.0), params, gradients)
  free = run(published_training.yogi(0.01), params, gradients)
  np.testing.assert_allclose(free, proximal, rtol=1e-6)
  assert (free != params).all()


def test_yogi_golden_vector():
  # By hand from the definition, in float64; the other options as published.
  gradients = jnp.array(
    [
      [0.01, -0.002, 0.0005, 0.0],
      [-0.02, 0.001, -0.0005, 0.0],
      [0.003, -0.004, 0.0, 0.0],
      [0.0, 0.0, 0.0, 0.0],
    ]
  )
  params = run(
    published_training.yogi(0.01),
    jnp.array([0.05, 0.002, 0.0001, 0.03]),
    gradients,
  )
  expected = [0.05075764, 0.00327296, 3.509e-5, 0.03]
  np.testing.assert_allclose(params, expected, rtol=0, atol=1e-7)


def test_yogi_passes_zero():
  gradients = [jnp.array([1.0])] * 5
  params = run(published_training.yogi(0.1), jnp.array([0.01]), gradients)
  assert params[0] < 0


@pytest.mark.parametrize("setting", SETTINGS)
def test_only_a_penalty_makes_the_optimizer_project(setting):
  params = jax.tree.map(lambda p: -jnp.abs(p) - 1, start(setting))
  optimizer = published_training.make_optimizer(setting)
  zeros = jax.tree.map(jnp.zeros_like, params)
  state = optimizer.init(params)
  updates, _ = jax.jit(optimizer.update)(zeros, state, params)
  moved = optax.apply_updates(params, updates)
  for side in ("users", "items"):
    transform = moved[side].pop("transform", None)
    before = params[side].pop("transform", None)
    if transform is not None:
      expected = jnp.zeros_like(before) if setting.l1 else before
      np.testing.assert_array_equal(transform, expected)
  chex.assert_trees_all_equal(moved, params)


# Training.


@pytest.mark.parametrize("setting", SETTINGS)
def test_an_epoch_agrees_with_numpy(data, setting):
  params, rows, valid = start(setting), np.arange(180), np.arange(180, 200)
  optimizer = published_training.make_optimizer(setting)
  expected = train_by_hand(
    params,
    data,
    np.split(rows, range(16, 180, 16)),
    rate=setting.learning_rate,
    l1=setting.l1,
  )
  (params, _), course = epoch_of(setting)(
    (params, optimizer.init(params)),
    make_batches(data, rows),
    make_batches(data, valid),
  )
  chex.assert_trees_all_close(
    jax.tree.map(np.float64, params), expected, rtol=1e-4, atol=1e-5
  )
  errors = errors_by_hand(expected, data, valid) ** 2
  # The last batch counts as much as the others, as in the published code.
  means = [errors[:16].mean(), errors[16:].mean()]
  np.testing.assert_allclose(course.valid_mse, np.mean(means), rtol=1e-4)


def test_train_error_is_that_before_the_steps(data):
  setting = dataclasses.replace(FULL, learning_rate=0.0)
  params, rows = start(setting), np.arange(64)
  optimizer = published_training.make_optimizer(setting)
  expected = np.mean(errors_by_hand(params, data, rows) ** 2)
  batches = make_batches(data, rows)
  _, course = published_training.make_epoch(setting)(
    (params, optimizer.init(params)), batches, batches
  )
  np.testing.assert_allclose(course.train_mse, expected, rtol=1e-5)
  np.testing.assert_allclose(course.valid_mse, expected, rtol=1e-5)


def test_epochs_and_seeds_share_one_trace_and_give_up_buffers(
  data, monkeypatch
):
  traced = []
  batch_error = published_training.batch_error

  def count(*args):
    traced.append(None)
    return batch_error(*args)

  monkeypatch.setattr(published_training, "batch_error", count)
  optimizer = published_training.make_optimizer(SPARSE)
  epoch = published_training.make_epoch(SPARSE)
  batches = make_batches(data, np.arange(64))
  counts = set()
  for seed in range(2):
    params = start(SPARSE, seed=seed)
    state = (params, optimizer.init(params))
    for _ in range(2):
      old, (state, _) = state, epoch(state, batches, batches)
      assert all(leaf.is_deleted() for leaf in jax.tree.leaves(old[0]))
      counts.add(len(traced))
  assert len(counts) == 1


@pytest.mark.parametrize("setting", SETTINGS)
def test_training_learns_and_can_be_repeated(data, setting):
  setting = dataclasses.replace(setting, epochs=30)
  epoch = epoch_of(setting)
  first, second = (
    published_training.train(data, setting, seed=3, epoch=epoch)
    for _ in range(2)
  )
  chex.assert_trees_all_equal(first.params, second.params)
  chex.assert_shape(first.course, (30,))
  assert first.course.train_mse[-1] < first.course.train_mse[0]
  assert first.seconds_per_epoch <= first.seconds


def test_seeds_differ_and_the_split_does_not(data, monkeypatch):
  splits = []
  split = ratings.split_ratings

  def remember(*args, **options):
    splits.append(split(*args, **options))
    return splits[-1]

  monkeypatch.setattr(ratings, "split_ratings", remember)
  runs = [
    published_training.train(data, FULL, seed=seed, epoch=epoch_of(FULL))
    for seed in (0, 1)
  ]
  assert (runs[0].course.valid_mse != runs[1].course.valid_mse).all()
  chex.assert_trees_all_equal(*splits)
  order = np.random.RandomState(1446557).permutation(200)
  np.testing.assert_array_equal(splits[0].train, order[:180])
  np.testing.assert_array_equal(splits[0].valid, order[180:])


def test_the_bias_starts_at_the_mean_of_the_training_ratings(data):
  setting = dataclasses.replace(IMPROVED, epochs=1, learning_rate=0.0, l1=0.0)
  params = published_training.train(data, setting, seed=0).params
  train = ratings.split_ratings(data, kind="published").train
  assert params["bias"] == pytest.approx(data.values[train].mean(), rel=1e-6)


def test_a_large_penalty_leaves_the_anchors_alone(data):
  setting = dataclasses.replace(SPARSE, l1=1e3)
  run = published_training.train(data, setting, seed=0)
  assert not run.params["users"]["transform"].any()
  assert not run.params["items"]["transform"].any()
  np.testing.assert_array_equal(run.course.num_params, [(2 + 3) * 4] * 3)


@pytest.mark.parametrize(
  ("setting", "full"),
  [
    (FULL, (NUM_USERS + NUM_ITEMS) * 4),
    (SPARSE, NUM_USERS * 2 + NUM_ITEMS * 3 + 20),
  ],
)
def test_parameters_are_nonzeros_and_the_shared_part(setting, full):
  params = start(setting)
  assert int(published_training.num_params(params)) == full
  name = next(iter(params["users"]))
  params["users"][name] = params["users"][name].at[0, 0].set(0)
  expected = full - 1 if name == "transform" else full
  assert int(published_training.num_params(params)) == expected


@pytest.mark.parametrize("setting", SETTINGS)
def test_tables_are_what_was_learned(setting):
  params = start(setting)
  stored = published_training.to_tables(jax.device_get(params))
  for side, table in zip(("users", "items"), stored, strict=True):
    expected = vectors(params[side])
    np.testing.assert_allclose(table.to_dense(), expected, rtol=1e-5, atol=1e-6)
  expected = sum(table.num_params for table in stored)
  assert int(published_training.num_params(params)) == expected


def test_training_bytes_are_parameters_gradient_and_two_moments(data):
  run = published_training.train(data, FULL, seed=0, epoch=epoch_of(FULL))
  matrices = 4 * (NUM_USERS + NUM_ITEMS) * FULL.features
  assert 4 * matrices <= run.training_bytes <= 4 * matrices + 100
