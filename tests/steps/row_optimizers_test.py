"""Optimisers of rows whose state is made of more than shapes."""

from typing import Any

import chex
import jax
import numpy as np
import optax
import pytest
from flax import nnx
from jax import numpy as jnp

from anchor_codes import nn, steps
from anchor_codes.steps import places

SIZE = 30
BATCH = {"id": jnp.array([3, 5, 3, 20])}


def make_step(optimizer):
  return steps.row_sparse_train_step(
    lambda model, batch: (model["items"](batch["id"]) ** 2).sum(),
    optimizer=optax.sgd(0.1),
    tables={"items": steps.RowOptions(fields=["id"], optimizer=optimizer)},
    lazy=True,
  )


def embed():
  return nnx.Embed(SIZE, 4, rngs=nnx.Rngs(0))


def anchors(size=SIZE):
  return nn.AnchorEmbed(
    size, 4, num_anchors=6, num_nonzeros=2, rngs=nnx.Rngs(0)
  )


def run(step, model, number=3):
  state, compiled = step.init(nnx.Dict(items=model)), jax.jit(step)
  for _ in range(number):
    state, metrics = compiled(state, BATCH)
    assert jnp.isfinite(metrics["loss"])
  return state, step.model_of(state)["items"]


@pytest.mark.parametrize("make", [embed, anchors])
def test_hyperparameters_may_be_in_the_state(make):
  injected = optax.inject_hyperparams(optax.adagrad)(learning_rate=0.1)
  step = make_step(injected)
  state, layer = run(step, make())
  _, expected = run(make_step(optax.adagrad(0.1)), make())
  chex.assert_trees_all_close(nnx.state(layer), nnx.state(expected), atol=1e-6)
  hyperparams = state.row_states["items"].hyperparams
  np.testing.assert_allclose(hyperparams["learning_rate"], 0.1)
  hyperparams["learning_rate"] = jnp.float32(0.0)
  after, _ = step(state, BATCH)
  chex.assert_trees_all_close(after.rows, state.rows, atol=1e-6)


def test_states_may_hold_copies_of_the_rows():
  optimizer = optax.contrib.schedule_free(optax.sgd(0.1), learning_rate=0.1)
  step, table = make_step(optimizer), embed()
  start = np.asarray(table.embedding[...])
  state = step.init(nnx.Dict(items=table))
  (copy,) = jax.tree.leaves(state.row_states["items"].z)
  np.testing.assert_array_equal(copy, start)
  _, layer = run(step, embed())
  moved = np.flatnonzero((layer.embedding[...] != start).any(axis=1))
  np.testing.assert_array_equal(moved, [3, 5, 20])


def test_states_by_shape_and_by_value_are_those_of_the_optimizer():
  rows = embed()
  init: Any = lambda rows: rows
  update: Any = lambda updates, state, rows=None: (updates, state)
  kept = optax.GradientTransformation(init, update)
  state = make_step(kept).init(nnx.Dict(items=rows)).row_states["items"]
  assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state))
  np.testing.assert_array_equal(state["embedding"][...], rows.embedding[...])


def test_optimizers_that_need_the_loss_are_refused():
  optimizer = optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau())
  with pytest.raises(
    ValueError, match=r"optimiser of table 'items' .* 'value'"
  ):
    make_step(optimizer).init(nnx.Dict(items=embed()))


def test_no_dense_rows_are_made_for_a_state_without_them():
  optimizer = optax.inject_hyperparams(optax.sgd)(learning_rate=0.1)
  graphdef, variables = nnx.split(anchors(10**5))

  def start(variables):
    layer = nnx.merge(graphdef, variables)
    return places.start_rows("items", layer, optimizer)

  memory: Any = jax.jit(start).lower(variables).compile().memory_analysis()
  assert memory.temp_size_in_bytes < 10**4
