"""Row-sparse steps against whole tables, and the errors of wrong use."""

import chex
import jax
import numpy as np
import optax
import pytest
import toy_models
from flax import nnx
from jax import numpy as jnp

from anchor_codes import steps, training


@pytest.fixture(autouse=True, scope="module")
def _usual_promotion():
  # The optimisers of optax rely on it.
  with jax.numpy_dtype_promotion("standard"):
    yield


def row_adagrad(rate):
  return optax.chain(
    training.scale_by_row_adagrad(), optax.scale_by_learning_rate(rate)
  )


def prox(optimizer, rate=0.1):
  """The proximal step on whole tables, and its lazy form."""
  whole = optax.chain(optimizer, training.proximal_l1(rate, l1=0.01))
  return whole, steps.lazy_proximal_l1(optimizer, rate, l1=0.01)


def slower(count):
  return 0.1 / (1 + 0.1 * count)


# Kind of the layer, optimiser of whole tables, and of their rows.
EXACT = {
  "sgd": ("full", optax.sgd(0.1), None),
  "adagrad": ("full", optax.adagrad(0.1), None),
  "row_adagrad": ("full", row_adagrad(0.1), None),
  "prox": ("full", *prox(optax.sgd(0.1))),
  "prox_schedule": ("low_rank", *prox(optax.sgd(slower), slower)),
  "prox_adagrad": ("dense_anchors", *prox(optax.adagrad(0.1))),
  "kd": ("kd", optax.adagrad(0.1), None),
  "dpq": ("dpq", optax.sgd(0.1), None),
  "fixed": ("fixed", optax.sgd(0.1), None),
}


def as_dtype(tree, dtype):
  """Casts what has a fraction, in place where it is a model."""

  def cast(leaf):
    wide = jnp.issubdtype(leaf.dtype, jnp.floating)
    return jnp.asarray(leaf, dtype) if wide else leaf

  if not isinstance(tree, nnx.Module):
    return jax.tree.map(cast, tree)
  nnx.update(tree, jax.tree.map(cast, nnx.state(tree, nnx.Param)))
  return tree


# Sums of another order differ in their last bits, which 200 steps add up: with
# more bits what is left shows that the steps are the same.
@pytest.mark.parametrize(
  ("dtype", "rtol", "atol"),
  [(jnp.float32, 1e-5, 2e-6), (jnp.float64, 0, 1e-7)],
)
def test_row_sparse_is_dense_over_200_steps(dtype, rtol, atol):
  with jax.enable_x64(dtype == jnp.float64):
    _check_row_sparse_is_dense(dtype, rtol, atol)


def _check_row_sparse_is_dense(dtype, rtol, atol):
  make_model = lambda: as_dtype(toy_models.Towers(kinds), dtype)
  kinds = {name: kind for name, (kind, _, _) in EXACT.items()}
  whole = {name: optimizer for name, (_, optimizer, _) in EXACT.items()}
  rows = {name: lazy or dense for name, (_, dense, lazy) in EXACT.items()}
  batches = as_dtype(toy_models.make_batches(200), dtype)
  model, losses = toy_models.train_whole(make_model(), whole, batches)
  step = toy_models.make_step(rows, lazy=True)
  state, metrics = toy_models.scan(step, step.init(make_model()), batches)
  np.testing.assert_allclose(metrics["loss"], losses, rtol=1e-5)
  assert set(step.tables) == {f"tables.{n}" for n in kinds if n != "fixed"}
  ours = step.model_of(step.flush(state))
  chex.assert_trees_all_close(
    nnx.to_pure_dict(nnx.state(ours)),
    nnx.to_pure_dict(nnx.state(model)),
    rtol=rtol,
    atol=atol,
  )
  zeros = [ours.tables[n].transform[...] == 0 for n in ["prox_adagrad"]]
  assert 0 < np.mean(zeros) < 1


def test_sparse_anchors_train_alike_by_row_and_whole():
  kinds = {"a": "anchors", "b": "anchors"}
  rows = {"a": prox(optax.sgd(0.1))[1], "b": prox(row_adagrad(0.1))[1]}
  batches, found = toy_models.make_batches(200), []
  for lazy in (True, False):
    step = toy_models.make_step(rows, lazy=lazy)
    state = step.init(toy_models.Towers(kinds))
    state = step.flush(toy_models.scan(step, state, batches)[0])
    model = step.model_of(state)
    found.append([t.to_table().to_dense() for t in model.tables.values()])
  np.testing.assert_allclose(*found, rtol=1e-5, atol=2e-6)


