"""How well a compact table stands for a full one, and how it uses its codes."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from anchor_codes.ops.reductions import wide
from anchor_codes.typing import check_at_least


def relative_squared_error(
  table: Float[Array, "num_embeddings features"],
  approx: Float[Array, "num_embeddings features"],
) -> Float[Array, ""]:
  r"""Computes the squared error as a share of the squared norm.

  Definition: :math:`\|E - \hat E\|_F^2 / \|E\|_F^2`.

  Args:
    table: The full table :math:`E`.
    approx: What stands for it.

  Returns:
    0 for equal tables, 1 for an `approx` of zeros; ``nan`` or ``inf`` if
    `table` is all zeros.

  >>> table = jnp.array([[3.0, 0.0], [0.0, 4.0]])
  >>> print(relative_squared_error(table, jnp.zeros((2, 2))))
  1.0
  """
  chex.assert_equal_shape([table, approx])
  error = jnp.sum(jnp.square(wide(table) - wide(approx)))
  return error / jnp.sum(jnp.square(wide(table)))


def mean_cosine(
  table: Float[Array, "num_embeddings features"],
  approx: Float[Array, "num_embeddings features"],
) -> Float[Array, ""]:
  r"""Computes the mean cosine between the rows of two tables.

  Definition: the mean of :math:`\langle e_i, \hat e_i \rangle / (\|e_i\|
  \|\hat e_i\|)` over the rows; a row of zeros counts as 0.

  Args:
    table: The full table.
    approx: What stands for it.

  Returns:
    A number between -1 and 1.

  >>> table = jnp.array([[3.0, 0.0], [0.0, 4.0]])
  >>> print(mean_cosine(table, jnp.array([[1.0, 0.0], [0.0, -2.0]])))
  0.0
  """
  chex.assert_equal_shape([table, approx])
  return jnp.mean(jnp.sum(_unit_rows(table) * _unit_rows(approx), axis=-1))


def neighbor_overlap(
  table: Float[Array, "num_embeddings features"],
  approx: Float[Array, "num_embeddings features"],
  *,
  num_neighbors: int = 10,
  block: int = 1024,
) -> Float[Array, ""]:
  r"""Computes the share of nearest neighbours that two tables agree on.

  Definition: the mean of :math:`|N(i) \cap \hat N(i)| / n` over the rows, with
  :math:`N(i)` the :math:`n` rows of the largest cosine with row :math:`i`,
  itself excluded.

  Args:
    table: The full table.
    approx: What stands for it.
    num_neighbors: The :math:`n`, less than the number of rows.
    block: Rows to treat at a time; memory grows as ``block * num_embeddings``.

  Returns:
    A number between 0 and 1.

  Raises:
    ValueError: If an option is out of range.

  >>> table = jnp.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])
  >>> print(neighbor_overlap(table, 2 * table, num_neighbors=1))
  1.0
  """
  chex.assert_equal_shape([table, approx])
  check_at_least("num_neighbors", num_neighbors, 1)
  check_at_least("block", block, 1)
  if num_neighbors >= table.shape[0]:
    raise ValueError(
      "`num_neighbors` must be less than the number of rows, got "
      f"{num_neighbors} and {table.shape[0]}."
    )
  return _neighbor_overlap(
    _unit_rows(table), _unit_rows(approx), num_neighbors, block
  )


def code_perplexity(
  codes: Int[Array, "num_embeddings code_length"], *, codebook_size: int
) -> Float[Array, " code_length"]:
  r"""Computes how many entries each position of the codes uses in effect.

  Definition: :math:`\exp(-\sum_k f_{jk} \log f_{jk})` with the share
  :math:`f_{jk}` of symbols whose digit at position :math:`j` is :math:`k`.

  Args:
    codes: The code of each symbol.
    codebook_size: Number of values of a digit.

  Returns:
    For each position, from 1 (all digits equal) to `codebook_size` (all used
    equally).

  >>> codes = jnp.array([[0, 0], [1, 0], [2, 0], [3, 0]])
  >>> print(code_perplexity(codes, codebook_size=4))
  [4. 1.]
  """
  chex.assert_rank(codes, 2)
  count = jax.vmap(functools.partial(jnp.bincount, length=codebook_size))
  shares = count(codes.T) / max(codes.shape[0], 1)
  # `entr` takes 0 * log(0) for 0: entries may be out of use.
  return jnp.exp(jnp.sum(jax.scipy.special.entr(shares), axis=-1))


def unique_fraction(codes: Int[Array, "num_embeddings code_length"]) -> float:
  """Computes the number of different codes as a share of the symbols.

  Symbols of equal codes have equal embeddings. On the host.

  Args:
    codes: The code of each symbol.

  Returns:
    A number above 0, and 1 if no two symbols share a code.

  >>> unique_fraction(jnp.array([[0, 1], [2, 3], [0, 1], [0, 2]]))
  0.75
  """
  chex.assert_rank(codes, 2)
  rows = np.asarray(codes)
  return len(np.unique(rows, axis=0)) / len(rows) if len(rows) else 1.0


def _unit_rows(
  table: Float[Array, "num_embeddings features"],
) -> Float[Array, "num_embeddings features"]:
  table = wide(table)
  norms = jnp.linalg.norm(table, axis=-1, keepdims=True)
  # A row of zeros has no direction: left at zero, its cosines are 0.
  return table / jnp.where(norms > 0, norms, 1)


@functools.partial(jax.jit, static_argnames=("num_neighbors", "block"))
def _neighbor_overlap(
  table: Float[Array, "num_embeddings features"],
  approx: Float[Array, "num_embeddings features"],
  num_neighbors: int,
  block: int,
) -> Float[Array, ""]:
  num_rows = table.shape[0]

  def neighbors(
    rows: Float[Array, "num_embeddings features"], i: Int[Array, ""]
  ) -> Bool[Array, " num_embeddings"]:
    # The cosines of near neighbours differ in their last bits.
    cosines = jnp.dot(rows, rows[i], precision=jax.lax.Precision.HIGHEST)
    _, nearest = jax.lax.top_k(cosines.at[i].set(-jnp.inf), num_neighbors)
    return jnp.zeros(num_rows, bool).at[nearest].set(True)

  def shared(i: Int[Array, ""]) -> Int[Array, ""]:
    return jnp.sum(neighbors(table, i) & neighbors(approx, i))

  counts = jax.lax.map(shared, jnp.arange(num_rows), batch_size=block)
  return jnp.mean(counts / num_neighbors)
