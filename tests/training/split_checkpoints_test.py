"""Checkpoints of rows that are split over devices."""

import functools
import json
import random

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import split_training
from jax.sharding import NamedSharding, PartitionSpec

from anchor_codes import training
from anchor_codes.training import checkpoints, digests

NUM_ROWS = split_training.NUM_ROWS


def on_devices(num_devices, state=None):
  """The state, padded for some devices and split over them."""
  mesh = training.data_mesh(jax.devices()[:num_devices])
  state = split_training.make_state(num_devices) if state is None else state
  specs = split_training.specs_of(state)
  return jax.tree.map(
    lambda leaf, spec: jax.device_put(leaf, NamedSharding(mesh, spec)),
    state,
    specs,
  )


def without_padding(state):
  host = jax.device_get(state)
  cut = {
    name: training.unpad_rows(host[name], size)
    for name, size in NUM_ROWS.items()
    if size
  }
  return host | cut


def record_of(folder, step):
  return json.loads((folder / str(step) / "record.json").read_text())


def saved(folder, num_devices=4):
  checkpointer = training.Checkpointer(folder)
  checkpointer.save(1, on_devices(num_devices), num_rows=NUM_ROWS)
  return checkpointer


def test_each_piece_has_a_digest_of_its_own(tmp_path):
  saved(tmp_path)
  arrays = record_of(tmp_path, 1)["arrays"]
  rows = arrays["state['rows']"]
  assert rows["shape"] == [40, 4]
  assert rows["num_rows"] == split_training.NUM_EMBEDDINGS
  bounds = [(piece["start"], piece["stop"]) for piece in rows["pieces"]]
  # Rows of padding are in no piece.
  assert bounds == [
    ([a, 0], [b, 4]) for a, b in ((0, 10), (10, 20), (20, 30), (30, 37))
  ]
  assert len({piece["sha256"] for piece in rows["pieces"]}) == 4
  assert "pieces" not in arrays["state['codebook']"]


def test_no_array_is_gathered_to_be_hashed(tmp_path, monkeypatch):
  read = []
  sha256 = digests._sha256

  def record(values):
    read.append(np.size(values))
    return sha256(values)

  monkeypatch.setattr(digests, "_sha256", record)
  checkpointer = saved(tmp_path)
  checkpointer.restore(on_devices(4), num_rows=NUM_ROWS)
  assert max(read) == 10 * split_training.FEATURES


@pytest.mark.parametrize("before", [1, 4])
@pytest.mark.parametrize("after", [1, 2, 3, 4])
def test_other_numbers_of_devices_have_other_padding(tmp_path, before, after):
  checkpointer = saved(tmp_path, before)
  example = on_devices(after)
  _, restored, _ = checkpointer.restore(example, num_rows=NUM_ROWS)
  chex.assert_trees_all_equal_shapes_and_dtypes(restored, example)
  chex.assert_trees_all_equal(
    without_padding(restored), without_padding(on_devices(before))
  )
  for ours, theirs in zip(
    jax.tree.leaves(restored), jax.tree.leaves(example), strict=True
  ):
    assert ours.sharding == theirs.sharding


@functools.cache
def make_chunk(num_devices):
  return split_training.make_chunk(jax.devices()[:num_devices])


def train_one_chunk(folder, num_devices):
  """Trains on from the newest checkpoint, on some devices."""
  chunk, first = make_chunk(num_devices), 0
  state = chunk.put_state(split_training.make_state(num_devices))
  checkpointer = training.Checkpointer(folder)
  if checkpointer.steps():
    number, state, _ = checkpointer.restore(state, num_rows=NUM_ROWS)
    first = number + 1
  batches = split_training.make_batches(first)
  # Three devices divide this batch, too.
  state, _ = chunk(state, jax.tree.map(lambda leaf: leaf[:, :12], batches))
  checkpointer.save(first, state, num_rows=NUM_ROWS)
  return without_padding(state)


def test_a_run_goes_on_with_other_devices(tmp_path):
  train_one_chunk(tmp_path / "changed", 4)
  changed = train_one_chunk(tmp_path / "changed", 3)
  train_one_chunk(tmp_path / "same", 4)
  same = train_one_chunk(tmp_path / "same", 4)
  chex.assert_trees_all_close(changed, same, atol=1e-6)


def test_sixty_flipped_bits_are_all_noticed(tmp_path):
  checkpointer, rng = saved(tmp_path), random.Random(0)
  files = sorted(p for p in (tmp_path / "1").rglob("*") if p.is_file())
  files = [path for path in files if path.stat().st_size]
  example = on_devices(4)
  for _ in range(60):
    (path,) = rng.choices(files, [file.stat().st_size for file in files])
    intact = path.read_bytes()
    data = bytearray(intact)
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    with (
      pytest.warns(UserWarning, match="passed over the damaged checkpoint 1"),
      pytest.raises(training.CheckpointError, match="no intact checkpoint"),
    ):
      checkpointer.restore(example, num_rows=NUM_ROWS)
    path.write_bytes(intact)
  assert checkpointer.restore(example, num_rows=NUM_ROWS)[0] == 1