def test_flush_settles_once():
  step = toy_models.make_step({"a": prox(optax.sgd(0.1))[1]}, lazy=True)
  state = step.init(toy_models.Towers({"a": "anchors"}))
  state, _ = toy_models.scan(step, state, toy_models.make_batches(30))
  once = step.flush(state)
  chex.assert_trees_all_equal(step.flush(once).rows, once.rows)
  moved = jax.tree.map(lambda a, b: bool((a != b).any()), state.rows, once.rows)
  assert any(jax.tree.leaves(moved))


def test_flush_is_identity_without_lazy_steps():
  step = toy_models.make_step({"a": optax.adam(0.1)}, lazy=True)
  state = step.init(toy_models.Towers({"a": "full"}))
  chex.assert_trees_all_equal(step.flush(state), state)


def test_adam_by_row_is_another_optimizer():
  batches, losses = toy_models.make_batches(20), {}
  for lazy in (True, False):
    step = toy_models.make_step({"a": optax.adam(0.1)}, lazy=lazy)
    state = step.init(toy_models.Towers({"a": "full"}))
    losses[lazy] = toy_models.scan(step, state, batches)[1]["loss"]
  assert np.abs(losses[True] - losses[False]).max() > 1e-3


def test_a_step_compiles_once_and_takes_the_state_over():
  step = toy_models.make_step({"a": optax.adagrad(0.1)}, lazy=True)
  state = step.init(toy_models.Towers({"a": "full"}))
  old = jax.tree.leaves(state.rows)[0]
  run = jax.jit(chex.assert_max_traces(step.__call__, n=1), donate_argnums=0)
  for batch in range(3):
    batches = toy_models.make_batches(3)
    state, metrics = run(state, jax.tree.map(lambda a: a[batch], batches))  # noqa: B023
  assert old.is_deleted()
  assert set(metrics) == {"loss", "tables"}
  assert state.step == 3


@pytest.mark.parametrize("kind", ["full", "anchors"])
def test_temporary_memory_does_not_grow_with_the_table(kind):
  """Compiled for a table of a million rows, which is never made."""
  optimizer = prox(optax.adagrad(0.1))[1]
  found = []
  for size in (10**4, 10**6):
    step = toy_models.make_step({"a": optimizer}, clip=1.0)
    make = lambda size: step.init(toy_models.Towers({"a": kind}, size))  # noqa: B023
    state = jax.eval_shape(lambda: make(size))  # noqa: B023
    batch = jax.tree.map(lambda a: a[0], toy_models.make_batches(1))
    compiled = jax.jit(step, donate_argnums=0).lower(state, batch).compile()
    memory = compiled.memory_analysis()
    assert memory.alias_size_in_bytes > size * 4
    found.append(memory.temp_size_in_bytes)
  assert found[1] < found[0] + 10**5


@pytest.mark.parametrize(("lazy", "ids"), [("auto", 9), ("auto", 10)])
def test_auto_updates_small_tables_as_a_whole(lazy, ids):
  step = toy_models.make_step({"a": optax.sgd(0.1)}, lazy=lazy)
  state = step.init(toy_models.Towers({"a": "full"}))
  batch = {"id": jnp.zeros(ids, jnp.int32), "target": jnp.zeros(ids)}
  selection = step.select(step.model_of(state), batch, state, None)
  expected = ids if ids * steps.LAZY_FROM < toy_models.SIZE else 40
  assert selection.ids["tables.a"].shape == (expected,)


