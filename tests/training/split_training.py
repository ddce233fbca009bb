"""A small model whose rows are split, to train in any number of processes.

It has a full table, whose gradients go back to the owners by all-to-all, and a
table of codes, which only travel. Neither can be split evenly.
"""

import contextlib
import functools
import hashlib
import os
import pathlib
import resource
import socket
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint
from jax.experimental import multihost_utils
from jax.sharding import PartitionSpec

from anchor_codes import training

# Loaded once for all the processes that are forked off.
PRELOADED = (orbax.checkpoint,)

NUM_EMBEDDINGS, NUM_CODES, FEATURES, BATCH, STEPS = 37, 21, 4, 16, 13
OPTIMIZER = optax.chain(
  training.scale_by_row_adagrad(), optax.scale_by_learning_rate(0.3)
)
NUM_ROWS = {
  "rows": NUM_EMBEDDINGS,
  "optimizer": NUM_EMBEDDINGS,
  "codes": NUM_CODES,
  "codebook": 0,
}


def make_state(num_shards=4):
  """The state, padded for some devices; drawn by NumPy, which compiles not."""
  rng = np.random.default_rng(0)
  rows = rng.standard_normal((NUM_EMBEDDINGS, FEATURES), np.float32)
  state = {
    "rows": rows,
    "optimizer": OPTIMIZER.init(rows),
    "codes": rng.integers(0, 8, (NUM_CODES, 2), np.uint8),
  }
  codebook = rng.standard_normal((8, FEATURES), np.float32)
  return training.pad_rows(state, num_shards) | {"codebook": codebook}


def specs_of(state):
  split = {
    name: training.row_specs(state[name], len(jax.tree.leaves(state[name])[0]))
    for name in ("rows", "optimizer", "codes")
  }
  return split | {"codebook": PartitionSpec()}


def make_batches(number):
  rng = np.random.default_rng(number)
  draw = lambda size: rng.integers(0, size, (STEPS, BATCH, 2), dtype=np.int32)
  return {"ids": draw(NUM_EMBEDDINGS), "others": draw(NUM_CODES)}


def learn(codebook, rows, codes):
  """Returns the loss, the gradient of the rows, and the new codebook."""
  codes = codes.astype(jnp.int32)

  def loss_of(rows, decoded):
    return jnp.mean((rows - jnp.sin(decoded)) ** 2)

  loss, (gradients, decoded) = jax.value_and_grad(loss_of, (0, 1))(
    rows, codebook[codes].sum(-2)
  )
  # On a grid sums are exact, in whatever order the devices add them up: one
  # process and several do not in the same.
  decoded = jnp.round(decoded * 2**16) / 2**16
  shared = jnp.zeros_like(codebook).at[codes].add(decoded[..., None, :])
  return loss, gradients, codebook - 0.1 * shared


def train_whole(num_chunks):
  """Trains whole tables on one device, by optax alone."""

  def take_step(state, batch):
    rows, optimizer, codebook = state
    codes = start["codes"][batch["others"]]
    _, gradients, codebook = learn(codebook, rows[batch["ids"]], codes)
    gradients = jnp.zeros_like(rows).at[batch["ids"]].add(gradients)
    updates, optimizer = OPTIMIZER.update(gradients, optimizer, rows)
    return (optax.apply_updates(rows, updates), optimizer, codebook), None

  start = jax.tree.map(jnp.asarray, make_state(1))
  state = start["rows"], start["optimizer"], start["codebook"]
  chunk = jax.jit(lambda *args: jax.lax.scan(take_step, *args)[0])
  for number in range(num_chunks):
    state = chunk(state, make_batches(number))
  names = "rows", "optimizer", "codebook"
  return dict(zip(names, state, strict=True))


def step(state, batch, mesh):
  """One step for the global batch."""
  exchange = functools.partial(training.exchange_rows, mesh=mesh)
  rows, route = exchange(
    state["rows"],
    batch["ids"],
    num_embeddings=NUM_EMBEDDINGS,
    exchange="all_to_all",
  )
  codes, _ = exchange(state["codes"], batch["others"], num_embeddings=NUM_CODES)

  loss, gradients, codebook = learn(state["codebook"], rows, codes)
  rows, optimizer = training.update_sharded_rows(
    functools.partial(training.update_rows, OPTIMIZER),
    state["rows"],
    state["optimizer"],
    route,
    gradients,
    mesh=mesh,
    exchange="all_to_all",
  )
  new = {"rows": rows, "optimizer": optimizer, "codebook": codebook}
  return state | new, {"loss": loss, "overflow": route.overflow}


def make_chunk(devices=None):
  mesh = training.data_mesh(devices)
  return training.compile_chunk(
    functools.partial(step, mesh=mesh),
    mesh,
    state_specs=specs_of(make_state(mesh.size)),
  )


def local_part(batches):
  """What this process brings to the global batch."""
  size = BATCH // jax.process_count()
  part = slice(size * jax.process_index(), size * (jax.process_index() + 1))
  return jax.tree.map(lambda leaf: leaf[:, part], batches)


@contextlib.contextmanager
def full_disk():
  """No file may have more than a few bytes."""
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def train(folder, num_chunks, *, preemption=None, full_at=None):
  """Trains on from the newest checkpoint, and saves after each chunk."""
  chunk, first = make_chunk(), 0
  state = chunk.put_state(make_state(chunk.mesh.size))
  checkpointer = training.Checkpointer(folder)
  if checkpointer.steps():
    number, state, _ = checkpointer.restore(state, num_rows=NUM_ROWS)
    first = number + 1

  def save(number, state, metrics):
    assert not metrics["overflow"].any()
    with full_disk() if number == full_at else contextlib.nullcontext():
      checkpointer.save(number, state, num_rows=NUM_ROWS)
    if preemption and preemption.requested():
      preemption.stop(f"saved chunk {number}")

  chunks = (local_part(make_batches(n)) for n in range(first, num_chunks))
  return training.run_chunks(
    chunk, state, chunks, callbacks=[save], first_chunk=first
  )


def digest(state):
  """SHA-256 of the state without padding."""
  total = hashlib.sha256()
  for leaf in jax.tree.leaves(state):
    if not leaf.is_fully_addressable and not leaf.is_fully_replicated:
      leaf = multihost_utils.process_allgather(leaf, tiled=True)
    total.update(np.asarray(leaf).tobytes())
  return total.hexdigest()


def main(port, rank, count, folder, num_chunks, **options):
  """Trains in one of several processes; leaves the digest in a file."""
  log = pathlib.Path(f"{folder}-log-{rank}")
  with log.open("a") as file:
    os.dup2(file.fileno(), sys.stdout.fileno())
    os.dup2(file.fileno(), sys.stderr.fileno())
  jax.config.update("jax_num_cpu_devices", 4 // count)
  # A program is compiled once for all that are killed.
  cache = pathlib.Path(folder).parent / f"cache-{count}-{rank}"
  jax.config.update("jax_compilation_cache_dir", str(cache))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
  jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
  if count > 1:
    jax.distributed.initialize(f"127.0.0.1:{port}", count, rank)
  with training.PeerWatch(), training.Preemption() as preemption:
    state = train(folder, num_chunks, preemption=preemption, **options)
    pathlib.Path(f"{folder}-digest-{rank}").write_text(digest(state))
  if count > 1:
    jax.distributed.shutdown()


def free_port():
  with socket.socket() as connection:
    connection.bind(("127.0.0.1", 0))
    return connection.getsockname()[1]
