"""Scores of vectors against the entries of codebooks.

All of them are computed in full precision and returned in at least float32: an
argmax turns a small error of a score into another code.
"""

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from anchor_codes.ops.reductions import wide

_FULL = jax.lax.Precision.HIGHEST


def dot_scores(
  queries: Float[Array, "*batch code_length width"],
  keys: Float[Array, "#code_length codebook_size width"],
) -> Float[Array, "*batch code_length codebook_size"]:
  r"""Scores codebook entries by their inner product with a query.

  Definition (DPQ-SX; Chen et al., ICML 2020):
  :math:`s_{jk} = \langle q_j, c_{jk} \rangle`.

  Args:
    queries: One vector for each position of the code.
    keys: Entries to choose from; a leading axis of 1 shares one codebook among
      all positions.

  Returns:
    Larger is closer; at least float32.

  >>> queries = jnp.array([[0.5, -0.25]])
  >>> keys = jnp.array([[[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]])
  >>> print(dot_scores(queries, keys))
  [[ 0.5  -0.25  0.25]]
  """
  chex.assert_shape(keys, ({1, queries.shape[-2]}, None, queries.shape[-1]))
  # Without its axis a shared codebook is one matrix, and all positions go into
  # one product with it.
  positions, keys = ("", keys[0]) if keys.shape[0] == 1 else ("j", keys)
  return _full_einsum(
    f"...{positions}w,{positions}kw->...{positions}k", queries, keys
  )


def squared_distance_scores(
  queries: Float[Array, "*batch code_length width"],
  codebooks: Float[Array, "#code_length codebook_size width"],
) -> Float[Array, "*batch code_length codebook_size"]:
  r"""Scores codebook entries by their negated squared distance to a query.

  Definition (DPQ-VQ; Chen et al., ICML 2020):
  :math:`s_{jk} = -\|q_j - c_{jk}\|^2 = 2 \langle q_j, c_{jk} \rangle -
  \|q_j\|^2 - \|c_{jk}\|^2`, in the expanded form, so that the differences
  ``[..., code_length, codebook_size, width]`` are never stored.

  Args:
    queries: One vector for each position of the code.
    codebooks: Entries to choose from; a leading axis of 1 shares one codebook
      among all positions.

  Returns:
    Larger is closer; at least float32.

  >>> codebooks = jnp.array([[[0.0, 0.0], [1.0, 1.0]]])
  >>> print(squared_distance_scores(jnp.array([[0.5, 1.0]]), codebooks))
  [[-1.25 -0.25]]
  """
  queries, codebooks = wide(queries), wide(codebooks)
  squares = lambda x: jnp.sum(jnp.square(x), axis=-1, keepdims=True)
  # One product of longer vectors, (2 q, |q|^2, -1) and (c, -1, |c|^2), in place
  # of a product and sums that are as large as its result.
  minus_ones = lambda x: jnp.full((*x.shape[:-1], 1), -1, x.dtype)
  return dot_scores(
    jnp.concatenate([2 * queries, squares(queries), minus_ones(queries)], -1),
    jnp.concatenate([codebooks, minus_ones(codebooks), squares(codebooks)], -1),
  )


def position_scores(
  vectors: Float[Array, "*batch features"],
  codebooks: Float[Array, "#code_length codebook_size code_features"],
  composition: str,
  *,
  code_length: int,
  projection: Float[Array, "code_features features"] | None = None,
) -> Float[Array, "*batch #code_length codebook_size"]:
  r"""Scores what each digit adds to a composed vector, against a vector.

  These compositions are linear, so :math:`\langle v, e \rangle = \sum_j
  S_{j c_j}` for the vector :math:`e` of a code :math:`c` (without bias).
  These are the tables :math:`S` ("asymmetric distance computation"; Jegou et
  al., TPAMI 2011). They are the gradient with respect to the one-hot codes,
  too, if ``vectors`` is the gradient with respect to :math:`e`.

  Args:
    vectors: Vectors of the width of the composed ones.
    codebooks: Code vectors; a leading axis of 1 shares one codebook.
    composition: ``"sum"``, ``"concat"`` or ``"linear"``, which are linear.
    code_length: Number of positions.
    projection: Matrix of the composition ``"linear"``.

  Returns:
    One table for each position; one for all of them (an axis of 1) where they
    are equal.

  >>> codebooks = jnp.array([[[1.0], [2.0]], [[3.0], [4.0]]])
  >>> query = jnp.array([1.0, 10.0])
  >>> print(position_scores(query, codebooks, "concat", code_length=2))
  [[ 1.  2.]
   [30. 40.]]
  """
  if composition == "concat":
    code_features = codebooks.shape[-1]
    chex.assert_axis_dimension(vectors, -1, code_length * code_features)
    parts = (*vectors.shape[:-1], code_length, code_features)
    return dot_scores(vectors.reshape(parts), codebooks)
  if projection is not None:
    vectors = _full_einsum("...f,wf->...w", vectors, projection)
  return _full_einsum("...w,jkw->...jk", vectors, codebooks)


def _full_einsum(
  subscripts: str, left: Float[Array, "..."], right: Float[Array, "..."]
) -> Float[Array, "..."]:
  # Products of bfloat16 are summed in float32: rounded scores would tie.
  dtype = wide(left).dtype
  return jnp.einsum(
    subscripts, left, right, precision=_FULL, preferred_element_type=dtype
  )