class Recommender(nnx.Module):
  """Two towers and a bag, deep in the model, and a bias beside each item."""

  def __init__(self, rngs):
    table = nnx.Embed(50, 4, rngs=rngs)
    self.user = nnx.Dict(id=nnx.Embed(30, 4, rngs=rngs), history=table)
    # The same layer: an item has one vector, wherever it stands.
    self.items = nnx.List([table, nnx.Embed(50, 1, rngs=rngs)])
    self.dropout = nnx.Dropout(0.1, rngs=rngs)

  def __call__(self, batch):
    where = (batch["user"]["history"] != 0)[..., None]
    bag = jnp.where(where, self.user["history"](batch["user"]["history"]), 0)
    user = self.user["id"](batch["user"]["id"]) + bag.sum(axis=1)
    item, bias = (layer(batch["item"]) for layer in self.items)
    return (self.dropout(user) * item).sum(axis=-1) + bias[:, 0]


def recommender_step(**options):
  adagrad = optax.adagrad(0.3)
  items = {"fields": ["item", "user.history"], "padding_id": 0}

  def loss(model, batch, key):
    noise = 1e-3 * jax.random.normal(key, batch["rating"].shape)
    error = model(batch) - batch["rating"] - noise
    return jnp.mean(error**2)

  return steps.row_sparse_train_step(
    loss,
    optimizer=optax.adam(0.01),
    tables={
      "user.id": steps.RowOptions(fields=["user.id"], optimizer=adagrad),
      "items.0": steps.RowOptions(**items, optimizer=adagrad),
      "items.1": steps.RowOptions(**items, optimizer=adagrad),
    },
    with_key=True,
    clip=5.0,
    **options,
  )


def recommender_batches(number):
  rng = np.random.default_rng(0)
  draw = lambda high, *shape: rng.integers(
    1, high, (number, 6, *shape), np.int32
  )
  history = draw(50, 3) * rng.integers(0, 2, (number, 6, 3), np.int32)
  return {
    "user": {"id": draw(30), "history": history},
    "item": draw(50),
    "rating": rng.normal(size=(number, 6)).astype(np.float32),
  }


def test_a_model_of_ones_own_trains_as_its_whole_tables_do():
  batches = jax.tree.map(lambda a: a.repeat(20, 0), recommender_batches(2))
  found = []
  for lazy in (True, False):
    step = recommender_step(lazy=lazy)
    state = step.init(Recommender(nnx.Rngs(0)))
    assert step.tables == ("user.id", "items.0", "items.1")
    state, metrics = toy_models.scan(step, state, batches)
    found.append((metrics["loss"], nnx.to_pure_dict(state.rows)))
  chex.assert_trees_all_close(*found, rtol=1e-4, atol=1e-5)
  assert found[0][0][19] < 0.5 * found[0][0][0]
  model = step.model_of(state)
  assert model.items[0] is model.user["history"]


def test_weights_in_another_field_take_padding_out():
  def loss(model, batch):
    vectors = model.tables["a"](batch["bag"])
    return jnp.mean((vectors * batch["weights"][..., None]).sum(1) ** 2)

  step = steps.row_sparse_train_step(
    loss,
    optimizer=optax.sgd(0.1),
    tables={
      "tables.a": steps.RowOptions(fields=["bag"], optimizer=optax.sgd(0.1))
    },
    lazy=True,
  )
  batch = {
    "bag": jnp.array([[3, 5], [3, 9]]),
    "weights": jnp.array([[1.0, 2.0], [1.0, 0.0]]),
  }
  old = toy_models.Towers({"a": "full"}).tables["a"].embedding[...]
  state = step.init(toy_models.Towers({"a": "full"}))
  state, _ = jax.jit(step)(state, batch)
  new = step.model_of(state).tables["a"].embedding[...]
  moved = np.flatnonzero((new != old).any(axis=1))
  np.testing.assert_array_equal(moved, [3, 5])


@pytest.mark.parametrize("padding_id", [0, -1])
def test_padding_stays_as_it_is(padding_id):
  options = steps.RowOptions(
    fields=["id"], optimizer=optax.sgd(0.1), padding_id=padding_id
  )
  seen = []

  def loss(model, batch):
    seen.append(batch["id"])
    return model(jnp.abs(batch["id"])).sum()

  step = steps.row_sparse_train_step(
    lambda model, batch: loss(model.table, batch),
    optimizer=optax.sgd(0.1),
    tables={"table": options},
    lazy=True,
  )
  model = nnx.Dict(table=nnx.Embed(9, 2, rngs=nnx.Rngs(0)))
  step(step.init(model), {"id": jnp.array([7, padding_id, 3, 7])})
  same = seen[0] == padding_id
  np.testing.assert_array_equal(same, [False, True, False, False])


