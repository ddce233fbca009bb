"""Tests of training by row, for models with any number of tables."""

import jax
import numpy as np
import optax
import pytest
from absl.testing import absltest, parameterized
from flax import nnx
from jax import numpy as jnp

from anchor_codes import accounting, steps, training
from experiments import embeddings, optimizers, row_trainer

NUM_USERS, NUM_ITEMS = 40, 30
SMALL = {
  "features": 8,
  "num_anchors": 6,
  "num_nonzeros": 3,
  "code_length": 4,
  "codebook_size": 4,
  "rank": 4,
  "num_buckets": 9,
}


@pytest.fixture(autouse=True, scope="module")
def _usual_promotion():
  # Adam of optax is not written for the strict settings of the unit tests.
  with jax.numpy_dtype_promotion("standard"):
    yield


class Factorization(nnx.Module):
  """Two embeddings, each of a kind of its own, and a bias."""

  def __init__(self, users, items):
    self.users = users
    self.items = items
    self.bias = nnx.Param(jnp.zeros(()))

  def __call__(self, users, items):
    products = self.users(users) * self.items(items)
    return products.sum(axis=-1) + self.bias[...]


class Trainer(row_trainer.RowTrainer):
  """Squared errors of ratings."""

  def __init__(
    self,
    users="full",
    items="full",
    *,
    rows=("users", "items"),
    clip=None,
    factor=1.0,
    **options,
  ):
    self.options = {
      name: embeddings.EmbeddingOptions(embedding=kind, **SMALL, **options)
      for name, kind in (("users", users), ("items", items))
    }
    rate = lambda step: jnp.float32(0.1)
    super().__init__(
      optimizer=optimizers.model_optimizer(
        "sgd", rate, factors={"users": factor, "items": factor}
      ),
      row_optimizers={
        name: embeddings.row_optimizer(self.options[name], rate)
        for name in rows
      },
      ids_per_step={"users": 8, "items": 8},
      clip=clip,
    )

  def make_model(self):
    rngs = nnx.Rngs(0)
    make = lambda name, size: embeddings.make_embedding(
      size, self.options[name], scale=0.5, rngs=rngs
    )
    return Factorization(make("users", NUM_USERS), make("items", NUM_ITEMS))

  def select(self, model, batch, state, key):
    users, items, ratings = batch
    user_ids, users = self.take(model, "users", users)
    item_ids, items = self.take(model, "items", items)

    def loss(model):
      error = jnp.mean((model(users, items) - ratings) ** 2)
      noise = jax.random.uniform(key)
      return error, ({"loss": error, "noise": noise}, state.carry)

    return steps.Selection(user_ids | item_ids, model, loss)


def make_batches(number=3, size=8):
  rng = np.random.default_rng(0)
  return (
    rng.integers(NUM_USERS, size=(number, size), dtype=np.int32),
    rng.integers(NUM_ITEMS, size=(number, size), dtype=np.int32),
    rng.normal(size=(number, size)).astype(np.float32),
  )


def run(trainer, batches, devices=1):
  mesh = training.data_mesh(jax.devices()[:devices])
  chunk = training.compile_chunk(
    trainer.step, mesh, state_specs=steps.STATE_SPECS
  )
  return chunk(trainer.init(), batches)


