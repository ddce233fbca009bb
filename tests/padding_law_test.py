"""The law of padding: what a loss masks out spoils no gradient."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import layers
import numpy as np
import optax
import pytest
from flax import nnx
from layers import LAYERS, F, V

from anchor_codes import linen, nn, steps

IDS = np.array([3, -1, 5, V, 3, V + 5], np.int32)
INSIDE = (IDS >= 0) & (IDS < V)
every_layer = pytest.mark.parametrize("name", LAYERS)
compact_layers = pytest.mark.parametrize("name", layers.names("is_compact"))


def masked_loss(vectors, where=INSIDE):
  return jnp.sum(jnp.square(jnp.where(where[:, None], vectors, 0)))


def assert_finite_and_some(gradients):
  chex.assert_tree_all_finite(gradients)
  assert any(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradients))


@jax.jit
def gradients_of(layer, ids, where):
  graphdef, params, rest = nnx.split(layer, nnx.Param, ...)

  @jax.grad
  def gradient(params):
    model = nnx.merge(graphdef, params, rest, copy=True)
    loss = masked_loss(model(ids), where)
    return loss + nn.auxiliary_loss(model, ids)

  return nnx.to_pure_dict(gradient(params))


@every_layer
def test_masked_padding_spoils_no_gradient(name):
  assert_finite_and_some(gradients_of(layers.make(name), IDS, INSIDE))


@pytest.mark.parametrize("name", layers.names(but="straight_through"))
def test_masked_padding_takes_no_part(name):
  # Without moments of a batch, the gradient is that of the other ids alone.
  layer, ids = layers.make(name), IDS[INSIDE]
  expected = gradients_of(layer, ids, np.ones(len(ids), bool))
  gradients = gradients_of(layer, IDS, INSIDE)
  chex.assert_trees_all_close(gradients, expected, rtol=1e-5, atol=1e-6)


@compact_layers
def test_masked_padding_spoils_no_gradient_of_linen(name):
  twin, variables = (
    layers.make_twin(name),
    layers.variables_of(layers.make(name)),
  )

  @jax.jit
  @jax.grad
  def gradient(params, ids):
    options = {"rngs": {"codes": jax.random.key(0)}, "mutable": "batch_stats"}
    vectors, _ = twin.apply({**variables, "params": params}, ids, **options)
    return masked_loss(vectors)

  assert_finite_and_some(gradient(variables["params"], IDS))


@compact_layers
def test_padding_spoils_no_guidance(name):
  rngs = nnx.Rngs(params=layers.QUICK_KEY, guidance=1)
  layer = nn.GuidedEmbed(layers.make(name), rngs=rngs)
  assert_finite_and_some(gradients_of(layer, IDS, INSIDE))


def test_padding_spoils_no_guidance_of_linen():
  student = linen.AnchorEmbed(V, F, num_anchors=6, num_nonzeros=2)
  twin = linen.GuidedEmbed(student)
  keys = {"params": jax.random.key(0), "guidance": jax.random.key(1)}
  variables = twin.init(keys, jnp.arange(3))

  @jax.jit
  @jax.grad
  def gradient(params, ids):
    variables_ = {**variables, "params": params}
    vectors = twin.apply(variables_, ids, rngs={"guidance": keys["guidance"]})
    loss: Any = twin.apply(variables_, ids, method="auxiliary_loss")
    return masked_loss(vectors) + loss

  assert_finite_and_some(gradient(variables["params"], IDS))


class Items(nnx.Module):
  """A model of one table."""

  def __init__(self, items):
    self.items = items


@pytest.mark.parametrize("lazy", [True, False])
@pytest.mark.parametrize(
  "name", ["full", "anchors_sparse", "anchors_dense", "kd_sum", "low_rank"]
)
def test_steps_by_row_go_on_with_masked_padding(name, lazy):
  def loss_fn(model, batch):
    return masked_loss(model.items(batch["id"]), batch["id"] != -1)

  sgd = optax.sgd(0.1)
  options = steps.RowOptions(fields=["id"], optimizer=sgd, padding_id=-1)
  step = steps.row_sparse_train_step(
    loss_fn, optimizer=sgd, tables={"items": options}, lazy=lazy
  )
  state, run = step.init(Items(layers.make(name))), jax.jit(step)
  losses = []
  for _ in range(3):
    state, metrics = run(state, {"id": np.array([3, 5, -1], np.int32)})
    losses.append(float(metrics["loss"]))
  assert losses[-1] < losses[0]
  trained = nnx.state(step.model_of(state), nnx.Param)
  chex.assert_tree_all_finite(nnx.to_pure_dict(trained))
