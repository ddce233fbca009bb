"""States in which one array stands several times, such as a model and a copy.

The memory of a state is given to the next one, and can be given once only.
"""

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from anchor_codes import training


def make_chunk(num_devices):
  def step(state, batch):
    params = state["params"] + batch.mean()
    return state | {"params": params}, {"loss": batch.mean()}

  mesh = training.data_mesh(jax.devices()[:num_devices])
  return training.compile_chunk(step, mesh)


BATCHES = np.ones((2, 4), np.float32)


@pytest.mark.parametrize("num_devices", [1, 4])
def test_a_state_may_start_with_the_same_array_twice(num_devices):
  params, key = jnp.ones(3), jax.random.key(0)
  state = {"params": params, "average": params, "keys": [key, key]}
  state, _ = make_chunk(num_devices)(state, BATCHES)
  np.testing.assert_array_equal(state["params"], np.full(3, 3.0))
  np.testing.assert_array_equal(state["average"], np.ones(3))
  assert (state["keys"][0] == state["keys"][1]).all()


@pytest.mark.parametrize("num_devices", [1, 4])
def test_a_callback_may_keep_what_was_best(num_devices):
  def keep(number, state, metrics):
    return state | {"best": state["params"]} if number == 0 else None

  state = training.run_chunks(
    make_chunk(num_devices),
    {"params": jnp.zeros(3), "best": jnp.zeros(3)},
    [BATCHES] * 3,
    callbacks=[keep],
  )
  np.testing.assert_array_equal(state["best"], np.full(3, 2.0))
  np.testing.assert_array_equal(state["params"], np.full(3, 6.0))


def test_only_what_stands_twice_is_copied():
  chunk = make_chunk(4)
  state = chunk.put_state({"params": jnp.ones(3), "average": jnp.ones(3)})
  again = chunk.put_state(state)
  assert all(again[name] is state[name] for name in state)
  shared = chunk.put_state(dict.fromkeys(state, state["params"]))
  assert sum(leaf is state["params"] for leaf in shared.values()) == 1
