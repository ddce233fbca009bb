"""A small recurrent model to train in chunks, here and in other processes.

It has all that makes data parallelism hard: a table trained by rows, random
numbers, and a carry that is split over the devices like the batch.
"""

import json
import os
import pathlib
import signal
import sys

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import PartitionSpec

from anchor_codes import training

NUM_EMBEDDINGS, FEATURES, BATCH, STEPS = 20, 4, 8, 3
STATE_SPECS = {
  "rows": PartitionSpec(),
  "head": PartitionSpec(),
  "optimizers": PartitionSpec(),
  "carry": PartitionSpec("data"),
  "key": PartitionSpec(),
}
ROWS = optax.chain(
  training.scale_by_row_adagrad(), optax.scale_by_learning_rate(0.3)
)
HEAD = optax.sgd(0.1, momentum=0.9)


def make_state():
  table = jax.random.normal(jax.random.key(0), (NUM_EMBEDDINGS, FEATURES))
  head = jnp.full((FEATURES,), 0.1)
  return {
    "rows": table,
    "head": head,
    "optimizers": {"rows": ROWS.init(table), "head": HEAD.init(head)},
    "carry": jnp.zeros((BATCH, FEATURES)),
    "key": jax.random.key(1),
  }


def make_batches(number):
  """The batches of one chunk."""
  rng = np.random.default_rng(number)
  ids = rng.integers(0, NUM_EMBEDDINGS, (STEPS, BATCH), dtype=np.int32)
  return {"ids": ids, "targets": np.sin(ids).astype(np.float32)}


def loss_of(trained, carry, batch, noise):
  embedded = trained["rows"][batch["positions"]] + noise
  carry = jnp.tanh(0.5 * carry + embedded)
  error = carry @ trained["head"] - batch["targets"]
  return jnp.mean(error**2), carry


def step(state, batch):
  """One step for the global batch."""
  key, noise_key = jax.random.split(state["key"])
  noise = 0.1 * jax.random.normal(noise_key, state["carry"].shape)
  ids, positions = training.unique_ids(
    batch["ids"], num_embeddings=NUM_EMBEDDINGS
  )
  trained = {"rows": state["rows"][ids], "head": state["head"]}
  (loss, carry), gradients = jax.value_and_grad(loss_of, has_aux=True)(
    trained, state["carry"], batch | {"positions": positions}, noise
  )
  optimizers = state["optimizers"]
  rows, row_state = training.update_rows(
    ROWS, state["rows"], optimizers["rows"], ids, gradients["rows"]
  )
  updates, head_state = HEAD.update(gradients["head"], optimizers["head"])
  new_state = {
    "rows": rows,
    "head": optax.apply_updates(state["head"], updates),
    "optimizers": {"rows": row_state, "head": head_state},
    "carry": carry,
    "key": key,
  }
  return new_state, {"loss": loss}


def make_chunk(devices=None):
  mesh = training.data_mesh(devices)
  return training.compile_chunk(step, mesh, state_specs=STATE_SPECS)


def host_copy(state):
  """A state as NumPy arrays, whatever it was before."""

  def copy(leaf):
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
      leaf = jax.random.key_data(leaf)
    if not (leaf.is_fully_addressable or leaf.is_fully_replicated):
      leaf = jax.experimental.multihost_utils.process_allgather(
        leaf, tiled=True
      )
    return np.array(leaf)

  return jax.tree.map(copy, state)


def train(chunk, state, chunks, callbacks=()):
  """Returns the final state and the losses of all steps."""
  losses = []
  state = training.run_chunks(
    chunk,
    state,
    (make_batches(number) for number in chunks),
    callbacks=[
      lambda number, state, metrics: losses.extend(metrics["loss"].tolist()),
      *callbacks,
    ],
    first_chunk=chunks.start,
  )
  return state, losses


def grow_head(number, state, metrics):
  """After the second chunk, starts again with a doubled head and table."""
  del metrics
  if number != 1:
    return None
  state = dict(host_copy(state), key=jax.random.key(7))
  for name in ("rows", "head", "carry"):
    state[name] = np.concatenate([state[name]] * 2, axis=-1)
  state["optimizers"] = {
    "rows": ROWS.init(jnp.asarray(state["rows"])),
    "head": HEAD.init(jnp.asarray(state["head"])),
  }
  return state


def main_of_one_process(port, rank, folder):
  """Trains in one of two processes; prints the losses and a check."""
  jax.config.update("jax_num_cpu_devices", 2)
  jax.distributed.initialize(f"127.0.0.1:{port}", 2, int(rank))
  half = slice(0, BATCH // 2) if rank == "0" else slice(BATCH // 2, BATCH)
  losses = []
  state = training.run_chunks(
    make_chunk(),
    make_state(),
    ({k: v[:, half] for k, v in make_batches(n).items()} for n in range(4)),
    callbacks=[
      grow_head,
      lambda number, state, metrics: losses.extend(metrics["loss"].tolist()),
    ],
  )
  checkpointer = training.Checkpointer(folder)
  checkpointer.save(3, state, {"width": state["head"].size})
  number, restored, _ = checkpointer.restore(state)
  same = jax.tree.map(np.array_equal, host_copy(restored), host_copy(state))
  split = restored["carry"].sharding == state["carry"].sharding
  report = {
    "losses": losses,
    "devices": jax.device_count(),
    "restored": number == 3 and split and all(jax.tree.leaves(same)),
  }
  print(json.dumps(report), flush=True)


def main_with_checkpoints(folder, num_chunks, kill_at):
  """Trains on from the newest checkpoint; may kill itself in a save."""
  checkpointer = training.Checkpointer(folder)
  state, first = make_state(), 0
  if checkpointer.steps():
    number, state, _ = checkpointer.restore(state)
    first = number + 1

  def save(number, state, metrics):
    if number == int(kill_at):
      kill_before_the_record_is_complete()
    checkpointer.save(number, state, {"loss": metrics["loss"].tolist()})

  state, _ = train(make_chunk(), state, range(first, int(num_chunks)), [save])
  return state


def kill_before_the_record_is_complete():
  """Makes the next save end in SIGKILL, with half of its last file written."""

  def write_half(path, text, **_):
    path.write_bytes(text[: len(text) // 2].encode())
    os.kill(os.getpid(), signal.SIGKILL)

  pathlib.Path.write_text = write_half


if __name__ == "__main__":
  jax.config.update("jax_num_cpu_devices", 4)
  mains = {
    "distributed": main_of_one_process,
    "checkpoints": main_with_checkpoints,
  }
  mains[sys.argv[1]](*sys.argv[2:])
