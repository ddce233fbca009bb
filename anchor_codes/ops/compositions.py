"""How the vectors that a code chooses become one vector.

A composition has three stages: it *combines* the code vectors (a sum, all of
them side by side, or all of them in order), applies the hidden layers of a
*network* (for ``"mlp"`` and ``"lstm"``), and *projects* the result.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from anchor_codes import typing
from anchor_codes.ops.networks import mean_lstm, project, residual_layers

PROJECTED = ("linear", "mlp", "lstm")
SUMMED = ("sum", "linear", "mlp")


class CodeParameter(NamedTuple):
  """A trained array of a composition.

  Attributes:
    shape: Its shape.
    std: Standard deviation of its entries at the start; 0 for zeros.
  """

  shape: tuple[int, ...]
  std: float


def code_parameters(
  composition: str,
  *,
  features: int,
  code_length: int,
  codebook_size: int,
  code_features: int | None = None,
  shared_codebook: bool = False,
  hidden: int | None = None,
  num_layers: int = 1,
  has_bias: bool = True,
  scale: float = 1.0,
) -> dict[str, CodeParameter]:
  """Lists the arrays that the symbols share, and how they start.

  The composed vectors start with entries of about the same spread for all
  compositions.

  Args:
    composition: One of the five of :func:`compose`.
    features: Width of the composed vectors.
    code_length: Number of positions.
    codebook_size: Entries of a codebook.
    code_features: Width of the code vectors of ``"linear"`` and ``"lstm"``,
      `features` by default.
    shared_codebook: Whether all positions share one codebook.
    hidden: Width of the layers of ``"mlp"`` and ``"lstm"``, `features` by
      default.
    num_layers: Number of layers of ``"mlp"``.
    has_bias: Whether ``"mlp"`` and ``"lstm"`` add a bias at their end.
    scale: Standard deviation of an entry of the composed vectors.

  Returns:
    The arrays by name: `codebooks`, `projection`, `bias`, and those of
    :func:`anchor_codes.typing.network_shapes`.

  Raises:
    ValueError: If the composition is unknown or the sizes do not fit it.

  >>> parameters = code_parameters(
  ...   "linear", features=8, code_length=4, codebook_size=16, code_features=4
  ... )
  >>> parameters["codebooks"]
  CodeParameter(shape=(4, 16, 4), std=0.5)
  >>> parameters["projection"]
  CodeParameter(shape=(4, 8), std=0.5)
  """
  width = typing.code_width(
    composition,
    features,
    code_length,
    code_features=code_features,
    hidden=hidden,
  )
  hidden = typing.hidden_width(
    composition, features, hidden=hidden, num_layers=num_layers
  )
  std, gain = _start(composition, width, hidden, code_length, num_layers)
  if composition == "lstm":  # Its vectors do not grow with the codebooks.
    gain *= scale
  else:
    std *= scale
  positions = 1 if shared_codebook else code_length
  inner = hidden or width
  parameters = {
    "codebooks": CodeParameter((positions, codebook_size, width), std)
  }
  if composition in PROJECTED:
    std = gain / math.sqrt(inner)
    parameters["projection"] = CodeParameter((inner, features), std)
  if has_bias and hidden:
    parameters["bias"] = CodeParameter((features,), 0.0)
  shapes = typing.network_shapes(
    composition, code_features=width, hidden=hidden, num_layers=num_layers
  )
  for name, shape in shapes.items():
    # One over the root of the inputs: products are as widely spread as these.
    std = 1 / math.sqrt(shape[-2]) if name == "kernels" else 0.0
    parameters[name] = CodeParameter(shape, std)
  return parameters


def check_composition(
  composition: str,
  projection: Float[Array, "..."] | None,
  network: Mapping[str, Float[Array, "..."]] | None = None,
) -> None:
  """Raises `ValueError` unless the arrays go with the composition.

  >>> check_composition("sum", None)
  """
  typing.check_choice("composition", composition, typing.COMPOSITIONS)
  if (projection is not None) != (composition in PROJECTED):
    has = "no" if projection is None else "a"
    raise ValueError(
      "`projection` must be given for the compositions 'linear', 'mlp' and "
      f"'lstm' and for no other, got {has} projection for {composition!r}."
    )
  # The sizes are no matter: names depend on whether there is a second layer.
  is_deep = network is not None and "kernels" in network
  names = typing.network_shapes(
    composition, code_features=1, hidden=1, num_layers=1 + is_deep
  )
  if sorted(network or {}) != sorted(names):
    raise ValueError(
      f"`network` must have the arrays {sorted(names)} for the composition "
      f"{composition!r}, got {sorted(network or {})}."
    )


def combine(
  vectors: Float[Array, "*batch code_length code_features"], composition: str
) -> Float[Array, "*batch_and_width"]:
  """Combines code vectors as a composition does before its network.

  Args:
    vectors: One vector for each position of the code.
    composition: One of the five of :func:`compose`.

  Returns:
    Their sum, or for ``"concat"`` all side by side; for ``"lstm"``, which
    reads them in order, the vectors as they are.

  Raises:
    ValueError: For an unknown composition.

  >>> print(combine(jnp.array([[1.0, 2.0], [3.0, 4.0]]), "linear"))
  [4. 6.]
  """
  typing.check_choice("composition", composition, typing.COMPOSITIONS)
  if composition in SUMMED:
    return jnp.sum(vectors, axis=-2)
  if composition == "lstm":
    return vectors
  # No -1 in the reshape: the batch may be empty.
  *batch, code_length, code_features = vectors.shape
  return vectors.reshape(*batch, code_length * code_features)


def finish(
  combined: Float[Array, "*batch_and_width"],
  composition: str,
  *,
  projection: Float[Array, "width features"] | None = None,
  bias: Float[Array, " features"] | None = None,
  network: Mapping[str, Float[Array, "..."]] | None = None,
) -> Float[Array, "*batch features"]:
  """Applies what follows :func:`combine`: the network and the projection.

  Args:
    combined: What :func:`combine` returned.
    composition: One of the five of :func:`compose`.
    projection: As for :func:`compose`.
    bias: As for :func:`compose`.
    network: As for :func:`compose`.

  Returns:
    One vector for each code.

  Raises:
    ValueError: As :func:`compose`.

  >>> print(finish(jnp.ones(1), "linear", projection=jnp.array([[2.0, 3.0]])))
  [2. 3.]
  """
  check_composition(composition, projection, network)
  if composition == "mlp" and network:
    combined = residual_layers(combined, network)
  if composition == "lstm" and network:
    combined = mean_lstm(combined, network)
  return project(combined, projection, bias)


def compose(
  vectors: Float[Array, "*batch code_length code_features"],
  composition: str,
  *,
  projection: Float[Array, "width features"] | None = None,
  bias: Float[Array, " features"] | None = None,
  network: Mapping[str, Float[Array, "..."]] | None = None,
) -> Float[Array, "*batch features"]:
  r"""Combines the code vectors of each symbol into its embedding.

  Definitions, for the vectors :math:`w_1, \dots, w_D` of a code:

  * ``"sum"``: :math:`e = \sum_j w_j`;
  * ``"concat"``: :math:`e = [w_1; \dots; w_D]` (DPQ; Chen et al., ICML 2020);
  * ``"linear"``: :math:`e = (\sum_j w_j) H` (KD codes; Chen et al., ICML 2018);
  * ``"mlp"``: :math:`e = f(\sum_j w_j) H` with the
    :func:`~anchor_codes.ops.networks.residual_layers` :math:`f`;
  * ``"lstm"``: :math:`e = f(w_1, \dots, w_D) H` with the
    :func:`~anchor_codes.ops.networks.mean_lstm` :math:`f` (KD codes).

  A bias is added to all of them.

  Args:
    vectors: One vector for each position of the code.
    composition: One of these five.
    projection: The matrix :math:`H`, as high as the result of :math:`f` or the
      sum is wide.
    bias: Added to the result.
    network: The arrays of :math:`f`, by name.

  Returns:
    One vector for each code: ``features`` is ``code_features`` for a sum and
    ``code_length * code_features`` for a concatenation.

  Raises:
    ValueError: For an unknown composition, or unless projection and network
      are given exactly for the compositions that have them.

  >>> vectors = jnp.array([[1.0, 2.0], [3.0, 4.0]])
  >>> print(compose(vectors, "sum"), compose(vectors, "concat"))
  [4. 6.] [1. 2. 3. 4.]
  """
  check_composition(composition, projection, network)
  return finish(
    combine(vectors, composition),
    composition,
    projection=projection,
    bias=bias,
    network=network,
  )


def _start(
  composition: str, width: int, hidden: int, code_length: int, num_layers: int
) -> tuple[float, float]:
  """Returns the spread of the codebooks, and the gain of the projection.

  The product of the two, and what is between them, gives a spread of one.
  """
  if composition == "lstm":
    # The gates then have a spread of one. That of the mean of the hidden
    # vectors was measured; it falls slowly, as neighbours are much alike.
    return math.sqrt(1 + hidden / width), 5.5 * code_length**0.25
  # A sum of `code_length` vectors must not be wider than one of them.
  terms = 1 if composition == "concat" else code_length
  # The first relu halves the mean square, each residual layer doubles it.
  gain = 2.0 ** (1 - num_layers / 2) if composition == "mlp" else 1.0
  return 1 / math.sqrt(terms), gain
