"""Chunks of steps: the same training on any number of devices."""

import functools
import json
import os
import pathlib
import socket
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_training
from compilations import count_compilations
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from anchor_codes import training

ROOT = pathlib.Path(__file__).parents[2]
NUM_CHUNKS = 4


def assert_states_close(actual, expected):
  chex.assert_trees_all_close(
    toy_training.host_copy(actual),
    toy_training.host_copy(expected),
    rtol=1e-4,
    atol=1e-5,
  )


@functools.cache
def python_loop():
  """The same training, step by step, on one device, without a mesh."""
  step, losses = jax.jit(toy_training.step), []
  state = toy_training.make_state()
  for number in range(NUM_CHUNKS):
    batches = toy_training.make_batches(number)
    for i in range(toy_training.STEPS):
      batch = jax.tree.map(lambda x, i=i: jnp.asarray(x[i]), batches)
      state, metrics = step(state, batch)
      losses.append(float(metrics["loss"]))
  return state, losses


@pytest.mark.parametrize("num_devices", [1, 2, 4])
def test_any_number_of_devices_trains_as_a_plain_loop(num_devices):
  chunk = toy_training.make_chunk(jax.devices()[:num_devices])
  state, losses = toy_training.train(
    chunk, toy_training.make_state(), range(NUM_CHUNKS)
  )
  expected_state, expected = python_loop()
  np.testing.assert_allclose(losses, expected, rtol=1e-5)
  assert_states_close(state, expected_state)
  assert state["carry"].sharding.spec == PartitionSpec("data")
  assert len(state["carry"].sharding.device_set) == num_devices
  assert state["rows"].sharding.is_fully_replicated


def test_runs_are_reproducible_to_the_bit():
  chunk = toy_training.make_chunk()
  (state, losses), (other_state, other_losses) = [
    toy_training.train(chunk, toy_training.make_state(), range(2))
    for _ in range(2)
  ]
  assert losses == other_losses
  chex.assert_trees_all_equal(
    toy_training.host_copy(state), toy_training.host_copy(other_state)
  )


def table_step(rows, batch, axis_name=None):
  """A step for the global batch, or with a name for the part of a device."""

  def loss_of(rows):
    return jnp.mean((rows[batch["ids"]].sum(-1) - batch["targets"]) ** 2)

  loss, gradient = jax.value_and_grad(loss_of)(rows)
  if axis_name:
    loss, gradient = jax.lax.pmean((loss, gradient), axis_name)
  return rows - 0.1 * gradient, {"loss": loss}


def test_step_runs_under_pmap():
  devices, rows = jax.devices()[:2], toy_training.make_state()["rows"]
  batches = toy_training.make_batches(0)
  chunk = training.compile_chunk(table_step, training.data_mesh(devices))
  expected_rows, expected = chunk(jnp.copy(rows), batches)
  parallel = jax.pmap(
    functools.partial(table_step, axis_name="data"),
    axis_name="data",
    in_axes=(None, 0),
    out_axes=None,
    devices=devices,
  )
  losses = []
  for i in range(toy_training.STEPS):
    parts = jax.tree.map(lambda x, i=i: x[i].reshape(2, -1), batches)
    rows, metrics = parallel(rows, parts)
    losses.append(float(metrics["loss"]))
  np.testing.assert_allclose(losses, expected["loss"], rtol=1e-5)
  np.testing.assert_allclose(rows, expected_rows, rtol=1e-5)


def free_port():
  with socket.socket() as connection:
    connection.bind(("127.0.0.1", 0))
    return connection.getsockname()[1]


def run_processes(commands, timeout):
  """Runs commands side by side; none outlives the timeout."""
  environment = dict(os.environ, PYTHONPATH=str(ROOT), JAX_PLATFORMS="cpu")
  processes = [
    subprocess.Popen(
      [sys.executable, toy_training.__file__, *map(str, command)],
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      env=environment,
      text=True,
    )
    for command in commands
  ]
  try:
    return [process.communicate(timeout=timeout) for process in processes]
  finally:
    for process in processes:
      process.kill()
      process.wait()


