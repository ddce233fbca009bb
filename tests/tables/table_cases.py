"""Tables of all kinds, each with its full table by the definition."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from anchor_codes import bits, tables, typing
from anchor_codes.tables import anchor_rows

V = 11  # Rows of all cases.
WORDS = tuple(f"wörd {i}\n" for i in range(V))


class Case(NamedTuple):
  table: tables.Table
  dense: np.ndarray  # float64, one loop over the definition.


def floats(*shape: int, seed: int = 0, dtype: type = np.float32) -> np.ndarray:
  return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def integers(limit: int, *shape: int, seed: int = 0) -> np.ndarray:
  return np.random.default_rng(seed).integers(0, limit, shape)


def sparse_anchors(dtype: type = np.float32) -> Case:
  anchors, weights = floats(5, 6, dtype=dtype), floats(V, 3, dtype=dtype)
  indices = integers(5, V, 3)
  dense = np.zeros((V, 6))
  for row in range(V):
    for i in range(3):
      dense[row] += np.float64(weights[row, i]) * anchors[indices[row, i]]
  table = tables.AnchorTable(
    anchors, weights=weights, indices=indices, vocabulary=WORDS
  )
  return Case(table, dense)


def dense_anchors(dtype: type = np.float32) -> Case:
  anchors, weights = floats(5, 6, dtype=dtype), floats(V, 5, dtype=dtype)
  table = tables.AnchorTable(anchors, weights=weights)
  return Case(table, weights.astype(float) @ anchors.astype(float))


def masked_anchors(dtype: type = np.float32) -> Case:
  anchors, transform = floats(13, 6, dtype=dtype), floats(V, 13, dtype=dtype)
  transform[integers(4, V, 13) > 0] = 0
  transform[7] = 0  # A row without an anchor, and one with all of them.
  transform[2] = 1
  table = tables.AnchorTable.from_transform(
    anchors, transform, dtype=np.dtype(dtype).name, vocabulary=WORDS
  )
  return Case(table, transform.astype(float) @ anchors.astype(float))


def codes(
  composition: str,
  *,
  codebook_size: int,
  positions: int = 4,
  bias: bool = False,
  dtype: type = np.float32,
) -> Case:
  books = floats(positions, codebook_size, 3, dtype=dtype)
  digits = integers(codebook_size, V, 4)
  projection = floats(3, 5, seed=1, dtype=dtype)
  chosen = [
    [np.float64(books[j % positions][digits[i, j]]) for j in range(4)]
    for i in range(V)
  ]
  dense = np.array(chosen).sum(axis=1)
  if composition == "concat":
    dense = np.array(chosen).reshape(V, -1)
  network = _network(composition, dtype)
  if composition == "mlp":
    dense = _residual_layers(dense, network)
  if composition == "lstm":
    dense = _mean_lstm(np.array(chosen), network)
    projection = floats(2, 5, seed=1, dtype=dtype)
  if composition in ("linear", "mlp", "lstm"):
    dense = dense @ projection.astype(float)
  offset = floats(dense.shape[1], seed=2, dtype=dtype) if bias else None
  table = tables.CodeTable.from_codes(
    digits,
    books,
    composition=composition,
    projection=None if composition in ("sum", "concat") else projection,
    bias=offset,
    **network,
    vocabulary=WORDS if bias else None,
  )
  return Case(table, dense if offset is None else dense + offset)


def _network(composition: str, dtype: type) -> dict[str, np.ndarray]:
  shapes = typing.network_shapes(
    composition, code_features=3, hidden=2, num_layers=3
  )
  if composition == "mlp":  # Which is as wide as its code vectors.
    shapes = {"kernels": (2, 3, 3), "biases": (3, 3)}
  return {
    name: floats(*shape, seed=3 + i, dtype=dtype)
    for i, (name, shape) in enumerate(shapes.items())
  }


def _residual_layers(
  sums: np.ndarray, network: dict[str, np.ndarray]
) -> np.ndarray:
  biases = network["biases"].astype(float)
  hidden = np.maximum(sums + biases[0], 0)
  for kernel, bias in zip(network["kernels"], biases[1:], strict=True):
    hidden = hidden + np.maximum(hidden @ kernel.astype(float) + bias, 0)
  return hidden


def _mean_lstm(
  vectors: np.ndarray, network: dict[str, np.ndarray]
) -> np.ndarray:
  sigmoid = lambda x: 1 / (1 + np.exp(-x))
  rows = []
  for row in vectors:
    hidden, cell = network["states"].astype(float)
    outputs = []
    for vector in row:
      inputs = np.concatenate([vector, hidden])
      gates = inputs @ network["kernels"].astype(float) + network["biases"]
      enter, forget, new, leave = np.split(gates, 4)
      cell = sigmoid(forget) * cell + sigmoid(enter) * np.tanh(new)
      hidden = sigmoid(leave) * np.tanh(cell)
      outputs.append(hidden)
    rows.append(np.mean(outputs, axis=0))
  return np.array(rows)


def codes_int8(composition: str, *, positions: int = 4) -> Case:
  """Returns a table of integers, and the case of their values."""
  books = integers(255, positions, 5, 3).astype(np.int8)
  scales = np.abs(floats(positions, seed=5)) / 100
  table = tables.CodeTable.from_codes(
    integers(5, V, 4), books, scales=scales, composition=composition
  )
  values = books * scales[:, None, None]
  plain = dataclasses.replace(table, codebooks=values, scales=None)
  return Case(table, plain.to_dense().astype(float))


def dense(dtype: str) -> Case:
  vectors = floats(V, 6)
  table = tables.DenseTable.from_dense(vectors, dtype=dtype, vocabulary=WORDS)
  scales = 1 if table.scales is None else table.scales[:, None].astype(float)
  return Case(table, table.rows.astype(float) * scales)


def dense_packed(dtype: str, *, features: int, scale_dtype: str) -> Case:
  table = tables.DenseTable.from_dense(
    floats(V, features), dtype=dtype, scale_dtype=scale_dtype, vocabulary=WORDS
  )
  width = {"int4": 4, "int2": 2}[dtype]
  values = np.zeros((V, features))
  for row, column in np.ndindex(values.shape):
    byte = table.rows[row, column * width // 8]
    digit = byte >> column * width % 8 & (1 << width) - 1
    values[row, column] = digit - (2**width - 1) / 2
  return Case(table, values * table.scales[:, None].astype(float))


def anchors_int8(form: str) -> Case:
  """Integers, whose values are rows and anchors times their scales."""
  anchors = integers(255, 13, 6).astype(np.int8)
  transform = integers(255, V, 13, seed=1).astype(np.int8)
  if form != "dense":
    transform[integers(4, V, 13, seed=2) > 0] = 0
  rows = {"weights": transform}
  if form == "slots":
    rows = anchor_rows.slot_rows(transform)
  if form == "masked":
    rows = anchor_rows.masked_rows(transform)
  scales = np.abs(floats(V, seed=3, dtype=np.float16)) / np.float16(100)
  anchor_scales = np.abs(floats(13, seed=4)) / 100
  table = tables.AnchorTable(
    anchors, **rows, weight_scales=scales, anchor_scales=anchor_scales
  )
  values = transform * scales.astype(float)[:, None]
  return Case(table, values @ (anchors * anchor_scales.astype(float)[:, None]))


def inner(name: str) -> Case:
  """Returns another case without its vocabulary."""
  case = CASES[name]()
  return Case(dataclasses.replace(case.table, vocabulary=None), case.dense)


def projected(name: str, *, bias: bool = False) -> Case:
  case = inner(name)
  matrix = floats(case.table.features, 7, seed=6)
  offset = floats(7, seed=7) if bias else None
  table = tables.ProjectedTable(
    case.table, projection=matrix, bias=offset, vocabulary=WORDS
  )
  dense = case.dense @ matrix.astype(float)
  return Case(table, dense if offset is None else dense + offset)


def projected_int8(name: str) -> Case:
  case = inner(name)
  matrix = integers(255, case.table.features, 7).astype(np.int8)
  scales = np.abs(floats(len(matrix), seed=6)) / 100
  table = tables.ProjectedTable(
    case.table, projection=matrix, projection_scales=scales
  )
  return Case(table, case.dense @ (matrix * scales.astype(float)[:, None]))


def scaled(name: str, *, dtype: str) -> Case:
  case = inner(name)
  norms = np.exp(floats(V, seed=8))
  norms[3] = 0
  table = tables.ScaledTable.from_norms(
    case.table, norms, dtype=dtype, vocabulary=WORDS
  )
  norms = table.norms.astype(float)
  if dtype == "uint8":
    first, step = table.norm_range.astype(float)
    norms = np.where(norms == 0, 0, np.exp(first + step * norms))
  return Case(table, norms[:, None] * case.dense)


def summed(first: str, second: str) -> Case:
  one, other = inner(first), inner(second)
  table = tables.SumTable(one.table, other.table, vocabulary=WORDS)
  return Case(table, one.dense + other.dense)


def tiered(hot_ids: list[int] | None) -> Case:
  """Splits the vectors of two cases among the tiers."""
  hot, cold = floats(3, 6, seed=9), inner("sparse_anchors_float16")
  rows = {"weights": cold.table.weights[:8], "indices": cold.table.indices[:8]}
  table = tables.TieredTable(
    tables.DenseTable(hot),
    dataclasses.replace(cold.table, **rows),
    hot_ids=hot_ids,
    vocabulary=WORDS,
  )
  ids = [0, 1, 2] if hot_ids is None else hot_ids
  dense = np.zeros((V, 6))
  dense[ids] = hot
  dense[[i for i in range(V) if i not in ids]] = cold.dense[:8]
  return Case(table, dense)


def nested() -> Case:
  """As deep as tables may be nested."""
  case = CASES["projected_codes"]()
  table = dataclasses.replace(case.table, vocabulary=None)
  first = tables.SumTable(table, table)
  norms = np.abs(floats(V, seed=9))
  second = tables.ScaledTable(first, norms=norms)
  matrix = floats(7, 4, seed=10)
  dense = 2 * norms.astype(float)[:, None] * case.dense @ matrix
  return Case(tables.ProjectedTable(second, projection=matrix), dense)


def hashed(composition: str) -> Case:
  buckets = [floats(n, 6, seed=n) for n in (3, 4, 3)]
  table = tables.HashTable(
    buckets,
    num_embeddings=V,
    addressing="hash",
    composition=composition,
    seed=7,
  )
  ids = np.arange(V)
  parts = [
    a[bits.hash_ids(ids, num_buckets=len(a), seed=7 + i)].astype(float)
    for i, a in enumerate(buckets)
  ]
  reduce = np.sum if composition == "sum" else np.prod
  return Case(table, reduce(parts, axis=0))


def quotient_remainder(composition: str) -> Case:
  quotients, remainders = floats(3, 6, seed=1), floats(4, 6, seed=2)
  table = tables.HashTable(
    [quotients, remainders],
    num_embeddings=V,
    addressing="quotient_remainder",
    composition=composition,
    vocabulary=WORDS,
  )
  combine = np.add if composition == "sum" else np.multiply
  rows = [combine(quotients[i // 4], remainders[i % 4]) for i in range(V)]
  return Case(table, np.array(rows, float))


CASES: dict[str, Callable[[], Case]] = {
  "sparse_anchors": sparse_anchors,
  "sparse_anchors_float16": lambda: sparse_anchors(np.float16),
  "dense_anchors": dense_anchors,
  "dense_anchors_float16": lambda: dense_anchors(np.float16),
  "masked_anchors": masked_anchors,
  "masked_anchors_float16": lambda: masked_anchors(np.float16),
  "codes_concat": lambda: codes("concat", codebook_size=32),
  "codes_concat_bias": lambda: codes("concat", codebook_size=16, bias=True),
  "codes_concat_shared": lambda: codes(
    "concat", codebook_size=3, positions=1, bias=True
  ),
  "codes_sum": lambda: codes("sum", codebook_size=256, bias=True),
  "codes_sum_shared": lambda: codes("sum", codebook_size=257, positions=1),
  "codes_linear": lambda: codes("linear", codebook_size=16, bias=True),
  "codes_linear_float16": lambda: codes(
    "linear", codebook_size=5, positions=1, bias=True, dtype=np.float16
  ),
  "codes_mlp": lambda: codes("mlp", codebook_size=4, bias=True),
  "codes_lstm": lambda: codes("lstm", codebook_size=5, positions=1),
  "codes_lstm_float16": lambda: codes(
    "lstm", codebook_size=9, bias=True, dtype=np.float16
  ),
  "codes_concat_int8": lambda: codes_int8("concat"),
  "codes_sum_shared_int8": lambda: codes_int8("sum", positions=1),
  "sparse_anchors_int8": lambda: anchors_int8("slots"),
  "dense_anchors_int8": lambda: anchors_int8("dense"),
  "masked_anchors_int8": lambda: anchors_int8("masked"),
  "dense_float32": lambda: dense("float32"),
  "dense_float16": lambda: dense("float16"),
  "dense_int8": lambda: dense("int8"),
  "dense_int4": lambda: dense_packed("int4", features=7, scale_dtype="float32"),
  "dense_int2": lambda: dense_packed("int2", features=6, scale_dtype="float16"),
  "hash_sum": lambda: hashed("sum"),
  "hash_product": lambda: hashed("product"),
  "quotient_remainder_sum": lambda: quotient_remainder("sum"),
  "quotient_remainder_product": lambda: quotient_remainder("product"),
  "projected_codes": lambda: projected("codes_concat", bias=True),
  "projected_network": lambda: projected("codes_mlp"),
  "projected_int8": lambda: projected_int8("dense_int8"),
  "scaled_float16": lambda: scaled("codes_sum", dtype="float16"),
  "scaled_uint8": lambda: scaled("masked_anchors", dtype="uint8"),
  "sum": lambda: summed("sparse_anchors", "dense_int2"),
  "tiered": lambda: tiered([1, 5, 10]),
  "tiered_first": lambda: tiered(None),
  "nested": nested,
}

# One of each kind, and each form of rows of unlike shapes.
KINDS = (
  "sparse_anchors",
  "masked_anchors",
  "codes_concat_shared",
  "dense_int8",
  "dense_int4",
  "hash_sum",
  "projected_int8",
  "scaled_uint8",
  "sum",
  "tiered",
)
