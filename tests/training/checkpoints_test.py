"""Checkpoints: what comes back is what was saved, or the step before."""

import json
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import sys
import time

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy_training
from jax.sharding import NamedSharding, PartitionSpec

from anchor_codes import training
from anchor_codes.training import checkpoints, digests

ROOT = pathlib.Path(__file__).parents[2]


def make_state(value=1):
  return {"w": jnp.full((8, 4), value, jnp.float32), "step": jnp.int32(value)}


def all_kinds():
  """Leaves of all kinds, in containers of all kinds."""
  params = {"a/b": jnp.linspace(-1, 1, 12).reshape(3, 4), "c": [jnp.ones(2)]}
  return {
    "params": params,
    "optimizer": optax.adam(0.1).init(params),
    "key": jax.random.key(3),
    "keys": jax.random.split(jax.random.key(4), 5),
    "bfloat16": jnp.arange(3, dtype=jnp.bfloat16),
    "codes": jnp.array([[0, 255]], jnp.uint8),
    "mask": jnp.array([True, False]),
    "odd": jnp.array([jnp.nan, -0.0, jnp.inf]),
    "empty": jnp.zeros((0, 3)),
    "numpy": np.arange(3.0),
    "scalar": np.int64(7),
    "none": None,
  }


def assert_same_bits(actual, expected):
  chex.assert_trees_all_equal_structs(actual, expected)
  pairs = zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True)
  for ours, theirs in pairs:
    assert ours.dtype == theirs.dtype
    if jnp.issubdtype(ours.dtype, jax.dtypes.prng_key):
      ours, theirs = map(jax.random.key_data, (ours, theirs))
    assert ours.shape == theirs.shape
    assert np.asarray(ours).tobytes() == np.asarray(theirs).tobytes()


def files_of(folder):
  return sorted(path for path in folder.rglob("*") if path.is_file())


def flip_bit(path, position=0.5):
  data = bytearray(path.read_bytes())
  data[int(len(data) * position)] ^= 4
  path.write_bytes(data)


def largest_file(folder):
  return max(files_of(folder), key=lambda path: path.stat().st_size)


def saved_twice(folder, **options):
  checkpointer = training.Checkpointer(folder, **options)
  checkpointer.save(1, make_state(1), {"name": "one"})
  checkpointer.save(2, make_state(2), {"name": "two"})
  return checkpointer


def test_all_kinds_of_leaves_come_back_bit_for_bit(tmp_path):
  state = all_kinds()
  metadata = {"config": {"lr": 0.1}, "sizes": [1, 2], "text": "ä", "none": None}
  training.Checkpointer(tmp_path).save(5, state, metadata)
  step, restored, read = training.Checkpointer(tmp_path).restore(state)
  assert step == 5
  assert read == metadata
  assert_same_bits(restored, state)
  assert isinstance(restored["numpy"], np.ndarray)
  assert isinstance(restored["optimizer"][0], optax.ScaleByAdamState)


def test_restored_keys_go_on_with_the_same_numbers(tmp_path):
  checkpointer = training.Checkpointer(tmp_path)
  state = {"key": jax.random.key(0, impl="rbg")}
  checkpointer.save(0, state)
  _, restored, _ = checkpointer.restore(state)
  draw = jax.random.normal(restored["key"], (3,))
  np.testing.assert_array_equal(draw, jax.random.normal(state["key"], (3,)))


def test_examples_may_be_abstract(tmp_path):
  checkpointer = training.Checkpointer(tmp_path)
  state = {
    "w": jnp.ones(3),
    "keys": jax.random.split(jax.random.key(0)),
    "empty": jnp.zeros((0, 2)),
  }
  checkpointer.save(1, state)
  _, restored, _ = checkpointer.restore(jax.eval_shape(lambda: state))
  assert_same_bits(restored, state)


def sharding_over(num_devices):
  mesh = training.data_mesh(jax.devices()[:num_devices])
  return NamedSharding(mesh, PartitionSpec("data"))