def test_two_processes_train_as_one(tmp_path):
  port = free_port()
  outputs = run_processes(
    [["distributed", port, rank, tmp_path] for rank in range(2)], timeout=120
  )
  for _, error in outputs:
    assert "Traceback" not in error, error
  reports = [json.loads(out.splitlines()[-1]) for out, _ in outputs]
  _, expected = toy_training.train(
    toy_training.make_chunk(jax.devices()[:1]),
    toy_training.make_state(),
    range(NUM_CHUNKS),
    callbacks=[toy_training.grow_head],
  )
  assert reports[0] == reports[1]
  assert reports[0]["devices"] == 4
  assert reports[0]["restored"]
  np.testing.assert_allclose(reports[0]["losses"], expected, rtol=1e-5)


def counting_step(state, batch):
  """Adds up the batches."""
  total = state["total"] + batch["x"].sum()
  return {"total": total}, {"loss": total, "mean": batch["x"].mean()}


def ones(num_steps=2, batch=4):
  return {"x": np.ones((num_steps, batch), np.float32)}


def make_counter():
  return {"total": np.float32(0)}


def test_one_trace_for_repeated_chunks():
  chex.clear_trace_counter()
  step = chex.assert_max_traces(counting_step, n=1)
  chunk = training.compile_chunk(step, training.data_mesh())
  state = training.run_chunks(chunk, make_counter(), [ones()] * 4)
  assert float(state["total"]) == 2 * 4 * 4


def test_weak_types_do_not_compile_again():
  chunk = training.compile_chunk(counting_step, training.data_mesh())
  weak = {"total": jnp.full((), 0.0)}
  assert weak["total"].weak_type
  with count_compilations() as counts:
    training.run_chunks(chunk, weak, [ones()] * 2)
  assert counts["jit(run)"] == 1


def test_new_shapes_are_compiled_once():
  chunk = training.compile_chunk(counting_step, training.data_mesh())
  batches = [ones(), ones(3), ones(), ones(3), ones(2, 8)]
  with count_compilations() as counts:
    state = training.run_chunks(chunk, make_counter(), batches)
  assert float(state["total"]) == 8 + 12 + 8 + 12 + 16
  assert counts["jit(run)"] == 3


def test_state_is_donated_and_host_copies_are_not_touched():
  chunk = training.compile_chunk(counting_step, training.data_mesh())
  host = make_counter() | {"total": np.zeros((), np.float32)}
  state = chunk.put_state(host)
  chunk(state, ones())
  assert state["total"].is_deleted()
  assert host["total"] == 0


def test_what_is_on_the_mesh_stays_there():
  chunk = training.compile_chunk(counting_step, training.data_mesh())
  state, batches = chunk.put_state(make_counter()), chunk.put_batches(ones())
  assert chunk.put_state(state)["total"] is state["total"]
  assert chunk.put_batches(batches)["x"] is batches["x"]
  expected = NamedSharding(chunk.mesh, PartitionSpec(None, "data"))
  assert batches["x"].sharding == expected


def test_metrics_are_stacked_along_the_steps():
  chunk = training.compile_chunk(counting_step, training.data_mesh())
  _, metrics = chunk(make_counter(), ones(3))
  np.testing.assert_array_equal(metrics["loss"], [4.0, 8.0, 12.0])
  assert metrics["loss"].sharding.is_fully_replicated


def test_batch_specs_are_a_prefix_of_the_batches():
  def step(state, batch):
    return state + batch["scale"] * batch["x"].sum(), {}

  chunk = training.compile_chunk(
    step,
    training.data_mesh(),
    batch_specs={
      "x": PartitionSpec(None, "data"),
      "scale": PartitionSpec(),
    },
  )
  batches = ones(3) | {"scale": np.array([1, 10, 100], np.float32)}
  state, _ = chunk(np.float32(0), batches)
  assert float(state) == 4 * 111


def test_callbacks_run_in_order_on_host_metrics():
  calls = []

  def record(name):
    def callback(number, state, metrics):
      assert isinstance(metrics["mean"], np.ndarray)
      calls.append((name, number, float(state["total"])))

    return callback

  chunk = training.compile_chunk(counting_step, training.data_mesh())
  training.run_chunks(
    chunk,
    make_counter(),
    [ones()] * 2,
    callbacks=[record("a"), record("b")],
    first_chunk=5,
  )
  assert calls == [("a", 5, 8), ("b", 5, 8), ("a", 6, 16), ("b", 6, 16)]


