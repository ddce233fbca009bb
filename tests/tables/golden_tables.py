"""Tables whose files are kept: what was written once can be read for ever.

The files in `golden` were written when a kind was new, from the numbers here.
They are never written again. :func:`write_missing` writes those of new kinds:
``python -c "import golden_tables; golden_tables.write_missing()"``.
"""

import json
import pathlib
from collections.abc import Callable

import numpy as np

from anchor_codes import tables

FOLDER = pathlib.Path(__file__).parent / "golden"
VECTORS = FOLDER / "vectors.json"
WORDS = ("cat", "", "wörd\n", '"', "猫")


def numbers(
  *shape: int, dtype: type = np.float32, start: int = 0
) -> np.ndarray:
  """Returns multiples of 1/8 between -4 and 4, the same in every release."""
  steps = np.arange(start, start + int(np.prod(shape)))
  return ((steps * 37 + 11) % 64 / 8 - 4).astype(dtype).reshape(shape)


def digits(limit: int, *shape: int) -> np.ndarray:
  steps = np.arange(int(np.prod(shape)))
  return ((steps * 29 + 7) % 83 % limit).reshape(shape)


def int8s(*shape: int) -> np.ndarray:
  return (digits(83, *shape) - 40).astype(np.int8)


def scales(*shape: int, dtype: type = np.float32) -> np.ndarray:
  return (1 + np.arange(int(np.prod(shape)))).astype(dtype).reshape(shape) / 16


def codes(composition: str, dtype: type = np.float32, **arrays) -> tables.Table:
  books = numbers(3, 5, 2, dtype=dtype)
  return tables.CodeTable.from_codes(
    digits(5, 5, 3), books, composition=composition, **arrays
  )


def transform() -> np.ndarray:
  return numbers(5, 9) * (digits(3, 5, 9) == 0)


def dense(*shape: int) -> tables.Table:
  return tables.DenseTable(numbers(*shape, dtype=np.float16))


def packed(dtype: str, width: int) -> tables.Table:
  return tables.DenseTable(
    digits(256, 5, width).astype(np.uint8),
    scales=scales(5),
    dtype=dtype,
    features=7,
    vocabulary=WORDS,
  )


def hashed(addressing: str, composition: str) -> tables.Table:
  return tables.HashTable(
    [numbers(2, 3), numbers(3, 3, start=9)],
    num_embeddings=5,
    addressing=addressing,
    composition=composition,
    seed=3,
  )


def nested() -> tables.Table:
  inner = tables.SumTable(codes("concat"), codes("concat"))
  norms = np.array([0, 1, 128, 255, 3], np.uint8)
  scaled = tables.ScaledTable(
    inner, norms=norms, norm_range=np.float32([-2, 1 / 64])
  )
  return tables.ProjectedTable(
    scaled,
    projection=int8s(6, 4),
    projection_scales=scales(6),
    bias=numbers(4, dtype=np.float16),
    vocabulary=WORDS,
    quality='{"cosine":0.875}',
  )


BUILDERS: dict[str, Callable[[], tables.Table]] = {
  "anchors_slots": lambda: tables.AnchorTable(
    numbers(4, 3),
    weights=numbers(5, 2),
    indices=digits(4, 5, 2),
    vocabulary=WORDS,
  ),
  "anchors_dense_float16": lambda: tables.AnchorTable(
    numbers(4, 3, dtype=np.float16), weights=numbers(5, 4, dtype=np.float16)
  ),
  "anchors_masked": lambda: tables.AnchorTable.from_transform(
    numbers(9, 3), transform()
  ),
  "codes_concat": lambda: codes("concat", vocabulary=WORDS),
  "codes_sum_float16": lambda: codes("sum", np.float16),
  "codes_linear": lambda: codes(
    "linear", projection=numbers(2, 4), bias=numbers(4)
  ),
  "codes_mlp": lambda: codes(
    "mlp",
    projection=numbers(2, 4),
    kernels=numbers(1, 2, 2),
    biases=numbers(2, 2),
  ),
  "codes_lstm": lambda: codes(
    "lstm",
    projection=numbers(3, 4),
    kernels=numbers(5, 12),
    biases=numbers(12),
    states=numbers(2, 3),
  ),
  "dense_float32": lambda: tables.DenseTable(numbers(5, 3)),
  "dense_float16": lambda: dense(5, 3),
  "dense_int8": lambda: tables.DenseTable(
    int8s(5, 3), scales=scales(5), vocabulary=WORDS
  ),
  "hash": lambda: hashed("hash", "sum"),
  "quotient_remainder": lambda: hashed("quotient_remainder", "product"),
  "dense_int4": lambda: packed("int4", 4),
  "dense_int2": lambda: packed("int2", 2),
  "codes_int8": lambda: tables.CodeTable.from_codes(
    digits(5, 5, 3), int8s(3, 5, 2), scales=scales(3), composition="concat"
  ),
  "anchors_int8": lambda: tables.AnchorTable(
    int8s(4, 3),
    weights=int8s(5, 2),
    indices=digits(4, 5, 2),
    weight_scales=scales(5, dtype=np.float16),
    anchor_scales=scales(4),
  ),
  "sum": lambda: tables.SumTable(dense(5, 3), dense(5, 3)),
  "scaled": lambda: tables.ScaledTable(dense(5, 3), norms=numbers(5)),
  "tiered": lambda: tables.TieredTable(
    dense(2, 3), dense(3, 3), hot_ids=[1, 3], vocabulary=WORDS
  ),
  "nested": nested,
}


def path_of(name: str) -> pathlib.Path:
  return FOLDER / f"{name}.safetensors"


def write_missing() -> None:
  """Writes the files that are not there yet, and their vectors."""
  vectors = json.loads(VECTORS.read_text()) if VECTORS.exists() else {}
  for name, build in BUILDERS.items():
    if not path_of(name).exists():
      build().save(path_of(name))
      vectors[name] = build().to_dense().astype(float).tolist()
  lines = [f'"{name}": {json.dumps(rows)}' for name, rows in vectors.items()]
  VECTORS.write_text("{\n" + ",\n".join(lines) + "\n}\n")
