"""Leaves that JAX or Orbax would read otherwise than they were saved."""

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from anchor_codes import training

STATE = {"w": np.ones(2, np.float32), "position": np.int64(7)}


def abstract(state):
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)


def test_examples_that_jax_cannot_hold_are_refused_not_called_damage(tmp_path):
  checkpointer = training.Checkpointer(tmp_path)
  checkpointer.save(1, STATE)
  checkpointer.save(2, STATE)
  message = r"state\['position'\] is int64, which JAX would cut to int32: put"
  with pytest.raises(ValueError, match=message):
    checkpointer.restore(abstract(STATE))
  checkpointer.save(3, STATE)
  assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2", "3"]
  step, restored, _ = checkpointer.restore(
    abstract(STATE) | {"position": STATE["position"]}
  )
  assert step == 3
  assert restored["position"] == 7
  assert isinstance(restored["w"], jax.Array)
  with jax.enable_x64(True):
    assert checkpointer.restore(abstract(STATE))[1]["position"] == 7


@pytest.mark.parametrize("dtype", [">f4", ">i2", ">c8", "<f4"])
def test_any_byte_order_comes_back_in_that_of_the_machine(tmp_path, dtype):
  checkpointer = training.Checkpointer(tmp_path)
  state = {"w": np.arange(6).reshape(2, 3).astype(dtype)}
  checkpointer.save(1, state)
  for example in (state, abstract(state), {"w": state["w"].astype(dtype[1:])}):
    restored = checkpointer.restore(example)[1]["w"]
    np.testing.assert_array_equal(restored, state["w"])
    assert restored.dtype.isnative


@pytest.mark.parametrize(
  ("state", "text"),
  [
    ({}, "got no arrays"),
    (None, "got no arrays"),
    ({"x": jnp.zeros((0, 3))}, r"got \[.*'x'.*\]"),
  ],
)
def test_states_without_elements_are_refused(tmp_path, state, text):
  checkpointer = training.Checkpointer(tmp_path)
  with pytest.raises(ValueError, match=f"must hold an array with .* {text}"):
    checkpointer.save(1, state)
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [np.int64(3), np.int32(3)])
def test_numbers_of_rows_may_be_those_of_numpy(tmp_path, number):
  checkpointer = training.Checkpointer(tmp_path)
  checkpointer.save(1, {"w": jnp.arange(4.0)}, num_rows=number)
  example = {"w": jnp.ones(5)}
  _, restored, _ = checkpointer.restore(example, num_rows=number)
  np.testing.assert_array_equal(restored["w"], [0, 1, 2, 3, 0])


@pytest.mark.parametrize(
  ("number", "text"),
  [
    (3, r"state\['count'\] must have at least 3 rows, got 0; its `num_"),
    ({"count": 0, "w": -1}, r"`num_rows of state\['w'\]` must be at least 0"),
    ({"count": 0, "w": 2.0}, r"`num_rows of .*` must be an integer, got 2.0"),
  ],
)
def test_numbers_of_rows_that_cannot_be(tmp_path, number, text):
  checkpointer = training.Checkpointer(tmp_path)
  state = {"w": np.zeros(4), "count": np.int32(0)}
  with pytest.raises(ValueError, match=text):
    checkpointer.save(1, state, num_rows=number)
  assert not list(tmp_path.iterdir())
