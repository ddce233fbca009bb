"""A run that is asked to stop saves, stops, and goes on bit for bit."""

import os
import signal
import threading

import jax
import numpy as np
import pytest

from anchor_codes import training
from anchor_codes.training import preemption as preemption_module


@pytest.fixture
def handler():
  """A handler that was there before."""
  calls = []
  before = signal.signal(signal.SIGTERM, lambda *event: calls.append(event[0]))
  yield calls
  signal.signal(signal.SIGTERM, before)


def test_nothing_is_requested_by_itself(handler):
  with training.Preemption() as preemption:
    assert not preemption.requested()
  assert handler == []


def test_notes_the_first_signal_only(handler):
  with training.Preemption() as preemption:
    os.kill(os.getpid(), signal.SIGTERM)
    assert preemption.requested()
    assert handler == []
    os.kill(os.getpid(), signal.SIGTERM)
    assert handler == [signal.SIGTERM]
    assert preemption.requested()


def test_puts_the_handler_back(handler):
  with training.Preemption():
    pass
  signal.raise_signal(signal.SIGTERM)
  assert handler == [signal.SIGTERM]


def test_other_threads_are_left_alone(handler):
  seen = []

  def run():
    with training.Preemption() as preemption:
      seen.append(preemption.requested())

  thread = threading.Thread(target=run)
  thread.start()
  thread.join()
  assert seen == [False]
  signal.raise_signal(signal.SIGTERM)
  assert handler == [signal.SIGTERM]


def test_stops_with_a_message_and_a_status(capsys):
  with pytest.raises(training.PreemptedError) as caught:
    training.Preemption().stop("saved step 3")
  assert caught.value.code == preemption_module.EXIT_PREEMPTED == 143
  assert str(caught.value) == "saved step 3"
  assert capsys.readouterr().err == "saved step 3\n"


def drift(state, batch):
  """A step whose result depends on all steps before."""
  state = np.float32(0.9) * state + batch.mean()
  return state, {"loss": state}


def run(folder, *, signal_at=-1, num_chunks=4):
  chunk = training.compile_chunk(drift, training.data_mesh(jax.devices()[:1]))
  checkpointer, state, first = training.Checkpointer(folder), np.float32(1), 0
  if checkpointer.steps():
    number, state, _ = checkpointer.restore(chunk.put_state(state))
    first = number + 1

  def save(number, state, metrics):
    if number == signal_at:
      signal.raise_signal(signal.SIGTERM)
    if preemption.requested():
      checkpointer.save(number, state)
      preemption.stop(f"saved chunk {number}")

  batches = np.random.default_rng(0).random((num_chunks, 3, 4), np.float32)
  with training.Preemption() as preemption:
    return training.run_chunks(
      chunk, state, batches[first:], callbacks=[save], first_chunk=first
    )


def test_a_run_that_was_stopped_goes_on_bit_for_bit(tmp_path, handler):
  with pytest.raises(training.PreemptedError, match="saved chunk 1"):
    run(tmp_path / "stopped", signal_at=1)
  assert training.Checkpointer(tmp_path / "stopped").steps() == [1]
  resumed, whole = run(tmp_path / "stopped"), run(tmp_path / "whole")
  assert np.asarray(resumed).tobytes() == np.asarray(whole).tobytes()


def test_one_process_has_no_peers():
  with training.PeerWatch() as watch:
    assert watch._thread is None
  with pytest.raises(KeyError), training.PeerWatch():
    raise KeyError
