"""Tests of finding tables in models, and of putting others in their place."""

import jax
import pytest
from flax import nnx
from jax import numpy as jnp

from anchor_codes import nn
from anchor_codes.steps import places


def make_model():
  table = nnx.Embed(5, 2, rngs=nnx.Rngs(0))
  return nnx.Dict(
    a=nnx.List([nnx.Linear(2, 2, rngs=nnx.Rngs(0)), table]), b=table
  )


def test_layers_have_the_first_of_their_names():
  model = make_model()
  path, layer = places.find_layer(model, "a.1")
  assert layer is model["b"]
  assert places.layer_at(model, path) is layer
  state = places.state_at(nnx.state(model), path)
  assert state["embedding"].shape == (5, 2)
  for name in ("b", "a.0", "a", "c"):
    with pytest.raises(ValueError, match=rf"one of \['a.1'\], got '{name}'"):
      places.find_layer(model, name)


def test_what_counts_embeddings_need_not_be_one():
  model = nnx.Dict(
    items=nnx.Embed(5, 2, rngs=nnx.Rngs(0)),
    # Streams of numbers, which have attributes of any name.
    rngs=nnx.Rngs(0),
    sharing=nn.StochasticSharing(5, rate=0.1, rngs=nnx.Rngs(0)),
  )
  for name in ("rngs", "sharing"):
    with pytest.raises(ValueError, match=rf"one of \['items'\], got '{name}'"):
      places.find_layer(model, name)


def test_layers_are_replaced_wherever_they_are():
  model = make_model()
  small = nn.select_rows(model["b"], jnp.array([3, 1]))
  places.replace_layer(model, model["b"], small)
  assert model["b"] is small
  assert model["a"][1] is small


def test_plain_containers_hold_layers_too():
  table = nnx.Embed(5, 2, rngs=nnx.Rngs(0))
  model = nnx.Dict(parts=nnx.data([{"x": table}, (table,)]))
  path, layer = places.find_layer(model, "parts.0.x")
  assert layer is places.layer_at(model, path) is table
  small = nn.select_rows(table, jnp.array([1]))
  places.replace_layer(model, table, small)
  assert model["parts"][0]["x"] is small


def test_rows_that_others_hold_are_refused():
  model = make_model()
  places.check_rows_are_own(model, "a.1", model["b"])
  model["a"][0].kernel = model["b"].embedding
  with pytest.raises(ValueError, match=r"table 'a.1' .* `kernel` of Linear"):
    places.check_rows_are_own(model, "a.1", model["b"])


def test_trained_rows_have_the_form_of_training():
  layer = nn.AnchorEmbed(9, 4, num_anchors=6, num_nonzeros=2, rngs=nnx.Rngs(0))
  rows = places.trained_rows(layer, 3)
  assert [leaf.shape for leaf in jax.tree.leaves(rows)] == [(3, 6)]
