r"""Compares the ways in which rows that are split over devices travel.

  python -m experiments.benchmarks.sharded

trains a full table, sparse rows of anchors, and the codebooks of fixed codes,
whose rows are split over 1, 2 and 4 forced CPU devices, with each exchange of
:func:`anchor_codes.training.exchange_rows`: the milliseconds of a step, and the
bytes that a device has to send in it, from the compiled program: all of them,
and those for rows, their ids and gradients, without the sum of the gradient of
what all devices share. A batch holds 16,384 ids of 400,000, evenly drawn; rows
are updated by row-wise Adagrad.

Forced CPU devices share the cores of one machine: between machines it is the
bytes that count. All take turns; the median counts. `--quick` is a small run.
"""

import dataclasses
import functools
import json
import pathlib
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags
from jax.sharding import Mesh
from jaxtyping import Array

from anchor_codes import ops, training
from anchor_codes.training import chunks
from experiments import reporting
from experiments.benchmarks import collectives
from experiments.reporting import files

NAME = "sharded"
EXCHANGES: tuple[training.RowExchange, ...] = ("auto", "scatter", "all_to_all")
COLUMNS = {
  "table": "Table",
  "exchange": "Exchange",
  "devices": "Devices",
  "milliseconds": "ms/step",
  "row_kilobytes": "KB of rows/step",
  "kilobytes": "KB sent/step",
  "largest": "Largest KB",
  "row_bytes": "Row bytes",
}
"""Headings of the columns of the table by their names."""
PICTURE = reporting.Picture(
  title="What a training step sends between devices for its rows",
  value="row_kilobytes",
  caption="KB of rows in a step (lower is better)",
  lines=("exchange",),
  x="devices",
  x_caption="Devices",
  x_unit="",
  panel="table",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
  """What is measured.

  Attributes:
    num_embeddings: Rows of a table.
    features: Length of a vector.
    batch_size: Ids of a batch.
    num_anchors: Number of anchors.
    num_nonzeros: Anchors of a row.
    code_length: Digits of a code, of 256 values each.
    steps: Steps of a chunk.
    turns: How often each chunk is measured.
    devices: Numbers of devices.
  """

  num_embeddings: int = 400_000
  features: int = 64
  batch_size: int = 16_384
  num_anchors: int = 256
  num_nonzeros: int = 8
  code_length: int = 16
  steps: int = 8
  turns: int = 5
  devices: tuple[int, ...] = (1, 2, 4)


QUICK = Sizes(
  num_embeddings=20_000, batch_size=1024, steps=2, turns=2, devices=(4,)
)


class Table(NamedTuple):
  """A table to train.

  Attributes:
    rows: One record for each symbol.
    shared: What all devices have: anchors, codebooks, or nothing.
    init: From padded rows to the state of their optimiser.
    vectors: From the rows of a batch and the shared part to vectors.
    update: From the shared part, rows, state, ids and the gradients of vectors
      to new rows and state; None if only the shared part is trained.
  """

  rows: Any
  shared: Any
  init: Callable[[Any], Any]
  vectors: Callable[[Any, Any], Array]
  update: Callable[..., tuple[Any, Any]] | None


def optimizer() -> optax.GradientTransformation:
  """Returns the optimiser of rows."""
  return optax.chain(
    training.scale_by_row_adagrad(), optax.scale_by_learning_rate(0.1)
  )


def full_table(sizes: Sizes) -> Table:
  """Makes a table of whole vectors."""
  rng = np.random.default_rng(0)
  shape = sizes.num_embeddings, sizes.features

  def update(shared: Any, *arguments: Any) -> tuple[Any, Any]:
    del shared
    return training.update_rows(optimizer(), *arguments)

  return Table(
    rows=rng.standard_normal(shape, np.float32),
    shared=(),
    init=optimizer().init,
    vectors=lambda rows, shared: rows,
    update=update,
  )


def anchor_table(sizes: Sizes) -> Table:
  """Makes sparse rows of anchors, of six bytes for each non-zero."""
  rng = np.random.default_rng(0)
  shape = sizes.num_embeddings, sizes.num_nonzeros
  # Distinct in each row: neighbours around a circle.
  indices = rng.integers(0, sizes.num_anchors, (shape[0], 1))
  indices = (indices + np.arange(shape[1])) % sizes.num_anchors
  rows = ops.SparseRows(
    indices=jnp.asarray(indices, jnp.uint16),
    weights=jnp.asarray(rng.random(shape, np.float32)),
  )

  def init(rows: ops.SparseRows) -> Any:
    # The dense form, in which rows are trained, exists for those of a batch
    # alone; Adagrad of whole rows needs one number of each.
    return optimizer().init(rows.weights)

  def vectors(rows: ops.SparseRows, anchors: Array) -> Array:
    order = jnp.arange(rows.weights.shape[0], dtype=jnp.int32)
    return ops.sparse_anchor_lookup(rows, anchors, order)

  def update(
    anchors: Array, rows: ops.SparseRows, state: Any, ids: Array, grads: Array
  ) -> tuple[Any, Any]:
    batch = training.gather_rows(rows, ids)
    dense = ops.expand_rows(batch, num_anchors=sizes.num_anchors)
    updates: Any
    updates, state = training.row_updates(
      optimizer(),
      dense,
      state,
      ids,
      jnp.matmul(grads, anchors.T),
      num_embeddings=rows.weights.shape[0],
    )
    moved = ops.nonnegative_soft_threshold(dense + updates, 1e-4)
    sparse = ops.project_rows(moved, num_nonzeros=sizes.num_nonzeros)
    return training.scatter_rows(rows, ids, sparse), state

  anchors = rng.standard_normal((sizes.num_anchors, sizes.features), np.float32)
  return Table(rows, anchors, init, vectors, update)


def code_table(sizes: Sizes) -> Table:
  """Makes fixed codes, of one byte for each digit."""
  rng = np.random.default_rng(0)
  shape = sizes.num_embeddings, sizes.code_length
  codebooks = rng.standard_normal(
    (sizes.code_length, 256, sizes.features), np.float32
  )

  def vectors(rows: Array, codebooks: Array) -> Array:
    total = jnp.zeros((rows.shape[0], sizes.features))
    for digit in range(sizes.code_length):
      total += jnp.take(codebooks[digit], rows[:, digit], axis=0, mode="clip")
    return total

  codes = rng.integers(0, 256, shape, np.uint8)
  return Table(codes, codebooks, lambda rows: (), vectors, None)


TABLES = {"full": full_table, "anchors": anchor_table, "codes": code_table}


class Side(NamedTuple):
  """A compiled chunk of steps.

  Attributes:
    cell: What is known before it runs.
    program: From a state and batches to a new state and metrics.
    state: The state to begin with.
    batches: The ids of all steps.
  """

  cell: dict[str, Any]
  program: Callable[[Any, Any], tuple[Any, Any]]
  state: Any
  batches: Any


def make_step(
  table: Table,
  mesh: Mesh,
  exchange: training.RowExchange,
  *,
  num_embeddings: int,
) -> chunks.Step:
  """Returns a step that makes the vectors of a batch shorter."""

  def step(state: Any, ids: Array) -> tuple[Any, Any]:
    batch, route = training.exchange_rows(
      state["rows"],
      ids,
      num_embeddings=num_embeddings,
      mesh=mesh,
      exchange=exchange,
    )
    vectors, pull = jax.vjp(
      functools.partial(table.vectors, batch), state["shared"]
    )
    loss, grads = jax.value_and_grad(lambda v: jnp.mean(v**2))(vectors)
    new = dict(state)
    new["shared"] = jax.tree.map(
      lambda value, grad: value - 0.1 * grad, state["shared"], *pull(grads)
    )
    if table.update is not None:
      new["rows"], new["optimizer"] = training.update_sharded_rows(
        functools.partial(table.update, state["shared"]),
        state["rows"],
        state["optimizer"],
        route,
        grads,
        mesh=mesh,
        exchange=exchange,
      )
    return new, {"loss": loss, "overflow": route.overflow}

  return step


def make_side(
  name: str, exchange: training.RowExchange, num_devices: int, sizes: Sizes
) -> Side:
  """Compiles the training of a table, and reads what it sends."""
  mesh = training.data_mesh(jax.devices()[:num_devices])
  table = TABLES[name](sizes)
  rows = training.pad_rows(table.rows, num_devices)
  leaves = jax.tree.leaves(rows)
  state = {"rows": rows, "optimizer": table.init(rows)}
  state["shared"] = table.shared
  chunk = training.compile_chunk(
    make_step(table, mesh, exchange, num_embeddings=sizes.num_embeddings),
    mesh,
    state_specs=training.row_specs(state, len(leaves[0])),
  )
  shape = sizes.steps, sizes.batch_size
  ids = np.random.default_rng(1).integers(0, sizes.num_embeddings, shape)
  state, batches = chunk.put_state(state), chunk.put_batches(ids.astype("i4"))
  program: Any = chunk.program
  program = program.lower(state, batches).compile()
  moves = collectives.find_collectives(
    program.as_text(), num_devices=num_devices
  )
  cell = {
    "table": name,
    "exchange": exchange,
    "devices": num_devices,
    "kilobytes": sum(move.wire_bytes for move in moves) / 1e3,
    "reduced": sum(m.wire_bytes for m in moves if m.kind == "all-reduce") / 1e3,
    "largest": max((move.nbytes for move in moves), default=0) / 1e3,
    "row_bytes": sum(leaf.nbytes // len(leaf) for leaf in leaves),
  }
  return Side(cell, program, state, batches)


def measure(sides: list[Side], turns: int, steps: int) -> list[dict[str, Any]]:
  """Lets the sides take turns; returns their cells with the time of a step.

  Args:
    sides: The sides; their states are donated.
    turns: How often each is measured, after a first time that does not count.
    steps: Steps of a chunk.

  Raises:
    RuntimeError: If ids have found no room, so that the work was not done.
  """
  states = [side.state for side in sides]
  seconds: list[list[float]] = [[] for _ in sides]
  for _ in reporting.progress(range(turns + 1), description=NAME, unit="turn"):
    for number, side in enumerate(sides):
      start = time.perf_counter()
      states[number], metrics = side.program(states[number], side.batches)
      if np.any(np.asarray(metrics["overflow"])):
        raise RuntimeError(f"ids have found no room: {side.cell}.")
      seconds[number].append(time.perf_counter() - start)
  return [
    side.cell | {"milliseconds": 1e3 * statistics.median(found[1:]) / steps}
    for side, found in zip(sides, seconds, strict=True)
  ]


def run_benchmark(
  sizes: Sizes, workdir: str | pathlib.Path
) -> list[dict[str, Any]]:
  """Measures, prints a table, and writes `result.json` and `sharded.png`.

  Args:
    sizes: What is measured.
    workdir: Folder for the files.

  Returns:
    The cells of the table.
  """
  cells = []
  for name in TABLES:
    # Table by table, so that only one is in memory so many times.
    sides = [
      make_side(name, exchange, num_devices, sizes)
      for num_devices in sizes.devices
      for exchange in EXCHANGES
    ]
    cells += collectives.without_shared(
      measure(sides, sizes.turns, sizes.steps)
    )
  content = {
    "sizes": dataclasses.asdict(sizes),
    "metrics": collectives.ratios(cells),
    "cells": cells,
  }
  workdir = pathlib.Path(workdir)
  text = json.dumps(content, indent=2) + "\n"
  files.write_atomically(workdir / "result.json", text)
  reporting.plot_table(cells, workdir / f"{NAME}.png", PICTURE)
  print(reporting.format_table(cells, COLUMNS))
  return cells


def main(argv: list[str]) -> None:
  """Runs the benchmark that the flags describe."""
  if len(argv) > 1:
    raise app.UsageError(f"Unexpected arguments: {argv[1:]}.")
  options = flags.FLAGS
  sizes = QUICK if options.quick else Sizes()
  jax.config.update("jax_num_cpu_devices", max(sizes.devices))
  run_benchmark(sizes, options.workdir)


if __name__ == "__main__":
  flags.DEFINE_bool("quick", False, "Whether to make a small run.")
  flags.DEFINE_string("workdir", f"workdir/{NAME}", "Folder for the numbers.")
  app.run(main)
