r"""Embeddings that are sparse, non-negative mixtures of a few anchors.

Definition (Liang et al., ICLR 2021): :math:`E = T A`, with anchors :math:`A`
and a row of weights :math:`T_i \ge 0` for each symbol, kept dense
[num_anchors], or as its ``num_nonzeros`` largest weights and their positions.
"""

from typing import NamedTuple

import chex
import jax
from jax import numpy as jnp
from jaxtyping import Array, Float, Int, Integer

from anchor_codes import typing
from anchor_codes.ops import indexing, reductions


class SparseRows(NamedTuple):
  """Rows of the transform by their non-zeros.

  Attributes:
    indices: Positions in ``[0, num_anchors)``; any where the weight is 0.
    weights: The weights at these positions.
  """

  indices: Integer[Array, "num_embeddings num_nonzeros"]
  weights: Float[Array, "num_embeddings num_nonzeros"]


def anchor_lookup(
  transform: Float[Array, "num_embeddings num_anchors"],
  anchors: Float[Array, "num_anchors features"],
  ids: Int[Array, "*batch"],
  *,
  dtype: jax.typing.DTypeLike | None = None,
) -> Float[Array, "*batch features"]:
  r"""Looks up embeddings that are mixtures of anchors, from dense rows.

  Definition (Liang et al., 2021): :math:`e_i = \sum_k T_{ik} A_k`.

  Args:
    transform: One row of mixture weights for each embedding; mostly zeros once
      trained with a proximal step.
    anchors: The anchor vectors.
    ids: Rows to look up; an id outside the table gives ``nan``.
    dtype: Type of the result, that of `anchors` by default.

  Returns:
    One vector for each id.

  Raises:
    ValueError: If the ids are not integers.

  >>> transform = jnp.array([[1.0, 0.0], [0.5, 2.0]])
  >>> anchors = jnp.array([[1.0, 1.0], [0.0, 3.0]])
  >>> print(anchor_lookup(transform, anchors, jnp.array([1, 0])))
  [[0.5 6.5]
   [1.  1. ]]
  """
  chex.assert_rank([transform, anchors], 2)
  chex.assert_axis_dimension(transform, 1, anchors.shape[0])
  # Marked in the end: weights of `nan` would spoil the gradient of all anchors,
  # in spite of a loss that masks their vectors.
  weights = indexing.take_rows(transform, ids, fill_value=0.0)
  vectors = jnp.matmul(weights.astype(anchors.dtype), anchors)
  size = transform.shape[0]
  vectors = indexing.nan_outside(vectors, ids, num_embeddings=size)
  return vectors.astype(dtype or anchors.dtype)


def sparse_anchor_lookup(
  rows: SparseRows,
  anchors: Float[Array, "num_anchors features"],
  ids: Int[Array, "*batch"],
  *,
  dtype: jax.typing.DTypeLike | None = None,
) -> Float[Array, "*batch features"]:
  r"""Looks up embeddings that are mixtures of anchors, from sparse rows.

  Definition (Liang et al., 2021), over the non-zeros alone:
  :math:`e_i = \sum_s w_{is} A_{j_{is}}`. The sum is unrolled, so that no array
  of shape [batch, num_nonzeros, features] is ever built.

  Args:
    rows: The non-zeros of each row.
    anchors: The anchor vectors.
    ids: Rows to look up; an id outside the table gives ``nan``.
    dtype: Type of the result, that of `anchors` by default.

  Returns:
    One vector for each id.

  Raises:
    ValueError: If the ids are not integers.

  >>> rows = SparseRows(jnp.array([[0, 1], [1, 0]]),
  ...                   jnp.array([[0.5, 2.0], [1.0, 0.0]]))
  >>> anchors = jnp.array([[1.0, 1.0], [0.0, 3.0]])
  >>> print(sparse_anchor_lookup(rows, anchors, jnp.array([0, 1])))
  [[0.5 6.5]
   [0.  3. ]]
  """
  chex.assert_rank([*rows, anchors], 2)
  chex.assert_equal_shape(rows)
  # An id outside has weights of 0 and is marked in the end: `nan` would spoil
  # the gradient of all anchors, in spite of a loss that masks its vector. An
  # index may be anything where the weight is 0, so that the gather below clips.
  indices = indexing.take_rows(rows.indices, ids).astype(jnp.int32)
  weights = indexing.take_rows(rows.weights, ids, fill_value=0.0)
  weights = weights.astype(anchors.dtype)
  total = jnp.zeros((*indices.shape[:-1], anchors.shape[1]), anchors.dtype)
  # One gather of all slots and a contraction took about thirty times as long on
  # a CPU.
  for slot in range(rows.indices.shape[1]):
    chosen = jnp.take(anchors, indices[..., slot], axis=0, mode="clip")
    total += weights[..., slot, None] * chosen
  size = rows.weights.shape[0]
  vectors = indexing.nan_outside(total, ids, num_embeddings=size)
  return vectors.astype(dtype or anchors.dtype)