class RowTrainerTest(parameterized.TestCase):
  @parameterized.parameters(("row_adagrad", None), ("sgd", 0.01))
  def test_agrees_with_training_of_the_whole_model(self, row_optimizer, clip):
    options = {"row_optimizer": row_optimizer, "clip": clip}
    batches = make_batches()
    state, metrics = run(Trainer(**options), batches)
    trainer = Trainer(**options)
    model, losses = trainer.make_model(), []
    optimizer = optax.partition(
      {
        "rows": trainer.row_optimizers["users"],
        "bias": optax.sgd(0.1),
      },
      lambda params: jax.tree_util.tree_map_with_path(
        lambda path, _: "bias" if path[0].key == "bias" else "rows", params
      ),
    )
    if clip:
      optimizer = optax.chain(optax.clip_by_global_norm(clip), optimizer)
    graphdef, params = nnx.split(model)
    opt_state = optimizer.init(params)
    for users, items, ratings in zip(*batches, strict=True):
      loss = lambda params: jnp.mean(
        (nnx.merge(graphdef, params)(users, items) - ratings) ** 2  # noqa: B023
      )
      value, grads = jax.value_and_grad(loss)(params)
      updates, opt_state = optimizer.update(grads, opt_state, params)
      params = optax.apply_updates(params, updates)
      losses.append(value)
    np.testing.assert_allclose(metrics["loss"], losses, rtol=1e-5)
    trained = Trainer(**options)
    trained.init()
    for ours, theirs in zip(
      jax.tree.leaves(nnx.state(trained.model_of(state))),
      jax.tree.leaves(params),
      strict=True,
    ):
      np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)

  @parameterized.parameters(("kd", "hash"), ("low_rank", "anchors"))
  def test_any_two_kinds_train_side_by_side(self, kind, other):
    trainer = Trainer(kind, other, row_optimizer="adam")
    batch = tuple(part[:1].repeat(30, 0) for part in make_batches())
    _, metrics = run(trainer, batch)
    self.assertLess(metrics["loss"][-1], metrics["loss"][0])
    rows = {"users": kind, "items": other}
    self.assertEqual(
      trainer.tables,
      tuple(name for name in rows if rows[name] not in ("hash", "qr")),
    )

  def test_rows_that_no_batch_has_stay_as_they_are(self):
    trainer = Trainer("anchors", "full", row_optimizer="adam")
    users, items, ratings = make_batches()
    before = trainer.make_model()
    state, _ = run(trainer, (users, items, ratings))
    after = trainer.model_of(state)
    unused = np.setdiff1d(np.arange(NUM_ITEMS), items)
    self.assertNotEmpty(unused)
    old, new = before.items.embedding[...], after.items.embedding[...]
    np.testing.assert_array_equal(old[unused], new[unused])
    self.assertTrue(np.all(np.any(old != new, axis=1)[np.unique(items)]))
    unused = np.setdiff1d(np.arange(NUM_USERS), users)
    np.testing.assert_array_equal(
      before.users.weights[...][unused], after.users.weights[...][unused]
    )

  def test_one_and_four_devices_train_alike(self):
    curves = [
      run(Trainer("anchors", "dpq"), make_batches(), devices)[1]["loss"]
      for devices in (1, 4)
    ]
    np.testing.assert_allclose(*curves, rtol=1e-5)

  def test_each_step_has_randomness_of_its_own(self):
    _, metrics = run(Trainer(), make_batches())
    self.assertLen(set(metrics["noise"].tolist()), 3)

  def test_layers_without_rows_belong_to_the_model(self):
    trainer = Trainer("hash", "qr")
    state = trainer.init()
    self.assertEqual(trainer.tables, ())
    self.assertEmpty(jax.tree.leaves(state.rows))
    self.assertEqual(set(state.params), {"users", "items", "bias"})
    ids = jnp.arange(3)
    taken, positions = trainer.take(trainer.make_model(), "users", ids)
    self.assertEmpty(taken)
    np.testing.assert_array_equal(positions, ids)

  def test_only_named_embeddings_are_trained_by_row(self):
    trainer = Trainer(rows=("items",))
    state = trainer.init()
    self.assertEqual(trainer.tables, ("items",))
    self.assertEqual(set(state.params), {"users", "bias"})
    state, metrics = run(trainer, make_batches())
    self.assertTrue(np.isfinite(metrics["loss"]).all())

  def test_take_gives_the_rows_of_the_batch(self):
    trainer = Trainer()
    trainer.init()
    model, whole = trainer.make_model(), trainer.make_model()
    ids = jnp.array([[7, 3], [7, 5]])
    taken, positions = trainer.take(model, "users", ids)
    np.testing.assert_array_equal(taken["users"], [3, 5, 7, NUM_USERS])
    np.testing.assert_array_equal(model.users(positions), whole.users(ids))

  def test_models_come_back_from_states(self):
    trainer = Trainer("anchors", "kd")
    state = trainer.init()
    model = trainer.model_of(state)
    model.bias[...] = jnp.float32(3.0)
    model.users.weights[...] = jnp.zeros_like(model.users.weights[...])
    changed = trainer.replace_model(state, model)
    again = trainer.model_of(changed)
    self.assertEqual(again.bias[...], 3)
    self.assertEqual(jnp.sum(again.users.weights[...]), 0)
    # The state before is as it was.
    self.assertEqual(trainer.model_of(state).bias[...], 0)
    self.assertEqual(changed.step, state.step)

  def test_training_bytes_are_the_sum_over_tables(self):
    table = lambda rows: 4 * rows * SMALL["features"]
    whole, batch = table(NUM_USERS) + table(NUM_ITEMS), 2 * table(8)
    bytes_of = lambda trainer: trainer.embedding_training_bytes(trainer.init())
    counters = bytes_of(Trainer()) - whole - batch
    # What is left are the counters of the schedules.
    self.assertBetween(counters, 0, 32)
    adam = bytes_of(Trainer(row_optimizer="adam"))
    self.assertBetween(adam - 3 * whole - batch, 0, 64)

  def test_training_bytes_of_shared_parts_have_their_gradient(self):
    trainer = Trainer("hash", "hash")
    state = trainer.init()
    params = accounting.tree_bytes(state.params["users"], state.params["items"])
    total = trainer.embedding_training_bytes(state)
    self.assertBetween(total - 2 * params, 0, 32)

  def test_parts_of_a_model_have_rates_of_their_own(self):
    states = {
      factor: run(Trainer("hash", "hash", factor=factor), make_batches(1))[0]
      for factor in (0.0, 1.0)
    }
    start = Trainer("hash", "hash").init().params
    same = jax.tree.map(jnp.array_equal, states[0.0].params, start)
    self.assertFalse(same["bias"][...])
    self.assertTrue(all(jax.tree.leaves(same["users"])))
    moved = jax.tree.map(jnp.array_equal, states[1.0].params, start)
    self.assertFalse(any(jax.tree.leaves(moved["users"])))

  def test_unknown_optimizer_is_named(self):
    message = "`optimizer` must be one of 'sgd', 'adam', got 'sgdm'"
    with self.assertRaisesRegex(ValueError, message):
      optimizers.model_optimizer("sgdm", lambda step: 0.1, factors={})


if __name__ == "__main__":
  absltest.main()
