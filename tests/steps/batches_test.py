"""Tests of the ids in a batch: no id becomes another one."""

import jax
import numpy as np
import optax
import pytest
from flax import nnx
from jax import numpy as jnp

from anchor_codes import steps
from anchor_codes.steps import batches

LARGEST = 2**31 - 1


def options_of(padding_id, fields=("id",)):
  return steps.RowOptions(
    fields=fields, optimizer=optax.sgd(0.1), padding_id=padding_id
  )


@pytest.mark.parametrize("dtype", [np.int64, np.uint64])
@pytest.mark.parametrize("on_device", [False, True])
def test_ids_that_32_bits_cannot_hold_are_no_row(dtype, on_device):
  ids = np.array([2**32 + 3, 7, 2**32, 2**31], dtype)
  with jax.enable_x64(on_device):
    batch = {"id": jnp.asarray(ids) if on_device else ids}
    joined = batches.join_ids(batch, options_of(None))
  assert joined.dtype == jnp.int32
  assert joined.tolist() == [LARGEST, 7, LARGEST, LARGEST]


@pytest.mark.parametrize("on_device", [False, True])
def test_wide_negative_ids_are_no_row(on_device):
  ids = np.array([-(2**32) + 3, -1, -(2**31)], np.int64)
  with jax.enable_x64(on_device):
    batch = {"id": jnp.asarray(ids) if on_device else ids}
    joined = batches.join_ids(batch, options_of(-1))
  assert joined.tolist() == [LARGEST, -1, -(2**31)]


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.uint32])
def test_ids_of_fields_are_joined(dtype):
  batch = {"a": jnp.array([[3, 1]], dtype), "b": {"c": np.array(2, dtype)}}
  joined = batches.join_ids(batch, options_of(0, ["a", "b.c"]))
  assert joined.dtype == jnp.int32
  assert joined.tolist() == [0, 3, 1, 2]


@pytest.mark.parametrize("padding_id", [0, -1])
def test_an_id_that_is_cut_down_to_padding_is_none(padding_id):
  batch = {"id": np.array([padding_id, padding_id % 2**32 + 2**32])}
  options = options_of(padding_id)
  positions = jnp.arange(10, 12 + (padding_id == 0))
  found = batches.split_positions(positions, batch, options)["id"]
  assert found.tolist() == [padding_id, positions[-1]]


@pytest.mark.parametrize("lazy", [True, False])
def test_a_step_hides_no_id_of_64_bits(lazy):
  step = steps.row_sparse_train_step(
    lambda model, batch: model.table(batch["id"]).sum(),
    optimizer=optax.sgd(0.1),
    tables={"table": options_of(None)},
    lazy=lazy,
  )
  model = nnx.Dict(table=nnx.Embed(9, 2, rngs=nnx.Rngs(0)))
  with jax.enable_x64(True):
    batch = {"id": jnp.array([2, 2**32 + 3])}
    _, metrics = jax.jit(step)(step.init(model), batch)
  assert np.isnan(metrics["loss"])
