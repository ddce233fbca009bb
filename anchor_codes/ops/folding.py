"""Folds what is affine around a composition into its arrays, exactly."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from anchor_codes.ops.normalization import Affine
from anchor_codes.ops.reductions import wide


class Folded(NamedTuple):
  """The linear parts of a composition.

  Attributes:
    composition: Name of the composition.
    codebooks: Code vectors; a leading axis of 1 shares one codebook.
    projection: Matrix of the composition, None if it has none.
    bias: Added to the result; None for zero.
  """

  composition: str
  codebooks: Float[Array, "#code_length codebook_size code_features"]
  projection: Float[Array, "width features"] | None
  bias: Float[Array, " features"] | None


def fold_linear(
  codebooks: Float[Array, "#code_length codebook_size code_features"],
  projection: Float[Array, "code_features features"],
) -> Float[Array, "#code_length codebook_size features"]:
  r"""Folds the projection of a linear composition into the codebooks.

  Definition: :math:`A_{jk} = W_{jk} H`, so that :math:`\sum_j A_{j c_j} =
  (\sum_j W_{j c_j}) H` (KD codes; Chen et al., ICML 2018). The folded
  codebooks go with the composition ``"sum"`` and the same bias.

  Args:
    codebooks: Code vectors :math:`W`; a leading axis of 1 shares one codebook.
    projection: The matrix :math:`H`.

  Returns:
    Codebooks whose entries are as wide as the embeddings.

  >>> codebooks = jnp.array([[[1.0], [2.0]]])
  >>> print(fold_linear(codebooks, jnp.array([[10.0, 1.0]])))
  [[[10.  1.]
    [20.  2.]]]
  """
  chex.assert_rank([codebooks, projection], [3, 2])
  return _full_product(codebooks, projection[None, :, :])


def fold_smaller(folded: Folded) -> Folded:
  """Folds a linear composition into a sum if the sum has fewer numbers.

  It has, if the embeddings are narrower than the code vectors, or not much
  wider, and it needs no product at a lookup.

  Args:
    folded: The parts of a composition.

  Returns:
    The parts of a composition with the same vectors.

  >>> codebooks, projection = jnp.ones((1, 2, 3)), jnp.ones((3, 2))
  >>> fold_smaller(Folded("linear", codebooks, projection, None)).composition
  'sum'
  """
  composition, codebooks, projection, bias = folded
  if composition != "linear" or projection is None:
    return folded
  entries = codebooks.shape[0] * codebooks.shape[1]
  if entries * projection.shape[1] > codebooks.size + projection.size:
    return folded
  folded_books = fold_linear(wide(codebooks), wide(projection))
  return Folded("sum", folded_books, None, bias)


def fold_norms(
  folded: Folded,
  *,
  code_length: int,
  inner: Affine | None = None,
  outer: Affine | None = None,
) -> Folded:
  r"""Folds normalisations out of training, which are affine, into the arrays.

  Definition, for an inner map :math:`m \mapsto s \odot m + t` of the sum of
  code vectors, and an outer one :math:`e \mapsto u \odot e + v`: :math:`H'
  = \text{diag}(s) H \text{diag}(u)` and :math:`b' = (t H + b) \odot u + v`.
  Without a projection the outer scale goes into the codebooks.

  Args:
    folded: The parts of a composition.
    code_length: Number of positions. For ``"concat"`` a shared codebook is no
      longer shared, since each position has its own features to scale.
    inner: Map before the projection of ``"linear"``.
    outer: Map of the embeddings.

  Returns:
    Parts, in at least float32, of the same vectors without the maps.

  >>> folded = Folded("sum", jnp.ones((1, 2, 1)), None, None)
  >>> outer = Affine(jnp.array([2.0]), jnp.array([5.0]))
  >>> _, codebooks, _, bias = fold_norms(folded, code_length=3, outer=outer)
  >>> print(codebooks[0, :, 0], bias)
  [2. 2.] [5.]
  """
  composition, codebooks, projection, bias = folded
  if inner is not None and projection is not None:
    projection = wide(projection)
    # Before the projection is scaled: the offset is added after the scale.
    offset = _full_product(inner.offset, projection)
    bias = offset if bias is None else offset + wide(bias)
    projection = projection * inner.scale[:, None]
  if outer is None:
    return Folded(composition, codebooks, projection, bias)
  scale, offset = outer
  bias = offset if bias is None else wide(bias) * scale + offset
  if projection is not None:
    projection = wide(projection) * scale[None, :]
  else:
    codebooks = _scale_entries(composition, codebooks, scale, code_length)
  return Folded(composition, codebooks, projection, bias)


def _full_product(left: Array, right: Array) -> Array:
  # A file has to say what the layer computes, on any device.
  return jnp.matmul(left, right, precision=jax.lax.Precision.HIGHEST)


def _scale_entries(
  composition: str, codebooks: Array, scale: Array, code_length: int
) -> Array:
  """Scales what each entry of a codebook adds to the features."""
  positions = code_length if composition == "concat" else 1
  scales = scale.reshape(positions, 1, codebooks.shape[-1])
  shape = (max(positions, codebooks.shape[0]), *codebooks.shape[1:])
  return jnp.broadcast_to(wide(codebooks), shape) * jnp.broadcast_to(
    scales, shape
  )
