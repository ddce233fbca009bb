"""Sparse rows name their anchors, also after some of these have gone."""

from typing import Any

import chex
import jax
import numpy as np
import optax
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st
from jax import numpy as jnp

from anchor_codes import linen, nn, ops, steps, training

NUM_ANCHORS = 5


def make_layer(seed=0):
  return nn.AnchorEmbed(
    6, 4, num_anchors=NUM_ANCHORS, num_nonzeros=2, rngs=nnx.Rngs(seed)
  )


def without(layer, keep):
  """The vectors of a layer, as if it had some of its anchors only."""
  keep = jnp.asarray(keep, jnp.int32)
  rows = ops.expand_rows(layer.rows, num_anchors=layer.num_anchors)
  return jnp.matmul(rows[:, keep], layer.anchors[...][keep])


def resize(tree, keep, capacity=NUM_ANCHORS):
  resized = training.resize_anchors(
    tree, table="items", keep=keep, capacity=capacity
  )
  return jax.tree.map(jnp.asarray, resized)


@given(st.permutations(range(NUM_ANCHORS)), st.integers(0, NUM_ANCHORS))
def test_the_vectors_are_those_of_the_anchors_that_stay(order, num_kept):
  layer, keep = make_layer(), order[:num_kept]
  resized = resize({"items": nnx.state(layer)}, keep)["items"]
  new = nnx.merge(nnx.graphdef(layer), resized)
  chex.assert_trees_all_close(
    new(jnp.arange(6)), without(layer, keep), atol=1e-6
  )
  assert new.indices[...].max() < max(num_kept, 1)


def test_linen_has_the_indices_in_another_collection():
  model = linen.AnchorEmbed(
    num_embeddings=6, features=4, num_anchors=NUM_ANCHORS, num_nonzeros=2
  )
  variables: Any = model.init(jax.random.key(0), jnp.arange(6))
  tree = {kind: {"items": values} for kind, values in variables.items()}
  resized = resize(tree, [3, 1], 2)
  vectors = model.clone(num_anchors=2).apply(
    {kind: values["items"] for kind, values in resized.items()}, jnp.arange(6)
  )
  rows = ops.SparseRows(
    variables["codes"]["indices"], variables["params"]["weights"]
  )
  kept = jnp.array([3, 1])
  dense = ops.expand_rows(rows, num_anchors=NUM_ANCHORS)[:, kept]
  expected = jnp.matmul(dense, variables["params"]["anchors"][kept])
  chex.assert_trees_all_close(vectors, expected, atol=1e-6)
  with pytest.raises(ValueError, match=r"must hold the `indices` .* 'items'"):
    resize(tree["params"], [3, 1], 2)


def test_moments_go_with_their_weights():
  params = {"items": nnx.to_pure_dict(nnx.state(make_layer(), nnx.Param))}
  codes = {"items": nnx.to_pure_dict(nnx.state(make_layer(), nn.Code))}
  moments = jax.tree.map(jnp.ones_like, optax.adam(0.1).init(params))
  tree = {"params": params, "codes": codes, "state": moments}
  state = resize(tree, [4, 0], 2)["state"]
  kept = np.isin(codes["items"]["indices"], [4, 0])
  for moment in (state[0].mu, state[0].nu):
    np.testing.assert_array_equal(moment["items"]["weights"], kept)
    assert moment["items"]["anchors"].shape == (2, 4)


def test_numbers_of_sparse_rows_are_no_weights():
  params = {"items": nnx.to_pure_dict(nnx.state(make_layer(), nnx.Param))}
  codes = {"items": nnx.to_pure_dict(nnx.state(make_layer(), nn.Code))}
  state = jax.tree.map(
    jnp.ones_like, training.scale_by_row_adagrad().init(params)
  )
  tree = {"params": params, "codes": codes, "state": state}
  sums = resize(tree, [4, 0], 2)["state"].sum_of_squares["items"]
  np.testing.assert_array_equal(sums["weights"], np.ones(6))
  assert sums["anchors"].shape == (2,)


def test_copies_of_a_model_have_indices_of_their_own():
  tree = {
    name: {"items": nnx.to_pure_dict(nnx.state(make_layer(seed)))}
    for seed, name in enumerate(["model", "mean"])
  }
  resized = resize(tree, [4, 2], 2)
  for name in tree:
    alone = resize({"items": tree[name]["items"]}, [4, 2], 2)
    chex.assert_trees_all_equal(resized[name], alone)


def test_a_state_of_steps_by_row():
  step = steps.row_sparse_train_step(
    lambda model, batch: (model["items"](batch["id"]) ** 2).sum(),
    optimizer=optax.sgd(0.0),
    tables={
      "items": steps.RowOptions(fields=["id"], optimizer=optax.adagrad(0.0))
    },
  )
  layer = make_layer()
  state = resize(step.init(nnx.Dict(items=layer)), [3, 2, 0], 4)
  batch = {"id": jnp.arange(6)}
  state, metrics = step(state, batch)
  expected = (without(layer, [3, 2, 0]) ** 2).sum()
  np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-5)
  assert state.row_states["items"][0].sum_of_squares["transform"].shape == (
    6,
    4,
  )


def test_positions_of_weights_of_zero_may_be_anything():
  tree = {
    "items": {
      "anchors": np.ones((3, 2)),
      "indices": np.array([[-7, 1], [99, 2]]),
      "weights": np.array([[0.0, 1.0], [0.0, 2.0]]),
    }
  }
  items = resize(tree, [2], 2)["items"]
  np.testing.assert_array_equal(items["weights"], [[0.0, 0.0], [0.0, 2.0]])
  np.testing.assert_array_equal(items["indices"], np.zeros((2, 2)))
  with pytest.raises(ValueError, match="the 2 anchors of a sparse row of 'ite"):
    resize(tree, [2], 1)


def test_other_indices_and_weights_are_left_alone():
  tree = {
    "items": {
      "anchors": np.ones((3, 2)),
      "transform": np.ones((5, 3)),
      "weights": np.ones((5, 2)),
      "graph": {"indices": np.arange(4)},
    },
    "users": {"indices": np.ones((5, 2)), "weights": np.ones((5, 2))},
  }
  resized = resize(tree, [2], 2)
  chex.assert_trees_all_equal(resized["users"], tree["users"])
  for name in ("weights", "graph"):
    chex.assert_trees_all_equal(resized["items"][name], tree["items"][name])