def test_callbacks_replace_the_state():
  seen = []

  def reset(number, state, metrics):
    return make_counter() if number == 1 else None

  def look(number, state, metrics):
    seen.append(float(state["total"]))

  chunk = training.compile_chunk(counting_step, training.data_mesh())
  training.run_chunks(
    chunk, make_counter(), [ones()] * 4, callbacks=[reset, look]
  )
  assert seen == [8, 0, 8, 16]


def test_callbacks_may_change_shapes():
  chunk = toy_training.make_chunk()
  with count_compilations() as counts:
    state, losses = toy_training.train(
      chunk,
      toy_training.make_state(),
      range(NUM_CHUNKS),
      callbacks=[toy_training.grow_head],
    )
  assert state["head"].shape == (2 * toy_training.FEATURES,)
  assert len(losses) == NUM_CHUNKS * toy_training.STEPS
  assert counts["jit(run)"] == 2


def test_batches_are_drawn_only_when_they_are_needed():
  drawn, drawn_at_callback = [], []

  def source():
    for number in range(3):
      drawn.append(number)
      yield ones()

  chunk = training.compile_chunk(counting_step, training.data_mesh())
  training.run_chunks(
    chunk,
    make_counter(),
    source(),
    callbacks=[lambda *args: drawn_at_callback.append(len(drawn))],
  )
  assert drawn_at_callback == [1, 2, 3]


def test_no_batches_leave_the_state():
  chunk = training.compile_chunk(counting_step, training.data_mesh())
  state = make_counter()
  assert training.run_chunks(chunk, state, []) is state


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_loss_that_is_not_finite_stops_the_run(value):
  calls = []
  bad = ones(3)
  bad["x"][1, 2] = value
  chunk = training.compile_chunk(counting_step, training.data_mesh())
  message = rf"the loss is {value} at step 1 of chunk 8"
  with pytest.raises(FloatingPointError, match=message):
    training.run_chunks(
      chunk,
      make_counter(),
      [ones(3), bad, ones(3)],
      callbacks=[lambda number, *_: calls.append(number)],
      first_chunk=7,
    )
  assert calls == [7]


@pytest.mark.parametrize(
  "make_metrics",
  [lambda x: {"other": x}, lambda x: (x,), lambda x: None],
  ids=["mapping", "tuple", "none"],
)
def test_metrics_without_a_loss_are_not_checked(make_metrics):
  def step(state, batch):
    return state, make_metrics(batch["x"].sum())

  chunk = training.compile_chunk(step, training.data_mesh())
  nan = {"x": np.full((2, 4), np.nan, np.float32)}
  training.run_chunks(chunk, make_counter(), [nan])


def test_refuses_batches_that_do_not_split():
  chunk = training.compile_chunk(counting_step, training.data_mesh())
  message = "a batch of 10 cannot be split evenly over the 4 devices of mesh ax"
  with pytest.raises(ValueError, match=message):
    chunk(make_counter(), ones(2, 10))


def test_refuses_states_that_do_not_split():
  chunk = toy_training.make_chunk(jax.devices()[:3])
  with pytest.raises(ValueError, match="a state axis of 8 cannot be split"):
    chunk.put_state(toy_training.make_state())


def test_data_mesh_takes_all_devices():
  mesh = training.data_mesh()
  assert mesh.devices.tolist() == jax.devices()
  assert mesh.axis_names == ("data",)
  assert mesh.axis_types == (AxisType.Auto,)
  assert training.data_mesh(jax.devices()[1:3]).size == 2


def test_batches_are_prepared_for_all_steps_at_once():
  seen = []

  def step(total, batch):
    return total + batch.sum(), {"sum": batch.sum()}

  def prepare(total, batches):
    seen.append(batches.shape)
    return batches * 10 + total

  chunk = training.compile_chunk(step, training.data_mesh(), prepare=prepare)
  batches = np.arange(8, dtype=np.float32).reshape(2, 4)
  for _ in range(2):
    total, metrics = chunk(np.float32(1), batches)
  np.testing.assert_array_equal(metrics["sum"], [64, 224])
  assert total == 289
  assert seen == [(2, 4)]  # One trace.
