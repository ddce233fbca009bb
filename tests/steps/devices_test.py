"""Steps on several devices, with all rows on each, or a part of them."""

import re

import chex
import jax
import numpy as np
import optax
import pytest
import toy_models
from flax import nnx

from anchor_codes import nn, steps, training

SIZE = 4096
KINDS = {"full": "full", "anchors": "anchors", "kd": "kd"}
COLLECTIVES = r"all-reduce|all-gather|all-to-all|collective-permute|scatter"


@pytest.fixture(autouse=True, scope="module")
def _usual_promotion():
  # The optimisers of optax rely on it.
  with jax.numpy_dtype_promotion("standard"):
    yield


def compile_for(devices, *, split, size=SIZE):
  """Returns the step, its chunk, and its state on the devices."""
  lazy = steps.lazy_proximal_l1(optax.adagrad(0.1), 0.1, l1=0.01)
  rows = dict.fromkeys(KINDS, optax.adagrad(0.1)) | {"anchors": lazy}
  step = toy_models.make_step(rows)
  state = step.init(toy_models.Towers(KINDS, size))
  if split:
    state = step.pad(state, devices)
  specs = step.split_specs(state) if split else steps.STATE_SPECS
  mesh = training.data_mesh(jax.devices()[:devices])
  chunk = training.compile_chunk(step, mesh, state_specs=specs)
  return step, chunk, chunk.put_state(state)


def collective_sizes(program):
  """Returns the lengths of what collectives of a compiled program return."""
  lines = re.findall(rf"= (.*?) (?:{COLLECTIVES})(?:-start)?\(", program)
  shapes = [re.findall(r"\[([\d,]*)\]", line) for line in lines]
  return [
    int(np.prod([int(d) for d in shape.split(",") if d]))
    for found in shapes
    for shape in found
  ]


def test_rows_on_all_devices_or_split_train_alike():
  batches, found = toy_models.make_batches(5, size=SIZE), []
  for devices, split in ((1, False), (4, False), (4, True)):
    _, chunk, state = compile_for(devices, split=split)
    if split:
      program = chunk.program.lower(state, chunk.put_batches(batches))
      sizes = collective_sizes(program.compile().as_text())
      assert sizes, "split rows must travel somehow"
      assert max(sizes) < SIZE
    state, metrics = chunk(state, batches)
    if split:
      table = jax.tree.leaves(state.rows)[0]
      assert table.addressable_shards[0].data.shape[0] == SIZE // 4
    found.append((metrics["loss"], nnx.to_pure_dict(state.rows)))
  for others in found[1:]:
    chex.assert_trees_all_close(found[0], others, rtol=1e-5, atol=1e-6)


def test_devices_that_do_not_divide_the_rows_train_alike():
  size = 101
  batches, found = toy_models.make_batches(200, size=size), []
  for devices in (1, 4):
    step, chunk, state = compile_for(devices, split=devices > 1, size=size)
    state, metrics = chunk(state, batches)
    if devices > 1:
      assert {leaf.shape[0] for leaf in jax.tree.leaves(state.rows)} == {104}
      ends = jax.tree.map(lambda leaf: leaf[size:], state.rows)
      assert not any(np.any(leaf) for leaf in jax.tree.leaves(ends))
    model = step.model_of(step.flush(state))
    again = step.replace_model(state, model)
    chex.assert_trees_all_equal_shapes(again.rows, state.rows)
    tables = {
      name: nn.to_table(model.tables[name]).lookup(np.arange(size))
      for name in KINDS
    }
    assert all(len(table) == size for table in tables.values())
    found.append((metrics["loss"], tables))
  chex.assert_trees_all_close(*found, rtol=1e-5, atol=1e-6)


def test_specs_split_what_has_rows():
  step = toy_models.make_step({"a": optax.adam(0.1)})
  state = step.init(toy_models.Towers({"a": "full"}))
  specs = step.split_specs(state)
  adam = specs.row_states["tables.a"][0]
  assert specs.rows == jax.P("data")
  assert adam.count == jax.P()
  assert set(jax.tree.leaves(adam.mu, is_leaf=lambda x: isinstance(x, jax.P)))
  assert specs.params == jax.P()