def rewrite(folder, step, change):
  """Changes a record, and makes it agree with itself again."""
  path = folder / str(step) / "record.json"
  record = json.loads(path.read_text())
  change(record)
  record["sha256"] = checkpoints._digest_of_record(record)
  path.write_text(json.dumps(record))


@pytest.mark.parametrize("num_devices", [1, 2, 4])
def test_pieces_are_verified_on_any_number_of_devices(tmp_path, num_devices):
  checkpointer = saved(tmp_path)

  def change(record):
    record["arrays"]["state['rows']"]["pieces"][3]["sha256"] = "0" * 64

  rewrite(tmp_path, 1, change)
  with (
    pytest.warns(UserWarning, match=r"state\['rows'\] does not agree"),
    pytest.raises(training.CheckpointError),
  ):
    checkpointer.restore(on_devices(num_devices), num_rows=NUM_ROWS)


def test_records_without_pieces_still_restore(tmp_path):
  """As they were written before: one digest for an array, and no padding."""
  host = without_padding(split_training.make_state(4))
  state = jax.tree.map(jnp.asarray, host)
  checkpointer = training.Checkpointer(tmp_path)
  checkpointer.save(1, state)
  entries = record_of(tmp_path, 1)["arrays"]
  assert {*entries["state['rows']"]} == {"shape", "dtype", "sha256"}
  chex.assert_trees_all_equal(checkpointer.restore(state)[1], state)
  _, split, _ = checkpointer.restore(on_devices(4), num_rows=NUM_ROWS)
  chex.assert_trees_all_equal(without_padding(split), host)


@pytest.mark.parametrize(
  ("name", "change", "message"),
  [
    ("rows", {"rows": 36}, r"is float32\[37, 4\] in the .* float32\[36, 4\]"),
    ("none", {"rows": 0}, r"float32\[40, 4\] in the example.*`num_rows`"),
    ("many", {"rows": 41}, "must have at least 41 rows, got 40"),
  ],
)
def test_another_vocabulary_does_not_fit(tmp_path, name, change, message):
  checkpointer = saved(tmp_path)
  with pytest.raises(ValueError, match=message):
    checkpointer.restore(on_devices(4), num_rows=NUM_ROWS | change)


def test_another_layer_does_not_fit(tmp_path):
  checkpointer = saved(tmp_path)
  example = on_devices(4)
  example["indices"] = example.pop("codes")
  numbers = {n: NUM_ROWS.get(n, split_training.NUM_CODES) for n in example}
  message = (
    r"state\['indices'\] is missing in the checkpoint and uint8\[21, 2\]"
  )
  with pytest.raises(ValueError, match=message):
    checkpointer.restore(example, num_rows=numbers)


def anchor_state(num_anchors, num_shards):
  """Rows and anchors in a capacity, split over devices."""
  capacity = training.anchor_capacity(num_anchors)
  rng = np.random.default_rng(num_anchors)
  table = {
    "transform": rng.random((10, capacity), np.float32),
    "anchors": rng.random((capacity, 3), np.float32),
  }
  table["transform"] = training.pad_rows(table["transform"], num_shards)
  return {"items": table}


def anchor_specs():
  return {"transform": PartitionSpec("data"), "anchors": PartitionSpec()}


def put_anchors(state, num_devices):
  mesh = training.data_mesh(jax.devices()[:num_devices])
  put = lambda leaf, spec: jax.device_put(leaf, NamedSharding(mesh, spec))
  return {"items": jax.tree.map(put, state["items"], anchor_specs())}


def test_another_anchor_capacity_and_other_devices(tmp_path):
  """The metadata say how many anchors there were when a step was saved."""
  checkpointer = training.Checkpointer(tmp_path)
  numbers = {"items": {"transform": 10, "anchors": 0}}
  before = put_anchors(anchor_state(5, 4), 4)
  checkpointer.save(1, before, {"num_anchors": 5}, num_rows=numbers)
  grown = training.resize_anchors(
    jax.device_get(before), table="items", keep=range(5), capacity=16
  )
  checkpointer.save(
    2, put_anchors(grown, 4), {"num_anchors": 9}, num_rows=numbers
  )

  def example(metadata):
    return put_anchors(anchor_state(metadata["num_anchors"], 3), 3)

  for step, capacity, state in ((2, 16, grown), (1, 8, before)):
    _, restored, _ = checkpointer.restore(example, step=step, num_rows=numbers)
    assert restored["items"]["anchors"].shape == (capacity, 3)
    assert restored["items"]["transform"].shape == (12, capacity)
    ours, theirs = (
      np.asarray(tree["items"]["transform"])[:10] for tree in (restored, state)
    )
    np.testing.assert_array_equal(ours, theirs)
