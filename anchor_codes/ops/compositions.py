"""How the vectors that a code chooses become one vector."""

import chex
import jax.numpy as jnp
from jaxtyping import Array, Float

from anchor_codes.typing import COMPOSITIONS, check_choice


def check_composition(
  composition: str, projection: Float[Array, "..."] | None
) -> None:
  """Raises `ValueError` unless the projection goes with the composition.

  >>> check_composition("sum", None)
  """
  check_choice("composition", composition, COMPOSITIONS)
  if (projection is not None) != (composition == "linear"):
    has = "no" if projection is None else "a"
    raise ValueError(
      "`projection` must be given for the composition 'linear' and for no "
      f"other, got {has} projection for {composition!r}."
    )


def project(
  vectors: Float[Array, "*batch width"],
  projection: Float[Array, "width features"] | None,
  bias: Float[Array, " features"] | None,
) -> Float[Array, "*batch features"]:
  r"""Applies the affine end of a composition, :math:`v H + b`.

  Args:
    vectors: The combined code vectors.
    projection: The matrix :math:`H`; None for the identity.
    bias: The vector :math:`b`; None for zero.

  Returns:
    One vector for each of ``vectors``.

  >>> print(project(jnp.array([1.0, 2.0]), None, jnp.array([0.5, 0.5])))
  [1.5 2.5]
  """
  if projection is not None:
    vectors = vectors @ projection
  if bias is not None:
    chex.assert_shape(bias, vectors.shape[-1:])
    vectors = vectors + jnp.broadcast_to(bias, vectors.shape)
  return vectors


def compose(
  vectors: Float[Array, "*batch code_length code_features"],
  composition: str,
  *,
  projection: Float[Array, "code_features features"] | None = None,
  bias: Float[Array, " features"] | None = None,
) -> Float[Array, "*batch features"]:
  r"""Combines the code vectors of each symbol into its embedding.

  Definitions, for the vectors :math:`w_1, \dots, w_D` of a code: ``"sum"``,
  :math:`e = \sum_j w_j`; ``"linear"``, :math:`e = (\sum_j w_j) H` (KD codes;
  Chen et al., ICML 2018); ``"concat"``, :math:`e = [w_1; \dots; w_D]` (DPQ;
  Chen et al., ICML 2020). A bias is added to all of them.

  Args:
    vectors: One vector for each position of the code.
    composition: ``"sum"``, ``"concat"`` or ``"linear"``.
    projection: The matrix :math:`H` of ``"linear"``.
    bias: Added to the result.

  Returns:
    One vector for each code: ``features`` is ``code_features`` for a sum and
    ``code_length * code_features`` for a concatenation.

  Raises:
    ValueError: For an unknown composition, or unless a projection is given
      exactly for ``"linear"``.

  >>> vectors = jnp.array([[1.0, 2.0], [3.0, 4.0]])
  >>> print(compose(vectors, "sum"), compose(vectors, "concat"))
  [4. 6.] [1. 2. 3. 4.]
  """
  check_composition(composition, projection)
  *batch, code_length, code_features = vectors.shape
  if composition == "concat":
    combined = vectors.reshape(*batch, code_length * code_features)
  else:
    combined = jnp.sum(vectors, axis=-2)
  return project(combined, projection, bias)


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
  return codebooks @ projection[None, :, :]
