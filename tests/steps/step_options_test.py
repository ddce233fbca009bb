"""What the options of a step by row do: clipping, keys, and bytes."""

import chex
import jax
import numpy as np
import optax
import pytest
from flax import nnx
from jax import numpy as jnp

from anchor_codes import nn, steps

FEATURES = 3
BATCH = {"id": jnp.array([4, 1, 4]), "target": jnp.array([3.0, -2.0, 1.0])}


class Scaled(nnx.Module):
  """A table, and a weight that all of its rows share."""

  def __init__(self, table):
    self.items = table
    self.scale = nnx.Param(2 * jnp.ones(FEATURES))

  def __call__(self, ids):
    return self.items(ids) * self.scale[...][None]


def embed(size=9):
  return nnx.Embed(size, FEATURES, rngs=nnx.Rngs(0))


def loss_fn(model, batch):
  return jnp.sum((model(batch["id"]).sum(axis=-1) - batch["target"]) ** 2)


def make_step(*, loss=loss_fn, optimizer=None, **options):
  """A step that subtracts its gradient, unless told otherwise."""
  return steps.row_sparse_train_step(
    loss,
    optimizer=optax.sgd(1.0) if optimizer is None else optimizer,
    tables={"items": steps.RowOptions(fields=["id"], optimizer=optax.sgd(1.0))},
    **options,
  )


@pytest.mark.parametrize("lazy", [True, False])
@pytest.mark.parametrize("share", [0.25, 4.0])
def test_the_norm_of_the_whole_gradient_is_clipped(lazy, share):
  """Rows that a batch has twice count once, with the sum of their gradient."""
  params = nnx.state(Scaled(embed()), nnx.Param)
  graphdef = nnx.graphdef(Scaled(embed()))
  gradient = jax.grad(lambda p: loss_fn(nnx.merge(graphdef, p), BATCH))(params)
  norm = optax.tree.norm(gradient)
  step = make_step(lazy=lazy, clip=share * float(norm))
  state, _ = jax.jit(step)(step.init(Scaled(embed())), BATCH)
  moved = nnx.state(step.model_of(state), nnx.Param)
  taken = jax.tree.map(lambda old, new: old - new, params, moved)
  expected = jax.tree.map(lambda g: min(share, 1.0) * g, gradient)
  chex.assert_trees_all_close(taken, expected, rtol=1e-4, atol=1e-5)


def test_each_step_has_a_key_of_its_own():
  def loss(model, batch, key):
    return loss_fn(model, batch), {"draw": jax.random.uniform(key)}

  draws = []
  for seed in (0, 1, 1):
    step = make_step(loss=loss, with_key=True, seed=seed)
    batches = jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), BATCH)
    run = jax.jit(lambda s, b: jax.lax.scan(step, s, b))  # noqa: B023
    draws.append(run(step.init(Scaled(embed())), batches)[1]["draw"])
  np.testing.assert_array_equal(draws[1], draws[2])
  assert len(np.unique(np.stack(draws[:2]))) == 6


def test_bytes_of_what_rows_share_count():
  """Anchors: themselves, two moments, and their gradient."""
  table = nn.AnchorEmbed(
    9, FEATURES, num_anchors=6, num_nonzeros=2, rngs=nnx.Rngs(0)
  )
  step = make_step(optimizer=optax.adam(0.1), lazy=True)
  state = step.init(Scaled(table))
  anchors = 4 * 6 * FEATURES
  rows = sum(leaf.nbytes for leaf in jax.tree.leaves(state.rows))
  count = 4  # Of the steps, int32.
  assert step.training_bytes(state) == rows + 4 * anchors + count


@pytest.mark.parametrize(("num_ids", "num_rows"), [(5, 5), (100, 9)])
def test_gradients_have_at_most_all_rows(num_ids, num_rows):
  step = make_step(lazy=True)
  state = step.init(Scaled(embed()))
  batch = {"id": np.zeros(num_ids, np.int32)}
  row = 4 * FEATURES
  assert step.training_bytes(state, batch) == 9 * row + num_rows * row


def test_tables_of_one_field_have_one_size():
  tables = {"a": embed(9), "b": embed(8)}
  options = steps.RowOptions(fields=["id"], optimizer=optax.sgd(0.1))
  step = steps.row_sparse_train_step(
    lambda model, batch: model["a"](batch["id"]).sum(),
    optimizer=optax.sgd(0.1),
    tables=dict.fromkeys(tables, options),
  )
  with pytest.raises(ValueError, match=r"and `num_embeddings`, .* 'a' and 'b'"):
    step.init(nnx.Dict(tables))


def test_a_loss_may_not_take_variables_away():
  class Forgetful(Scaled):
    def __init__(self):
      super().__init__(embed())
      self.calls = nnx.Variable(jnp.int32(0))

  def loss(model, batch):
    del model.calls
    return loss_fn(model, batch)

  step = make_step(loss=loss)
  with pytest.raises(ValueError, match=r"makes or removes \['calls'\]"):
    step(step.init(Forgetful()), BATCH)
