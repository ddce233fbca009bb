"""Counts what a table costs: in its file, and while it trains.

The bytes of every compact table are rows times bits per row, plus the shared
part. The functions here are that sum in closed form; the tests hold them
against the tensors of the files. NumPy only.
"""

from typing import Any

import numpy as np

from anchor_codes.typing import check_at_least, num_code_bits


def dense_bytes(num_embeddings: int, features: int) -> int:
  """Returns the bytes of the full float32 table, ``4 * V * d``.

  Args:
    num_embeddings: Number of rows, V.
    features: Width of a vector, d.

  >>> dense_bytes(10_000, 300)
  12000000
  """
  return 4 * num_embeddings * features


def compression_ratio(
  nbytes: int, *, num_embeddings: int, features: int
) -> float:
  """Returns how many times smaller a table is than the full float32 table.

  Args:
    nbytes: Bytes of everything that a lookup needs: rows, indices, codes,
      scales and the shared part.
    num_embeddings: Number of rows.
    features: Width of a vector.

  Returns:
    Dense bytes over `nbytes`; more than 1 is smaller than the full table.

  Raises:
    ValueError: If `nbytes` is not positive.

  >>> compression_ratio(1_200_000, num_embeddings=10_000, features=300)
  10.0
  """
  check_at_least("nbytes", nbytes, 1)
  return dense_bytes(num_embeddings, features) / nbytes


def table_bytes(
  num_embeddings: int, *, row_bits: int, shared_bytes: int = 0
) -> int:
  """Returns the bytes of a compact table: its rows and its shared part.

  Args:
    num_embeddings: Number of rows.
    row_bits: Bits of one row, a multiple of 8.
    shared_bytes: Bytes of what the rows share: anchors or codebooks.

  >>> row_bits = code_row_bits(32, 32)
  >>> table_bytes(10_000, row_bits=row_bits, shared_bytes=4 * 32 * 32 * 300)
  1428800
  """
  return num_embeddings * row_bits // 8 + shared_bytes


def index_dtype(num_anchors: int) -> np.dtype:
  """Returns the smallest unsigned type that holds the index of an anchor.

  Args:
    num_anchors: Number of anchors, at least 1.

  Raises:
    ValueError: If there is no anchor.

  >>> index_dtype(256), index_dtype(257)
  (dtype('uint8'), dtype('uint16'))
  """
  check_at_least("num_anchors", num_anchors, 1)
  # The largest index has to fit, not the number: 256 anchors take one byte.
  return np.min_scalar_type(num_anchors - 1)


def anchor_row_bits(
  num_anchors: int, num_nonzeros: int | None, *, weight_bits: int = 32
) -> int:
  """Returns the bits of one row of an anchor table.

  Args:
    num_anchors: Number of anchors; sets the type of the indices.
    num_nonzeros: Pairs of index and weight in a row; None for dense rows,
      which hold one weight for each anchor and no indices.
    weight_bits: Bits of one weight.

  >>> anchor_row_bits(100, 8), anchor_row_bits(1000, 8, weight_bits=16)
  (320, 256)
  >>> anchor_row_bits(100, None)
  3200
  """
  if num_nonzeros is None:
    return num_anchors * weight_bits
  index_bits = 8 * index_dtype(num_anchors).itemsize
  return num_nonzeros * (index_bits + weight_bits)


def masked_rows_bytes(
  num_embeddings: int,
  num_anchors: int,
  num_nonzeros: int,
  *,
  weight_bits: int = 32,
) -> int:
  """Returns the bytes of all rows of an anchor table with masks.

  Args:
    num_embeddings: Number of rows, V.
    num_anchors: Number of anchors, K: the bits of a mask, in whole bytes.
    num_nonzeros: Weights of the whole table, N.
    weight_bits: Bits of one weight.

  Returns:
    ``V * ceil(K / 8) + N * weight_bits / 8``. Rows with many non-zeros take
    more than others, so that there is no number of bits for each row.

  >>> masked_rows_bytes(10_000, 100, 25_000)
  230000
  >>> table_bytes(10_000, row_bits=anchor_row_bits(100, 8))
  400000
  """
  return num_embeddings * -(-num_anchors // 8) + num_nonzeros * weight_bits // 8


def code_row_bits(code_length: int, codebook_size: int) -> int:
  """Returns the bits of one packed code, which fills whole bytes.

  Args:
    code_length: Number of digits, D.
    codebook_size: Number of values of a digit, K, 2 to 65536.

  Returns:
    ``8 * ceil(D * ceil(log2(K)) / 8)``.

  Raises:
    ValueError: If an option is out of range.

  >>> code_row_bits(32, 32), code_row_bits(7, 3)
  (160, 16)
  """
  check_at_least("code_length", code_length, 1)
  return -(-code_length * num_code_bits(codebook_size) // 8) * 8


def scalar_row_bits(
  features: int, *, value_bits: int, scale_bits: int = 32
) -> int:
  """Returns the bits of one row of rounded values, which fills whole bytes.

  Args:
    features: Width of a vector.
    value_bits: Bits of one value: 32, 16, or 8, 4 or 2, which take a scale for
      each row too.
    scale_bits: Bits of such a scale.

  >>> [scalar_row_bits(64, value_bits=bits) for bits in (32, 16, 8, 4)]
  [2048, 1024, 544, 288]
  """
  row_bits = 8 * -(-features * value_bits // 8)
  return row_bits + (scale_bits if value_bits <= 8 else 0)


def human_bytes(size: float) -> str:
  """Shows a number of bytes in decimal units.

  >>> human_bytes(296), human_bytes(300_000), human_bytes(1_234_567)
  ('296 B', '300.0 KB', '1.2 MB')
  """
  units = iter(("B", "KB", "MB", "GB"))
  unit = next(units)
  # 999.95 would be rounded to 1000.0 of the smaller unit.
  while size >= (1000 if unit == "B" else 999.95) and unit != "GB":
    size, unit = size / 1000, next(units)
  return f"{size:.0f} B" if unit == "B" else f"{size:,.1f} {unit}"


def tree_bytes(*trees: Any) -> int:
  """Returns the bytes of all arrays in some pytrees.

  Args:
    *trees: Any pytrees that JAX knows: nested containers, Flax states, optax
      states. A leaf counts if it has a shape and a dtype, as NumPy and JAX
      arrays and `jax.ShapeDtypeStruct` do; other leaves hold no array memory.

  Returns:
    The sum of elements times bytes per element.

  >>> tree_bytes({"w": np.zeros((2, 3), np.float32)}, [np.zeros(5, np.int8)])
  29
  """
  import jax  # Only here: reading an artefact must not load it.

  # Python's integers (dtype=object): an abstract shape may pass 2 ** 63, where
  # NumPy's would overflow without a word.
  return sum(
    int(np.prod(leaf.shape, dtype=object)) * leaf.dtype.itemsize
    for leaf in jax.tree.leaves(trees)
    if hasattr(leaf, "shape") and hasattr(leaf, "dtype")
  )


def training_bytes(params: Any, opt_state: Any, gradients: Any) -> int:
  """Returns the bytes that one training step holds for a table.

  Args:
    params: Trained parameters.
    opt_state: State of the optimiser.
    gradients: What one step materialises as gradient: as large as `params` in
      plain JAX, only the rows of a batch in row-sparse training.

  Returns:
    The sum over the three; activations are not in it.

  >>> table = np.zeros((1000, 64), np.float32)
  >>> adam_state, batch_rows = (table, table), table[:128]
  >>> training_bytes(table, adam_state, batch_rows)
  800768
  """
  return tree_bytes(params, opt_state, gradients)