@pytest.mark.parametrize(
  ("kind", "lazy"),
  [("full", True), ("full", False), ("anchors", True), ("kd", True)],
)
def test_ids_outside_the_table_are_not_hidden(kind, lazy):
  batch = {"id": np.array([2, 40], np.int32), "target": np.zeros(2, "float32")}
  step = toy_models.make_step({"a": optax.sgd(0.1)}, lazy=lazy)
  state = step.init(toy_models.Towers({"a": kind}))
  with pytest.raises(IndexError, match=r"field 'id': .*40"):
    step.check_batch(batch)
  run = jax.jit(step)
  for wrong in (40, -1):
    batch["id"][1] = wrong
    assert np.isnan(run(state, batch)[1]["loss"]), wrong


def test_a_batch_of_one_id_hides_nothing_either():
  step = toy_models.make_step({"a": optax.sgd(0.1)}, lazy=True)
  state = step.init(toy_models.Towers({"a": "full"}))
  batch = {"id": jnp.array([40]), "target": jnp.zeros(1)}
  assert np.isnan(jax.jit(step)(state, batch)[1]["loss"])


@pytest.mark.parametrize(("lazy", "num_rows"), [("auto", 8), (False, 40)])
def test_training_bytes_are_rows_state_and_gradients(lazy, num_rows):
  step = toy_models.make_step({"a": optax.adagrad(0.1)}, lazy=lazy)
  state = step.init(toy_models.Towers({"a": "full"}))
  table, batch = 4 * 40 * 4, {"id": np.zeros(8, np.int32)}
  assert step.training_bytes(state) == 2 * table
  assert step.training_bytes(state, batch) == 2 * table + 4 * num_rows * 4


def refused(tables, message, **options):
  optimizer = optax.sgd(0.1)
  model = toy_models.Towers({"a": "full", "b": "full", "c": "fixed"})

  def make():
    rows = {
      name: steps.RowOptions(optimizer=optimizer, **given)
      for name, given in tables.items()
    }
    steps.row_sparse_train_step(
      toy_models.loss_fn, optimizer=optimizer, tables=rows, **options
    ).init(model)

  with pytest.raises(ValueError, match=message):
    make()


def test_errors_of_options():
  a, b, c = (f"tables.{name}" for name in "abc")
  refused({a: {"fields": "id"}}, "`fields` must be a sequence .* got 'id'")
  refused({a: {"fields": []}}, r"`fields` must be .* got \[\]")
  refused(
    {a: {"fields": ["id"], "padding_id": 3}}, "`padding_id` must be .* got 3"
  )
  refused({"a": {"fields": ["id"]}}, r"one of \['tables.a', .*got 'a'")
  message = "tables that share a field .* got 'tables.a' and 'tables.b'"
  refused({a: {"fields": ["x", "y"]}, b: {"fields": ["x"]}}, message)
  fields = {"fields": ["x"]}
  refused({a: fields, b: fields | {"padding_id": 0}}, message)
  refused({a: fields, c: fields}, "or none, got 'tables.a' and 'tables.c'")
  refused({}, "`lazy` must be True, False or 'auto', got 'no'", lazy="no")


def test_errors_of_batches():
  step = toy_models.make_step({"a": optax.sgd(0.1)})
  with pytest.raises(ValueError, match="must have seen a model"):
    step.model_of(None)
  state = step.init(toy_models.Towers({"a": "full"}))
  with pytest.raises(ValueError, match=r"the field 'id', got \['ids'\]"):
    step(state, {"ids": np.zeros(2, np.int32)})
  with pytest.raises(ValueError, match="the field 'id', got a list"):
    step(state, [1])
  with pytest.raises(ValueError, match=r"field 'id': .*integer"):
    step(state, {"id": np.zeros(2, np.float32)})
  with pytest.raises(ValueError, match=r"field 'id': .*integer"):
    jax.jit(step)(state, {"id": np.zeros(2, np.float32)})
  with pytest.raises(IndexError, match=f"field 'id': .*{2**33}"):
    step.check_batch({"id": np.array([[1, 2**33]])})
