"""Tests of `metrics.csv` and of the events for TensorBoard."""

import csv

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboardX.proto import event_pb2
from tensorboardX.record_writer import masked_crc32c

from experiments.reporting import MetricsWriter

STEPS = st.lists(
  st.dictionaries(st.sampled_from("abc"), st.floats(allow_nan=False)),
  max_size=6,
)


def read_rows(workdir):
  with open(workdir / "metrics.csv", newline="", encoding="utf-8") as file:
    return list(csv.DictReader(file))


def read_steps(workdir):
  return [int(row["step"]) for row in read_rows(workdir)]


def read_events(workdir):
  """Reads TensorBoard's record files, which have no reader in tensorboardX."""
  for path in sorted(workdir.glob("events.out.tfevents.*")):
    content = path.read_bytes()
    while content:
      size = int.from_bytes(content[:8], "little")
      payload = content[12 : 12 + size]
      checksum = int.from_bytes(content[12 + size : 16 + size], "little")
      assert checksum == masked_crc32c(payload)
      yield event_pb2.Event.FromString(payload)
      content = content[16 + size :]


def test_rows_are_on_disk_at_once(tmp_path):
  with MetricsWriter(tmp_path) as writer:
    writer.write(1, {"train_loss": 2.0})
    assert writer.path == tmp_path / "metrics.csv"
    assert writer.path.read_text() == "step,train_loss\n1,2.0\n"


def test_columns_keep_their_order(tmp_path):
  with MetricsWriter(tmp_path) as writer:
    writer.write(1, {"b": 1, "a": 2})
    writer.write(2, {"a": 3, "c": 4, "b": 5})
    writer.write(3, {})
  expected = "step,b,a,c\n1,1.0,2.0,\n2,5.0,3.0,4.0\n3,,,\n"
  assert writer.path.read_text() == expected


@settings(max_examples=15)
@given(steps=STEPS)
def test_every_value_is_read_back(steps, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("run")
  with MetricsWriter(workdir) as writer:
    for step, metrics in enumerate(steps):
      writer.write(step, metrics)
  found = [
    {name: float(x) for name, x in row.items() if x and name != "step"}
    for row in read_rows(workdir)
  ]
  assert found == steps


def test_arrays_with_one_value_are_numbers(tmp_path):
  with MetricsWriter(tmp_path) as writer:
    writer.write(1, {"a": jnp.float32(0.5), "b": np.float64(0.25)})
  assert read_rows(tmp_path) == [{"step": "1", "a": "0.5", "b": "0.25"}]


def test_a_new_run_starts_anew(tmp_path):
  for value in (1.0, 2.0):
    with MetricsWriter(tmp_path) as writer:
      writer.write(0, {"a": value})
  assert read_rows(tmp_path) == [{"step": "0", "a": "2.0"}]


@pytest.mark.parametrize("restored_step", [0, 2, 3, 9])
def test_a_resumed_run_has_no_duplicates(tmp_path, restored_step):
  with MetricsWriter(tmp_path) as writer:
    for step in (1, 2, 3, 4):
      writer.write(step, {"a": step})
  with MetricsWriter(tmp_path, restored_step=restored_step) as writer:
    writer.write(restored_step + 1, {"b": 0.0})
  kept = [step for step in (1, 2, 3, 4) if step <= restored_step]
  assert read_steps(tmp_path) == [*kept, restored_step + 1]
  assert set(read_rows(tmp_path)[0]) == {"step", "b"} | (
    {"a"} if kept else set()
  )


def test_resuming_without_a_file_is_fine(tmp_path):
  with MetricsWriter(tmp_path / "new", restored_step=5) as writer:
    writer.write(6, {"a": 1.0})
  assert read_steps(tmp_path / "new") == [6]


def test_a_line_that_was_cut_short_is_dropped(tmp_path):
  (tmp_path / "metrics.csv").write_text("step,a\n1,2.0\n10")
  with MetricsWriter(tmp_path, restored_step=20) as writer:
    writer.write(21, {"a": 3.0})
  assert writer.path.read_text() == "step,a\n1,2.0\n21,3.0\n"


@pytest.mark.parametrize("step", [-1, 0, 5])
def test_steps_must_rise(tmp_path, step):
  with MetricsWriter(tmp_path, restored_step=4) as writer:
    writer.write(5, {"a": 1.0})
    with pytest.raises(ValueError, match=f"the last one, 5, got {step}"):
      writer.write(step, {"a": 1.0})
  assert read_steps(tmp_path) == [5]


def test_the_name_of_the_first_column_is_taken(tmp_path):
  with (
    MetricsWriter(tmp_path) as writer,
    pytest.raises(ValueError, match="must not have the name"),
  ):
    writer.write(1, {"step": 1.0})


def test_scalars_reach_tensorboard(tmp_path):
  with MetricsWriter(tmp_path) as writer:
    writer.write(3, {"train_loss": 1.5})
  scalars = [
    (event.step, value.tag, value.simple_value)
    for event in read_events(tmp_path)
    for value in event.summary.value
  ]
  assert scalars == [(3, "train_loss", 1.5)]


def test_tensorboard_forgets_what_is_run_again(tmp_path):
  with MetricsWriter(tmp_path, restored_step=7) as writer:
    writer.write(8, {"a": 1.0})
  starts = [
    event.step
    for event in read_events(tmp_path)
    if event.HasField("session_log")
  ]
  assert starts == [8]


def read_histograms(workdir):
  return {
    (event.step, value.tag): value.histo
    for event in read_events(workdir)
    for value in event.summary.value
    if value.HasField("histo")
  }


def test_histograms_reach_tensorboard(tmp_path):
  with MetricsWriter(tmp_path) as writer:
    writer.write_histograms(4, {"digits": np.array([[0, 2], [2, 3]], np.uint8)})
  found = read_histograms(tmp_path)[4, "digits"]
  assert (found.min, found.max, found.num, found.sum) == (0, 3, 4, 7)
  # Each digit has a bin for itself, in its middle.
  assert list(found.bucket_limit) == [-0.5, 0.5, 1.5, 2.5, 3.5]
  assert list(found.bucket) == [0, 1, 0, 2, 1]
  assert (tmp_path / "metrics.csv").read_text() == "step\n"


def test_histograms_of_many_values_have_few_bins(tmp_path):
  with MetricsWriter(tmp_path) as writer:
    writer.write_histograms(
      1, {"wide": np.arange(10_000), "real": np.linspace(-1.0, 1.0, 999)}
    )
  found = read_histograms(tmp_path)
  assert all(len(histogram.bucket) <= 65 for histogram in found.values())
  assert sum(found[1, "wide"].bucket) == 10_000


def test_histograms_leave_out_what_is_not_finite(tmp_path):
  values = {"a": [np.nan, 1.0, np.inf], "none": [], "bad": [np.nan]}
  with MetricsWriter(tmp_path) as writer:
    writer.write_histograms(1, values)
  found = read_histograms(tmp_path)
  assert list(found) == [(1, "a")]
  assert found[1, "a"].num == 1
