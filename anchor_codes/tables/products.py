"""Products of many short rows with a few columns, in NumPy."""

import numpy as np

# The largest product, in multiplications, for which OpenBLAS stays on one
# thread.
_SMALL = 2**18
_FEWEST_ROWS = 8


def product(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
  """Multiplies the rows of a block with a few columns.

  As many products of a few rows each. BLAS would share the rows of one block
  among its threads, which then wait for each other at every block: on a machine
  with other work to do, that took ten to thirty times as long.

  Args:
    rows: float32 [size, width].
    columns: float32 [width, number].

  Returns:
    float32 [size, number].

  >>> print(product(np.ones((3, 2), np.float32), np.eye(2, dtype=np.float32)))
  [[1. 1.]
   [1. 1.]
   [1. 1.]]
  """
  (size, width), number = rows.shape, columns.shape[1]
  step = _SMALL // max(1, width * number)
  # Wide or many columns are worth the threads.
  if not _FEWEST_ROWS <= step < size:
    return rows @ columns
  # Of a whole number of vector registers, so that all rows are summed alike.
  step = min(step // _FEWEST_ROWS * _FEWEST_ROWS, 256)
  whole = size // step * step
  products = np.empty((size, number), np.float32)
  stacked = rows[:whole].reshape(-1, step, width)
  np.matmul(stacked, columns, out=products[:whole].reshape(-1, step, number))
  np.matmul(rows[whole:], columns, out=products[whole:])
  return products