@pytest.mark.parametrize("num_devices", [1, 2, 4])
def test_arrays_come_back_on_the_shardings_of_the_example(
  tmp_path, num_devices
):
  checkpointer = training.Checkpointer(tmp_path)
  keys = jax.random.split(jax.random.key(0), 8)
  state = {"w": jnp.arange(8.0), "keys": keys}
  checkpointer.save(1, jax.device_put(state, sharding_over(4)))
  example = jax.device_put(state, sharding_over(num_devices))
  _, restored, _ = checkpointer.restore(example)
  assert_same_bits(restored, state)
  for name in state:
    assert restored[name].sharding == example[name].sharding


def test_keeps_the_newest_steps(tmp_path):
  checkpointer = training.Checkpointer(tmp_path, max_to_keep=2)
  for step in (3, 20, 100):
    checkpointer.save(step, make_state(step))
  assert checkpointer.steps() == [20, 100]
  assert sorted(path.name for path in tmp_path.iterdir()) == ["100", "20"]
  step, restored, _ = checkpointer.restore(make_state())
  assert step == 100
  assert int(restored["step"]) == 100


def test_restores_the_step_asked_for(tmp_path):
  step, state, metadata = saved_twice(tmp_path).restore(make_state(), step=1)
  assert step == 1
  assert metadata == {"name": "one"}
  assert_same_bits(state, make_state(1))


def test_latest_metadata(tmp_path):
  assert saved_twice(tmp_path).latest_metadata() == (2, {"name": "two"})


def test_shapes_may_change_from_step_to_step(tmp_path):
  checkpointer = training.Checkpointer(tmp_path)
  for step, size in enumerate((4, 8)):
    checkpointer.save(step, {"anchors": jnp.ones((size, 2))}, {"size": size})

  def example(metadata):
    return {"anchors": np.zeros((metadata["size"], 2), np.float32)}

  assert checkpointer.restore(example)[1]["anchors"].shape == (8, 2)
  flip_bit(largest_file(tmp_path / "1" / "state"))
  with pytest.warns(UserWarning, match="passed over the damaged checkpoint 1"):
    step, state, _ = checkpointer.restore(example)
  assert step == 0
  assert state["anchors"].shape == (4, 2)


def test_callable_states_are_examples_not_functions(tmp_path):
  checkpointer = training.Checkpointer(tmp_path)
  state = jax.tree_util.Partial(make_state, jnp.ones(2))
  assert callable(state)
  checkpointer.save(0, state)
  assert_same_bits(checkpointer.restore(state)[1], state)


