r"""The networks at the end of a composition: layers, an LSTM, a projection.

Compositions of KD codes (Chen et al., ICML 2018) that are not linear. A
composition is a sum of code vectors, or all of them in order; then a network,
for two compositions; then a projection.
"""

from collections.abc import Mapping

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from anchor_codes.ops.reductions import wide


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
    # Broadcast by hand: strict rank promotion would refuse the sum.
    vectors = vectors + jnp.broadcast_to(bias, vectors.shape)
  return vectors


def residual_layers(
  sums: Float[Array, "*batch hidden"],
  network: Mapping[str, Float[Array, "..."]],
) -> Float[Array, "*batch hidden"]:
  r"""Applies residual layers to sums of code vectors.

  Definition (the multi-layer compositions of KD codes; Chen et al., ICML
  2018): :math:`h_1 = \phi(\sum_j w_j + b_1)` and :math:`h_l = h_{l-1} +
  \phi(h_{l-1} W_l + b_l)`. A dense layer over the concatenated code vectors
  :math:`[v_1; \dots; v_D]` is a sum of code vectors, :math:`\sum_j v_j U_j`
  with :math:`w_j = v_j U_j` in the codebooks: that is the first layer.

  The function :math:`\phi` is ``relu``, that of the other composition of the
  published code that is not linear, the convolution. Without one (the published
  setting) the composition is ``"linear"``.

  Args:
    sums: Sums of code vectors, as wide as the layers.
    network: The arrays `biases` [num_layers, hidden] and, if there is more
      than one layer, `kernels` [num_layers - 1, hidden, hidden].

  Returns:
    The output of the last layer.

  >>> network = {"biases": jnp.array([[0.0, 1.0]])}
  >>> print(residual_layers(jnp.array([-1.0, 2.0]), network))
  [0. 3.]
  """
  first, *biases = jnp.unstack(network["biases"])
  kernels = jnp.unstack(network["kernels"]) if biases else ()
  hidden = jax.nn.relu(project(sums, None, first))
  for kernel, bias in zip(kernels, biases, strict=True):
    hidden = hidden + jax.nn.relu(project(hidden, kernel, bias))
  return hidden


def mean_lstm(
  vectors: Float[Array, "*batch code_length code_features"],
  network: Mapping[str, Float[Array, "..."]],
) -> Float[Array, "*batch hidden"]:
  r"""Reads code vectors by an LSTM, and averages its outputs.

  Definition (the LSTM composition of KD codes; Chen et al., ICML 2018, on
  Hochreiter and Schmidhuber, 1997): for the digits in order, with
  :math:`[i, f, g, o] = [w_j; h] W + b`,

  .. math:: c \leftarrow \sigma(f) \odot c + \sigma(i) \odot \tanh(g), \quad
            h \leftarrow \sigma(o) \odot \tanh(c).

  Nothing is added to the forget gate, and the first :math:`h` and :math:`c`
  are trained. The steps are computed in at least float32.

  Args:
    vectors: One vector for each position of the code.
    network: The arrays `kernels` [code_features + hidden, 4 * hidden],
      `biases` [4 * hidden], and `states` [2, hidden]: the first :math:`h` and
      the first :math:`c`.

  Returns:
    The mean of :math:`h` over the positions, in the type of the vectors.

  >>> network = {"kernels": jnp.zeros((3, 8)), "biases": jnp.zeros(8),
  ...            "states": jnp.array([[0.0, 0.0], [0.0, 2.0]])}
  >>> first, second = mean_lstm(jnp.ones((1, 1)), network)
  >>> print(f"{first:.4f} {second:.4f}")
  0.0000 0.3808
  """
  kernels, biases = wide(network["kernels"]), wide(network["biases"])
  *batch, code_length, code_features = vectors.shape
  hidden, cell = (
    jnp.broadcast_to(state, (*batch, *state.shape))
    for state in wide(network["states"])
  )

  def step(
    carry: tuple[Array, Array, Array], vector: Array
  ) -> tuple[tuple[Array, Array, Array], None]:
    hidden, cell, total = carry
    # Two products, because the inputs side by side would be a copy.
    gates = wide(vector) @ kernels[:code_features]
    gates += project(hidden, kernels[code_features:], biases)
    i, f, g, o = jnp.split(gates, 4, axis=-1)
    cell = jax.nn.sigmoid(f) * cell + jax.nn.sigmoid(i) * jnp.tanh(g)
    hidden = jax.nn.sigmoid(o) * jnp.tanh(cell)
    return (hidden, cell, total + hidden), None

  # The sum is carried along, so that a lookup stacks no hidden vectors.
  start = (hidden, cell, jnp.zeros_like(hidden))
  (_, _, total), _ = jax.lax.scan(step, start, jnp.moveaxis(vectors, -2, 0))
  return (total / code_length).astype(vectors.dtype)
