"""Models with tables of all kinds, and their training without any of ours."""

import jax
import numpy as np
import optax
from flax import nnx
from jax import numpy as jnp

from anchor_codes import nn, steps

SIZE, FEATURES = 40, 4
CODES = {"code_length": 2, "codebook_size": 3}

LAYERS = {
  "full": lambda size, rngs: nnx.Embed(size, FEATURES, rngs=rngs),
  "anchors": lambda size, rngs: nn.AnchorEmbed(
    size, FEATURES, num_anchors=6, num_nonzeros=3, rngs=rngs
  ),
  "dense_anchors": lambda size, rngs: nn.AnchorEmbed(
    size, FEATURES, num_anchors=6, num_nonzeros=None, rngs=rngs
  ),
  "kd": lambda size, rngs: nn.KDEmbed(
    size, FEATURES, **CODES, entropy_weight=0.1, rngs=rngs
  ),
  "dpq": lambda size, rngs: nn.DPQEmbed(
    size, FEATURES, **CODES, relaxation="nearest", rngs=rngs
  ),
  "low_rank": lambda size, rngs: nn.LowRankEmbed(
    size, FEATURES, rank=2, rngs=rngs
  ),
  "fixed": lambda size, rngs: nn.FixedCodeEmbed(
    size, FEATURES, **CODES, rngs=rngs
  ),
}


class Towers(nnx.Module):
  """Any embeddings by name, each with a weight of its own."""

  def __init__(self, kinds, size=SIZE, seed=0):
    rngs = nnx.Rngs(seed)
    self.tables = nnx.Dict(
      {name: LAYERS[kind](size, rngs) for name, kind in kinds.items()}
    )
    self.scale = nnx.Param(jnp.ones((FEATURES,)))


def field_of(name):
  """A layer without rows needs the ids themselves."""
  return "whole_id" if name == "fixed" else "id"


def loss_fn(model, batch):
  """Squared errors of all tables, and what their layers add."""
  total = jnp.zeros(())
  for name, layer in model.tables.items():
    ids = batch[field_of(name)]
    vectors = layer(ids) * model.scale[...][None]
    total += jnp.mean((vectors - batch["target"][:, None]) ** 2)
    total += nn.auxiliary_loss(layer, ids)
  return total, {"tables": jnp.float32(len(model.tables))}


def make_batches(number, *, size=SIZE, batch=8, seed=0):
  """Ids with many duplicates; the last ten of a table never occur."""
  rng = np.random.default_rng(seed)
  ids = rng.integers(size - 10, size=(number, batch)).astype(np.int32)
  return {
    "id": ids,
    "whole_id": ids,
    "target": rng.normal(size=(number, batch)).astype(np.float32),
  }


def make_step(row_optimizers, *, loss=loss_fn, **options):
  """A step of a model of :class:`Towers`."""
  return steps.row_sparse_train_step(
    loss,
    optimizer=optax.sgd(0.1),
    tables={
      f"tables.{name}": steps.RowOptions(
        fields=[field_of(name)], optimizer=optimizer
      )
      for name, optimizer in row_optimizers.items()
    },
    **options,
  )


def scan(step, state, batches):
  """Takes all steps; compiles once."""
  return jax.jit(lambda s, b: jax.lax.scan(step, s, b))(state, batches)


def train_whole(model, row_optimizers, batches, *, loss=loss_fn):
  """Trains whole tables by optax alone; returns the model and the losses."""
  optimizer = optax.partition(
    {"other": optax.sgd(0.1), **row_optimizers},
    lambda params: jax.tree.map_with_path(_label, params),
  )
  graphdef, params, rest = nnx.split(model, nnx.Param, ...)

  def take_step(carry, batch):
    params, rest, state = carry

    def compute(params):
      model = nnx.merge(graphdef, params, rest, copy=True)
      value, _ = loss(model, batch)
      return value, nnx.split(model, nnx.Param, ...)[2]

    grad_fn = jax.value_and_grad(compute, has_aux=True)
    (value, rest), grads = grad_fn(params)
    updates, state = optimizer.update(grads, state, params)
    return (optax.apply_updates(params, updates), rest, state), value

  start = params, rest, optimizer.init(params)
  (params, rest, _), losses = scan(take_step, start, batches)
  return nnx.merge(graphdef, params, rest), losses


def _label(path, _):
  """Rows belong to the optimiser of their table, all else to the other."""
  keys = [getattr(part, "key", None) for part in path]
  rows = {"embedding", "weights", "transform", "logits", "queries", "factors"}
  return keys[1] if rows & set(keys) else "other"
