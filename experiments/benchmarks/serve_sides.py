"""Who serves tables in the benchmark of serving."""

import dataclasses
import importlib
import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp

from anchor_codes import serving, tables

PEERS = {"torch": "PyTorch", "fbgemm_gpu": "FBGEMM", "faiss": "faiss"}
"""Libraries to compare with, by the modules that they are."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
  """What is measured.

  Attributes:
    num_embeddings: Rows of a table.
    features: Width of a vector.
    num_ids: Ids of a lookup.
    num_queries: Queries of a search.
    turns: Turns that count; one more is added to compile.
    k: How many rows to find for a query.
  """

  num_embeddings: int = 1_000_000
  features: int = 128
  num_ids: int = 8192
  num_queries: int = 64
  turns: int = 15
  k: int = 10


Serve = Callable[[np.ndarray], Any]
"""Serves the ids or queries of a turn; returns when all is computed."""


@dataclasses.dataclass(frozen=True)
class Side:
  """Who takes part in a task.

  Attributes:
    name: The table, and who serves it.
    serve: How it does.
    nbytes: Bytes of the table.
  """

  name: str
  serve: Serve
  nbytes: int


def make_tables(sizes: Sizes) -> dict[str, tables.Table]:
  """Makes compact tables out of random numbers: their values do not matter.

  Args:
    sizes: Their sizes; the width is divisible by 16.

  Returns:
    Codes of 16 digits in 8 and in 4 bits, anchors, and int4 rows, by name.
  """
  rng = np.random.default_rng(0)
  rows, features = sizes.num_embeddings, sizes.features
  normal = lambda *shape: rng.standard_normal(shape, np.float32)
  width = features // 16
  codes = {
    f"codes, {bits} bits": tables.CodeTable.from_codes(
      rng.integers(0, 2**bits, (rows, 16), np.uint8),
      normal(16, 2**bits, width),
      composition="concat",
    )
    for bits in (8, 4)
  }
  anchors = tables.AnchorTable(
    normal(512, features),
    weights=normal(rows, 8).astype(np.float16),
    indices=rng.integers(0, 512, (rows, 8), np.uint16),
  )
  int4 = tables.DenseTable(
    rng.integers(0, 256, (rows, features // 2), np.uint8),
    scales=rng.random(rows, np.float32),
    dtype="int4",
    features=features,
  )
  return {**codes, "anchors": anchors, "int4 rows": int4}


def lookup_sides(
  dense: np.ndarray, compact: dict[str, tables.Table]
) -> Iterator[Side]:
  """Yields who looks up ids; the first is what the others are compared with.

  Args:
    dense: The full table.
    compact: The compact ones.
  """
  yield Side("full, NumPy", lambda ids: dense[ids], dense.nbytes)
  for name, table in compact.items():
    yield Side(f"{name}, ours", table.lookup, table.nbytes)
  if is_installed("torch"):
    torch: Any = importlib.import_module("torch")
    weight = torch.from_numpy(dense)
    embed = lambda ids: torch.nn.functional.embedding(
      torch.from_numpy(ids), weight
    )
    yield Side("full, PyTorch", embed, dense.nbytes)
  if is_installed("torch") and is_installed("fbgemm_gpu"):
    yield _fbgemm_side(dense)
  if is_installed("faiss"):
    table = compact["codes, 8 bits"]
    index = serving.to_faiss(table)
    yield Side("codes, 8 bits, faiss", index.reconstruct_batch, table.nbytes)


def jax_sides(
  dense: np.ndarray, compact: dict[str, tables.Table]
) -> Iterator[Side]:
  """Yields who looks up ids in JAX, as :func:`lookup_sides` does.

  Args:
    dense: The full table.
    compact: The compact ones.
  """
  rows = jnp.asarray(dense)
  full = serving.to_jax(tables.DenseTable(dense))
  take = jax.jit(lambda rows, ids: jnp.take(rows, ids, axis=0))
  lookups: dict[str, tuple[Callable[[Any], Any], int]] = {
    "full, jnp.take": (
      lambda ids: take(rows, jnp.asarray(ids, jnp.int32)),
      dense.nbytes,
    ),
    "full, ours": (full.lookup, dense.nbytes),
  }
  for name, table in compact.items():
    lookups[f"{name}, ours"] = serving.to_jax(table).lookup, table.nbytes
  for name, (lookup, nbytes) in lookups.items():
    serve = lambda ids, lookup=lookup: lookup(ids).block_until_ready()
    yield Side(name, serve, nbytes)


def _fbgemm_side(dense: np.ndarray) -> Side:
  """Returns the lookup of int4 rows by FBGEMM, as bags of one id."""
  torch: Any = importlib.import_module("torch")
  importlib.import_module("fbgemm_gpu")
  operations = torch.ops.fbgemm
  packed = operations.FloatToFusedNBitRowwiseQuantizedSBHalf(
    torch.from_numpy(dense), 4
  )

  def lookup(ids: np.ndarray) -> Any:
    rows = packed[torch.from_numpy(ids)]
    return operations.FusedNBitRowwiseQuantizedSBHalfToFloat(rows, 4)

  return Side("int4 rows, FBGEMM", lookup, packed.nbytes)


def bag_sides(
  dense: np.ndarray, compact: dict[str, tables.Table]
) -> Iterator[Side]:
  """Yields who sums up bags of 32 ids.

  Args:
    dense: The full table.
    compact: The compact ones.
  """
  offsets = lambda ids: np.arange(0, len(ids), 32)
  pool = lambda ids: np.add.reduceat(dense[ids], offsets(ids), axis=0)
  yield Side("full, NumPy", pool, dense.nbytes)
  for name, table in compact.items():
    serve = lambda ids, table=table: table.bag(ids, offsets(ids))
    yield Side(f"{name}, ours", serve, table.nbytes)
  if is_installed("torch"):
    torch: Any = importlib.import_module("torch")
    weight = torch.from_numpy(dense)
    serve = lambda ids: torch.nn.functional.embedding_bag(
      torch.from_numpy(ids), weight, torch.from_numpy(offsets(ids)), mode="sum"
    )
    yield Side("full, PyTorch", serve, dense.nbytes)


def search_sides(
  dense: np.ndarray, compact: dict[str, tables.Table], *, k: int
) -> Iterator[Side]:
  """Yields who finds the best rows for queries; each returns ids.

  Args:
    dense: The full table.
    compact: The compact ones.
    k: How many rows to find.
  """
  full = lambda q: np.argpartition(q @ dense.T, -k, axis=1)[:, -k:]
  yield Side("full, NumPy", full, dense.nbytes)
  for name, table in compact.items():
    serve = lambda q, table=table: table.top_k(q, k)[1]
    yield Side(f"{name}, ours", serve, table.nbytes)
  if not is_installed("faiss"):
    return
  table = compact["codes, 4 bits"]
  index = serving.to_faiss(table)
  wide = min(10 * k, table.num_embeddings)

  def search(queries: np.ndarray) -> np.ndarray:
    candidates = index.search(queries, wide)[1]
    return serving.rerank(table, queries, candidates, k)[1]

  yield Side("codes, 4 bits, to_faiss", search, table.nbytes)


def is_installed(module: str) -> bool:
  """Tells whether a library is there, without loading it."""
  return importlib.util.find_spec(module) is not None
