"""Small tables of all kinds and types, for what serves them elsewhere."""

from collections.abc import Callable

import numpy as np

from anchor_codes import tables, typing

V, FEATURES = 11, 6


def floats(*shape: int, seed: int = 0, dtype: type = np.float32) -> np.ndarray:
  return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def integers(limit: int, *shape: int, seed: int = 0) -> np.ndarray:
  return np.random.default_rng(seed).integers(0, limit, shape)


def int8(*shape: int, seed: int = 0) -> np.ndarray:
  return (integers(255, *shape, seed=seed) - 127).astype(np.int8)


def scales(size: int, dtype: type = np.float32) -> np.ndarray:
  return (0.01 + abs(floats(size, seed=8)) / 100).astype(dtype)


def dense(dtype: str, num: int = V, **options: str) -> tables.DenseTable:
  return tables.DenseTable.from_dense(
    floats(num, FEATURES), dtype=dtype, **options
  )


def slots(num: int = V) -> tables.AnchorTable:
  return tables.AnchorTable(
    int8(5, FEATURES),
    anchor_scales=scales(5),
    weights=int8(num, 3, seed=1),
    weight_scales=scales(num, np.float16),
    indices=integers(5, num, 3),
  )


def masked() -> tables.AnchorTable:
  transform = floats(V, 40) * (np.random.default_rng(0).random((V, 40)) < 0.1)
  transform[0, :9], transform[7] = 1, 0
  table = tables.AnchorTable.from_transform(
    floats(40, FEATURES), transform, dtype="float16"
  )
  assert table.masks is not None
  return table


def low_rank() -> tables.AnchorTable:
  return tables.AnchorTable(
    floats(2, FEATURES), weights=int8(V, 2), weight_scales=scales(V)
  )


def codes(
  composition: str,
  *,
  codebook_size: int = 16,
  positions: int = 3,
  bias: bool = False,
  is_int8: bool = False,
  num: int = V,
) -> tables.CodeTable:
  width = 2 if composition == "concat" else 4
  arrays = {}
  if composition in ("linear", "mlp"):
    arrays["projection"] = floats(width, FEATURES, seed=1)
  if composition == "mlp":
    arrays |= {"biases": floats(2, 4, seed=3), "kernels": floats(1, 4, 4)}
  if composition == "lstm":
    shapes = typing.network_shapes("lstm", code_features=4, hidden=5)
    arrays = {n: floats(*shape, seed=3) for n, shape in shapes.items()}
    arrays["projection"] = floats(5, FEATURES, seed=1)
  if composition == "sum":
    width = FEATURES
  if bias:
    arrays["bias"] = floats(FEATURES, seed=5)
  books = floats(positions, codebook_size, width, seed=6)
  if is_int8:
    books = int8(*books.shape)
    arrays["scales"] = scales(positions)
  return tables.CodeTable.from_codes(
    integers(codebook_size, num, 3), books, composition=composition, **arrays
  )


def hashed(composition: str) -> tables.HashTable:
  return tables.HashTable(
    [floats(n, FEATURES, seed=n) for n in (3, 4)],
    num_embeddings=V,
    addressing="hash",
    composition=composition,
    seed=7,
  )


def quotient_remainder() -> tables.HashTable:
  return tables.HashTable(
    [floats(3, FEATURES, seed=1), floats(4, FEATURES, seed=2)],
    num_embeddings=V,
    addressing="quotient_remainder",
    composition="product",
  )


def rotated() -> tables.ProjectedTable:
  rotation = np.linalg.qr(floats(FEATURES, FEATURES, seed=4))[0]
  return tables.ProjectedTable(
    codes("concat", bias=True),
    projection=rotation.astype(np.float32),
    bias=floats(FEATURES, seed=3),
  )


def projected() -> tables.ProjectedTable:
  return tables.ProjectedTable(
    low_rank(), projection=int8(FEATURES, 4), projection_scales=scales(FEATURES)
  )


def scaled(inner: tables.Table | None = None) -> tables.ScaledTable:
  norms = abs(floats(V))
  norms[3] = 0
  return tables.ScaledTable.from_norms(inner or codes("concat"), norms)


def tiered(is_first: bool) -> tables.TieredTable:
  hot_ids = None if is_first else [0, 4, 5, 10]
  cold = codes("sum", num=V - 4)
  return tables.TieredTable(dense("float16", 4), cold, hot_ids=hot_ids)


CASES: dict[str, Callable[[], tables.Table]] = {
  "dense_float32": lambda: dense("float32"),
  "dense_float16": lambda: dense("float16"),
  "dense_int8": lambda: dense("int8"),
  "dense_int4": lambda: dense("int4", scale_dtype="float16"),
  "dense_int2": lambda: dense("int2"),
  "slots_int8": slots,
  "masked": masked,
  "low_rank": low_rank,
  "concat": lambda: codes("concat", codebook_size=256),
  "concat_shared": lambda: codes(
    "concat", codebook_size=5, positions=1, bias=True
  ),
  "sum": lambda: codes("sum", codebook_size=300),
  "linear_int8": lambda: codes("linear", bias=True, is_int8=True),
  "mlp": lambda: codes("mlp"),
  "lstm": lambda: codes("lstm", bias=True),
  "hash_sum": lambda: hashed("sum"),
  "hash_product": lambda: hashed("product"),
  "quotient_remainder": quotient_remainder,
  "rotated": rotated,
  "projected": projected,
  "scaled": scaled,
  "scaled_float": lambda: tables.ScaledTable(slots(), norms=floats(V)),
  "sums": lambda: tables.SumTable(scaled(), rotated()),
  "tiered_first": lambda: tiered(True),
  "tiered": lambda: tiered(False),
}

# Whose vectors are gathered, or the result of one operation.
EXACT = (
  "dense_float32",
  "dense_float16",
  "dense_int8",
  "dense_int4",
  "dense_int2",
  "concat",
  "concat_shared",
)