DAMAGES = {
  "first_byte": lambda path: flip_bit(path, 0),
  "middle": flip_bit,
  "truncated": lambda path: path.write_bytes(path.read_bytes()[:-1]),
  "emptied": lambda path: path.write_bytes(b""),
  "missing": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_in_any_file_falls_back(tmp_path, damage):
  checkpointer = saved_twice(tmp_path)
  for path in files_of(tmp_path / "2"):
    intact = path.read_bytes()
    if not intact:
      continue
    DAMAGES[damage](path)
    with pytest.warns(UserWarning, match="damaged checkpoint 2") as record:
      step, state, metadata = checkpointer.restore(make_state())
    assert path.name in str(record[0].message)
    assert (step, metadata) == (1, {"name": "one"})
    assert_same_bits(state, make_state(1))
    path.write_bytes(intact)
  assert checkpointer.restore(make_state())[0] == 2


def test_damaged_metadata_are_passed_over(tmp_path):
  checkpointer = saved_twice(tmp_path)
  record = tmp_path / "2" / "record.json"
  record.write_text(record.read_text().replace('"two"', '"2wo"'))
  with pytest.warns(UserWarning, match="record.json does not agree"):
    assert checkpointer.latest_metadata() == (1, {"name": "one"})


def test_arrays_are_verified_apart_from_files(tmp_path):
  checkpointer = saved_twice(tmp_path)
  two = tmp_path / "2"
  shutil.rmtree(two / "state")
  shutil.copytree(tmp_path / "1" / "state", two / "state")
  record = json.loads((two / "record.json").read_text())
  (two / "record.json").unlink()
  record["files"] = digests.digests_of_files(two)
  record["sha256"] = checkpoints._digest_of_record(record)
  (two / "record.json").write_text(json.dumps(record))
  with pytest.warns(UserWarning, match=r"state\['step'\] does not agree"):
    assert checkpointer.restore(make_state())[0] == 1


def test_a_run_goes_on_after_damage(tmp_path):
  checkpointer = saved_twice(tmp_path)
  flip_bit(largest_file(tmp_path / "2" / "state"))
  with pytest.warns(UserWarning, match="damaged"):
    checkpointer.restore(make_state())
  checkpointer.save(2, make_state(22))
  assert checkpointer.steps() == [1, 2]
  assert (tmp_path / "damaged-2").is_dir()
  _, state, _ = checkpointer.restore(make_state())
  assert_same_bits(state, make_state(22))


def test_no_step_is_an_error(tmp_path):
  checkpointer = training.Checkpointer(tmp_path / "a" / "b")
  assert checkpointer.steps() == []
  with pytest.raises(training.CheckpointError, match="no intact checkpoint in"):
    checkpointer.restore(make_state())
  with pytest.raises(training.CheckpointError, match="no intact checkpoint in"):
    checkpointer.latest_metadata()


def test_all_steps_damaged_is_an_error(tmp_path):
  checkpointer = saved_twice(tmp_path)
  for step in "12":
    flip_bit(largest_file(tmp_path / step / "state"))
  with (
    pytest.warns(UserWarning, match="damaged"),
    pytest.raises(training.CheckpointError, match="no intact checkpoint in"),
  ):
    checkpointer.restore(make_state())


def test_the_step_asked_for_does_not_fall_back(tmp_path):
  checkpointer = saved_twice(tmp_path)
  with pytest.raises(training.CheckpointError, match="no intact checkpoint 7"):
    checkpointer.restore(make_state(), step=7)
  flip_bit(largest_file(tmp_path / "2" / "state"))
  with (
    pytest.warns(UserWarning, match="damaged"),
    pytest.raises(training.CheckpointError, match="no intact checkpoint 2"),
  ):
    checkpointer.restore(make_state(), step=2)


@pytest.mark.parametrize(
  ("example", "message"),
  [
    (
      {"w": jnp.ones((8, 5)), "step": jnp.int32(0)},
      r"state\['w'\] is float32\[8, 4\] in the checkpoint and "
      r"float32\[8, 5\] in the example",
    ),
    (
      {"w": jnp.ones((8, 4))},
      r"state\['step'\] is int32\[\] in the checkpoint and missing",
    ),
    (
      make_state() | {"new": jnp.ones(1)},
      r"state\['new'\] is missing in the checkpoint",
    ),
    (make_state() | {"w": jnp.ones((8, 4), jnp.bfloat16)}, "and bfloat16"),
  ],
)
def test_refuses_other_examples(tmp_path, example, message):
  checkpointer = saved_twice(tmp_path)
  with pytest.raises(ValueError, match=message):
    checkpointer.restore(example)


@pytest.mark.parametrize("step", [0, 1, 2])
def test_refuses_to_go_back(tmp_path, step):
  checkpointer = saved_twice(tmp_path)
  with pytest.raises(ValueError, match=f"`step` must be greater .* got {step}"):
    checkpointer.save(step, make_state())
  assert checkpointer.restore(make_state())[0] == 2


@pytest.mark.parametrize(
  ("arguments", "error", "message"),
  [
    ((-1, make_state()), ValueError, "`step` must be at least 0, got -1"),
    ((True, make_state()), ValueError, "`step` must be an integer"),
    ((1, {"a": [3]}), TypeError, r"state\['a'\]\[0\] must be an array, got 3"),
    ((1, make_state(), {"a": {1, 2}}), TypeError, "not JSON serializable"),
  ],
)
def test_refuses_to_save(tmp_path, arguments, error, message):
  checkpointer = training.Checkpointer(tmp_path)
  with pytest.raises(error, match=message):
    checkpointer.save(*arguments)
  assert not list(tmp_path.iterdir())


def test_refuses_to_keep_nothing(tmp_path):
  with pytest.raises(ValueError, match="`max_to_keep` must be at least 1"):
    training.Checkpointer(tmp_path, max_to_keep=0)


def test_needs_orbax(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "orbax.checkpoint", None)
  message = r"pip install 'anchor-codes\[experiments\]'"
  with pytest.raises(ImportError, match=message):
    training.Checkpointer(tmp_path)


def test_half_written_steps_are_ignored_and_removed(tmp_path):
  checkpointer = saved_twice(tmp_path)
  shutil.copytree(tmp_path / "2", tmp_path / "saving-3")
  assert checkpointer.steps() == [1, 2]
  assert checkpointer.restore(make_state())[0] == 2
  checkpointer.save(3, make_state(3))
  assert checkpointer.steps() == [1, 2, 3]
  assert not (tmp_path / "saving-3").exists()


def test_errors_of_writing_are_raised(tmp_path):
  checkpointer = saved_twice(tmp_path)
  noise = jax.random.normal(jax.random.key(0), (100_000,))
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
  try:
    with pytest.raises(Exception, match="File too large"):
      checkpointer.save(3, {"w": noise})
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
  assert checkpointer.steps() == [1, 2]
  assert checkpointer.restore(make_state())[0] == 2
  checkpointer.save(3, {"w": noise})
  assert_same_bits(checkpointer.restore({"w": noise})[1], {"w": noise})


def start_training(*arguments):
  environment = dict(os.environ, PYTHONPATH=str(ROOT), JAX_PLATFORMS="cpu")
  command = [sys.executable, toy_training.__file__, "checkpoints"]
  return subprocess.Popen(
    command + [str(argument) for argument in arguments],
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
    env=environment,
  )


def wait_for(process, timeout=120):
  try:
    return process.wait(timeout)
  finally:
    process.kill()
    process.wait()


def test_kill_in_a_save_then_resume_bit_for_bit(tmp_path):
  killed, whole = tmp_path / "killed", tmp_path / "whole"
  process = start_training(killed, 4, 2)
  assert wait_for(process) == -signal.SIGKILL
  assert (killed / "saving-2" / "record.json").exists()
  assert training.Checkpointer(killed).steps() == [0, 1]
  resumed = toy_training.main_with_checkpoints(killed, 4, -1)
  expected = toy_training.main_with_checkpoints(whole, 4, -1)
  assert_same_bits(resumed, expected)
  losses = training.Checkpointer(whole).latest_metadata()
  assert training.Checkpointer(killed).latest_metadata() == losses


@pytest.mark.slow
def test_kills_at_any_time_then_resume_bit_for_bit(tmp_path):
  killed, whole = tmp_path / "killed", tmp_path / "whole"
  for delay in (0.01, 0.1):
    process = start_training(killed, 100, -1)
    before = set(killed.glob("*"))
    deadline = time.monotonic() + 120
    while set(killed.glob("*")) <= before and time.monotonic() < deadline:
      time.sleep(0.001)
    time.sleep(delay)
    process.kill()
    assert wait_for(process) == -signal.SIGKILL
  num_chunks = max(training.Checkpointer(killed).steps(), default=0) + 2
  resumed = toy_training.main_with_checkpoints(killed, num_chunks, -1)
  expected = toy_training.main_with_checkpoints(whole, num_chunks, -1)
  assert_same_bits(resumed, expected)
