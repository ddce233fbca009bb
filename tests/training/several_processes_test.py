"""Runs of several processes: killed, stopped, resumed, and the same bytes."""

import contextlib
import multiprocessing
import os
import pathlib
import random
import signal
import time

import chex
import jax
import split_training

from anchor_codes import training
from anchor_codes.training.processes import EXIT_LOST_PEER

NUM_CHUNKS = 16
FORK = multiprocessing.get_context("forkserver")
# Loads all libraries once for all processes.
FORK.set_forkserver_preload(["split_training"])


@contextlib.contextmanager
def started(folder, count, **options):
  """Starts the processes of a run; none outlives the context."""
  for old in logs_of(folder):
    old.unlink()
  port = split_training.free_port()
  processes = [
    FORK.Process(
      target=split_training.main,
      args=(port, rank, count, str(folder), NUM_CHUNKS),
      kwargs=options,
    )
    for rank in range(count)
  ]
  for process in processes:
    process.start()
  try:
    yield processes
  finally:
    for process in processes:
      process.kill()
      process.join()


def wait_for(folder, processes):
  """Waits for the ends of the processes; returns how they ended."""
  for process in processes:
    process.join(timeout=60)
  logs = "".join(path.read_text() for path in logs_of(folder))
  assert all(process.exitcode is not None for process in processes), logs
  return [process.exitcode for process in processes], logs


def logs_of(folder):
  return sorted(folder.parent.glob(f"{folder.name}-log-*"))


def wait_for_step(folder, step, timeout=60):
  deadline = time.monotonic() + timeout
  while not (folder / str(step)).exists() and time.monotonic() < deadline:
    time.sleep(0.005)
  assert (folder / str(step)).exists(), [p.read_text() for p in logs_of(folder)]


def newest(folder):
  return max(training.Checkpointer(folder).steps(), default=-1)


def digests_of(folder, count):
  paths = [pathlib.Path(f"{folder}-digest-{rank}") for rank in range(count)]
  return {path.read_text() for path in paths}


def disturb(folder, processes, kind, rng):
  """Kills or asks to stop once a step is saved, at a random moment."""
  wait_for_step(folder, newest(folder) + 1)
  time.sleep(rng.uniform(0, 0.2))
  victims = {"all": processes, "first": processes[:1]}.get(kind, processes[1:])
  for process in victims:
    os.kill(process.pid, signal.SIGTERM if kind == "ask" else signal.SIGKILL)


def test_whatever_happens_a_run_ends_with_the_same_bytes(tmp_path):
  rng, folder = random.Random(3), tmp_path / "disturbed"
  for kind in ("all", "ask", "last", "first", "all", "last"):
    with started(folder, 2) as processes:
      disturb(folder, processes, kind, rng)
      codes, log = wait_for(folder, processes)
    assert newest(folder) < NUM_CHUNKS - 1, "the run was over too soon"
    if kind == "ask":
      assert codes == [143, 143]
      assert "saved chunk" in log
    elif kind != "all":
      survivor = {"first": 1, "last": 0}[kind]
      assert codes[1 - survivor] == -signal.SIGKILL
      assert_ended_by_watch(codes[survivor], logs_of(folder)[survivor])
  with started(tmp_path / "full", 1, full_at=2) as processes:
    codes, log = wait_for(tmp_path / "full", processes)
  assert codes == [1]
  assert "File too large" in log
  assert newest(tmp_path / "full") == 1
  for name, count in (("disturbed", 2), ("full", 1)):
    with started(tmp_path / name, count) as processes:
      codes, log = wait_for(tmp_path / name, processes)
    assert codes == [0] * count, log
  # Undisturbed, in this process, on as many devices.
  whole = split_training.train(tmp_path / "whole", NUM_CHUNKS)
  expected = {split_training.digest(whole)}
  assert digests_of(tmp_path / "disturbed", 2) == expected
  assert digests_of(tmp_path / "full", 1) == expected
  # So over 208 steps two processes are as one device with whole tables.
  unpad = lambda part: jax.tree.map(lambda leaf: leaf[:size], part)
  size = split_training.NUM_EMBEDDINGS
  ours = {name: unpad(whole[name]) for name in ("rows", "optimizer")}
  chex.assert_trees_all_close(
    ours | {"codebook": whole["codebook"]},
    split_training.train_whole(NUM_CHUNKS),
    rtol=1e-6,
    atol=1e-6,
  )


def assert_ended_by_watch(code, log):
  assert "another process of the run has ended" in log.read_text()
  # JAX may be a little faster to end what is left without a first process.
  assert code in (EXIT_LOST_PEER, -signal.SIGABRT)