def anchor_attend(
  transform: Float[Array, "num_embeddings num_anchors"],
  anchors: Float[Array, "num_anchors features"],
  query: Float[Array, "*batch features"],
) -> Float[Array, "*batch num_embeddings"]:
  r"""Scores all embeddings against queries: :math:`(q A^\top) T^\top`.

  Args:
    transform: Dense rows of mixture weights.
    anchors: The anchor vectors.
    query: Vectors to score, with any leading axes.

  Returns:
    The inner product with each embedding, in the type of the query; integers
    count as floats of the type of the anchors.

  >>> transform = jnp.array([[1.0, 0.0], [0.5, 2.0]])
  >>> anchors = jnp.array([[1.0, 1.0], [0.0, 3.0]])
  >>> print(anchor_attend(transform, anchors, jnp.array([1.0, 2.0])))
  [ 3.  13.5]
  """
  chex.assert_rank([transform, anchors], 2)
  # In this order a query costs num_anchors * (features + num_embeddings), and
  # the full table is never built.
  query = reductions.as_floats(query, anchors)
  scores = jnp.matmul(query, anchors.T.astype(query.dtype))
  return jnp.matmul(scores, transform.T.astype(query.dtype))


def sparse_anchor_attend(
  rows: SparseRows,
  anchors: Float[Array, "num_anchors features"],
  query: Float[Array, "*batch features"],
) -> Float[Array, "*batch num_embeddings"]:
  r"""Scores all embeddings against queries, from sparse rows.

  The query meets each anchor once, :math:`z = q A^\top`; an embedding then
  costs ``num_nonzeros`` products: :math:`\sum_s w_{is} z_{j_{is}}`.

  Args:
    rows: The non-zeros of each row.
    anchors: The anchor vectors.
    query: Vectors to score, with any leading axes.

  Returns:
    The inner product with each embedding, in the type of the query; integers
    count as floats of the type of the anchors.

  >>> rows = SparseRows(jnp.array([[0], [1]]), jnp.array([[1.0], [2.0]]))
  >>> anchors = jnp.array([[1.0, 1.0], [0.0, 3.0]])
  >>> print(sparse_anchor_attend(rows, anchors, jnp.array([1.0, 2.0])))
  [ 3. 12.]
  """
  chex.assert_rank([*rows, anchors], 2)
  chex.assert_equal_shape(rows)
  query = reductions.as_floats(query, anchors)
  scores = jnp.matmul(query, anchors.T.astype(query.dtype))
  # Leading axes by hand: strict rank promotion adds none.
  lead = (1,) * (scores.ndim - 1)
  total = jnp.zeros((*scores.shape[:-1], rows.weights.shape[0]), scores.dtype)
  for slot in range(rows.weights.shape[1]):
    weights = rows.weights[:, slot].astype(scores.dtype).reshape(*lead, -1)
    index = rows.indices[:, slot].astype(jnp.int32)
    total += weights * jnp.take(scores, index, axis=-1, mode="clip")
  return total


def project_rows(
  transform: Float[Array, "num_embeddings num_anchors"],
  *,
  num_nonzeros: int,
) -> SparseRows:
  r"""Keeps the largest weights of each row: the nearest sparse rows.

  Definition: :math:`\arg\min_{r} \|T_i - r\|^2` over the rows :math:`r` with
  at most ``num_nonzeros`` non-zeros. The smaller position wins a tie.

  Args:
    transform: Dense rows of non-negative weights.
    num_nonzeros: How many weights a row keeps, 1 to ``num_anchors``.

  Returns:
    The non-zeros, the largest first.

  Raises:
    ValueError: If `num_nonzeros` is not between 1 and ``num_anchors``.

  >>> print(project_rows(jnp.array([[0.1, 0.0, 0.7]]), num_nonzeros=2))
  SparseRows(indices=Array([[2, 0]], dtype=int32),
             weights=Array([[0.7, 0.1]], dtype=float32))
  """
  check_num_nonzeros(num_nonzeros, transform.shape[-1])
  weights, indices = jax.lax.top_k(transform, num_nonzeros)
  return SparseRows(indices.astype(jnp.int32), weights)


def expand_rows(
  rows: SparseRows, *, num_anchors: int
) -> Float[Array, "num_embeddings num_anchors"]:
  """Writes sparse rows as dense ones: the inverse of :func:`project_rows`.

  Args:
    rows: The non-zeros; weights at the same position add up.
    num_anchors: Width of the dense rows.

  Returns:
    The dense rows.

  >>> rows = SparseRows(jnp.array([[2, 0]]), jnp.array([[0.7, 0.1]]))
  >>> print(expand_rows(rows, num_anchors=3))
  [[0.1 0.  0.7]]
  """
  num_rows = rows.weights.shape[0]
  line = jnp.arange(num_rows)[:, None]
  dense = jnp.zeros((num_rows, num_anchors), rows.weights.dtype)
  # Added, not set: a slot that is left over may point at a position in use.
  return dense.at[line, rows.indices.astype(jnp.int32)].add(rows.weights)


def check_num_nonzeros(num_nonzeros: int, num_anchors: int) -> None:
  """Raises `ValueError` unless ``1 <= num_nonzeros <= num_anchors``.

  >>> check_num_nonzeros(9, 8)
  Traceback (most recent call last):
  ...
  ValueError: `num_nonzeros` must be at most `num_anchors`, got 9 and 8.
  """
  typing.check_at_least("num_nonzeros", num_nonzeros, 1)
  if num_nonzeros > num_anchors:
    raise ValueError(
      "`num_nonzeros` must be at most `num_anchors`, got "
      f"{num_nonzeros} and {num_anchors}."
    )
