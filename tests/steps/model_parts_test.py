"""Models with parts that steps by row have to treat with care."""

from typing import Any, NamedTuple

import jax
import numpy as np
import optax
import pytest
from flax import nnx, struct
from jax import numpy as jnp

from anchor_codes import nn, steps
from anchor_codes.steps import places

SIZE = 100


def make_step(name="items", *, loss=None, **options):
  def default(model, batch):
    return (model(batch["id"]) ** 2).sum()

  return steps.row_sparse_train_step(
    default if loss is None else loss,
    optimizer=optax.sgd(0.1),
    tables={name: steps.RowOptions(fields=["id"], optimizer=optax.sgd(0.1))},
    **options,
  )


def embed(seed=0, size=SIZE):
  return nnx.Embed(size, 4, rngs=nnx.Rngs(seed))


def moved(old, new):
  return np.flatnonzero((old != new).any(axis=1)).tolist()


# Ids that a model exchanges.


class Sharing(nnx.Module):
  def __init__(self, num_embeddings=SIZE, **options):
    self.items = embed()
    self.sharing = nn.StochasticSharing(
      num_embeddings, rate=0.5, rngs=nnx.Rngs(sse=0), **options
    )

  def __call__(self, ids):
    return self.items(self.sharing(ids))


@pytest.mark.parametrize("lazy", [True, "auto"])
def test_ids_of_a_table_by_row_are_not_exchanged_in_the_model(lazy):
  message = (
    r"ids of table 'items' must not be exchanged .* `sharing` is a "
    r"StochasticSharing of 100 ids: exchange the ids of the batch before"
  )
  with pytest.raises(ValueError, match=message):
    make_step(lazy=lazy).init(Sharing())


@pytest.mark.parametrize(
  ("model", "lazy"),
  [(Sharing(), False), (Sharing(deterministic=True), True)],
)
def test_whole_tables_and_models_out_of_training_may_hold_it(model, lazy):
  step = make_step(lazy=lazy)
  state = step.init(model)
  state, metrics = jax.jit(step)(state, {"id": jnp.arange(90, 100)})
  assert jnp.isfinite(metrics["loss"])


def test_the_ids_of_others_may_be_exchanged():
  make_step(lazy=True).init(Sharing(SIZE + 1))


# Variables that a forward pass makes.


class Sowing(nnx.Module):
  def __init__(self):
    self.items = embed()
    self.dropout = nnx.Dropout(0.1, rngs=nnx.Rngs(0))

  def __call__(self, ids):
    vectors = self.dropout(self.items(ids))
    self.sow(nnx.Intermediate, "vectors", vectors)
    return vectors


@pytest.mark.filterwarnings("ignore:Using 'Module.sow")
@pytest.mark.parametrize("lazy", [True, False])
def test_what_is_sown_is_for_the_loss_alone(lazy):
  def loss(model, batch):
    model(batch["id"])
    return (model.vectors[-1] ** 2).sum()

  batch = {"id": jnp.array([3, 5])}
  found = []
  for is_used in (False, True):
    step, model = make_step(loss=loss, lazy=lazy), Sowing()
    if is_used:
      model(batch["id"])
      model.dropout = Sowing().dropout
    state = step.init(model)
    assert is_used == hasattr(model, "vectors")
    run = jax.jit(step)
    state, _ = run(state, batch)
    state, metrics = run(state, batch)
    found.append(metrics["loss"])
    assert not hasattr(step.model_of(state), "vectors")
  assert found[0] == found[1] > 0


def test_other_new_variables_are_named():
  class Counting(nnx.Module):
    def __init__(self):
      self.items = embed()

    def __call__(self, ids):
      self.calls = nnx.Variable(jnp.int32(1))
      return self.items(ids)

  step = make_step()
  state = step.init(Counting())
  with pytest.raises(ValueError, match=r"makes or removes \['calls'\]: make"):
    step(state, {"id": jnp.array([3])})


# Tables in tuples.


class Pair(NamedTuple):
  first: Any
  second: Any


class Tuples(nnx.Module):
  def __init__(self, parts):
    self.parts = nnx.data(parts)


@pytest.mark.parametrize(
  ("name", "make"),
  [
    ("parts.0", lambda table: (table, embed(1))),
    ("parts.1.0", lambda table: (embed(1), (table,))),
    ("parts.second", lambda table: Pair(embed(1), table)),
    ("parts.x.0", lambda table: {"x": (table,)}),
    ("parts.0.0", lambda table: [(table,)]),
  ],
)
def test_tables_may_be_in_tuples(name, make):
  table = embed()
  model = Tuples(make(table))
  path, layer = places.find_layer(model, name)
  assert layer is table
  step = make_step(
    name,
    loss=lambda model, batch: (
      places.layer_at(model, path)(batch["id"]) ** 2
    ).sum(),
    lazy=True,
  )
  state = step.init(model)
  old = table.embedding[...]
  state, _ = jax.jit(step)(state, {"id": jnp.array([3, 70])})
  new = step.model_of(state)
  assert type(new.parts) is type(model.parts)
  assert moved(old, places.layer_at(new, path).embedding[...]) == [3, 70]


def test_rows_that_a_tuple_holds_too_are_refused():
  table = embed()
  model = nnx.Dict(items=table, other=Tuples((table.embedding,)))
  with pytest.raises(ValueError, match="`0` of tuple holds them too"):
    make_step().init(model)


def test_tables_in_other_containers_are_refused():
  class Holder(struct.PyTreeNode):
    table: Any

  model = Tuples(Holder(embed()))
  with pytest.raises(
    ValueError, match=r"table 'parts.table' must be .*nnx.List"
  ):
    make_step("parts.table").init(model)
  with pytest.raises(ValueError, match="table '' must be an attribute"):
    make_step("").init(embed())
