"""A training run that is sent SIGTERM saves, stops, and goes on."""

import dataclasses
import os
import signal
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anchor_codes import steps, training
from experiments import training_run


@dataclasses.dataclass
class Config:
  """Options of a run of three epochs of two chunks."""

  dataset: str = "numbers"
  embedding: str = "full"
  epochs: int = 3
  chunk_steps: int = 2
  checkpoint_chunks: int = 100
  seed: int = 0
  data_dir: str = ""


def init():
  return steps.TrainState(
    step=jnp.int32(0),
    rows={},
    params=jnp.float32(1),
    stats={},
    row_states={},
    opt_state={},
    carry=(),
  )


def step(state, batch):
  new = 0.9 * state.params + batch.mean()
  return state._replace(step=state.step + 1, params=new), {"loss": new}


class Run(training_run.TrainingRun):
  """A run that may be sent a signal in one of its chunks."""

  signal_at = -1

  def __init__(self, config, workdir):
    trainer = types.SimpleNamespace(
      step=step, init=init, prepare=lambda state, batches: batches
    )
    mesh = training.data_mesh(jax.devices()[:1])
    super().__init__(config, workdir, trainer, steps_per_epoch=4, mesh=mesh)
    self.cares, self.chunks = {}, []

  def batches(self, epoch, begin, end):
    self.chunks.append((epoch, begin))
    if len(self.chunks) - 1 == self.signal_at:
      os.kill(os.getpid(), signal.SIGTERM)
    rng = np.random.default_rng([epoch, begin])
    return rng.random((end - begin, 4), np.float32)

  def report(self, loss):
    return {"loss": loss}

  def end_epoch(self, epoch, state):
    return None, {}

  def _layers(self, state):
    return {}

  def finish(self, state, *, seconds):
    raise NotImplementedError


def test_saves_stops_and_goes_on_bit_for_bit(tmp_path, capsys):
  run = Run(Config(), tmp_path / "stopped")
  run.signal_at = 2
  with pytest.raises(training.PreemptedError) as caught:
    run.train()
  assert caught.value.code == 143
  message = "Stopped by SIGTERM after step 6, saved; go on with --resume."
  assert message in capsys.readouterr().err
  resumed = Run(Config(), tmp_path / "stopped")
  state = resumed.train(resume=True)
  assert resumed.chunks == [(1, 2), (2, 0), (2, 2)]
  whole = Run(Config(), tmp_path / "whole").train()
  assert (
    np.asarray(state.params).tobytes() == np.asarray(whole.params).tobytes()
  )


def test_says_that_nothing_was_saved(tmp_path, capsys):
  run = Run(Config(checkpoint_chunks=0), tmp_path)
  run.signal_at = 0
  with pytest.raises(training.PreemptedError):
    run.train()
  assert "after step 2, not saved." in capsys.readouterr().err
