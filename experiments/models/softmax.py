"""The loss of a softmax over many words, in few passes over its logits."""

import chex
import jax
from jax import numpy as jnp
from jaxtyping import Array, Float, Int


@jax.custom_vjp
def softmax_nll(
  logits: Float[Array, "rows vocab_size"], targets: Int[Array, " rows"]
) -> Float[Array, " rows"]:
  r"""Returns the negative log likelihood of targets under a softmax.

  Definition: :math:`\log \sum_k e^{x_k} - x_t`, with the gradient
  :math:`e^{x_k} / \sum_j e^{x_j} - [k = t]`. The backward pass computes this in
  one pass from the logits, where automatic differentiation keeps a second array
  as large as they are, and scatters the targets into a third. There is no
  forward mode.

  Args:
    logits: Scores of all words.
    targets: Words in ``[0, vocab_size)``.

  Returns:
    One number for each row.

  >>> print(softmax_nll(jnp.zeros((1, 4)), jnp.array([2])))
  [1.3862944]
  >>> gradient = jax.grad(lambda x: softmax_nll(x, jnp.array([2])).sum())
  >>> print(gradient(jnp.zeros((1, 4))))
  [[ 0.25  0.25 -0.75  0.25]]
  """
  return _forward(logits, targets)[0]


def _forward(
  logits: Array, targets: Array
) -> tuple[Array, tuple[Array, Array, Array]]:
  chex.assert_rank([logits, targets], [2, 1])
  largest = jnp.max(logits, axis=-1, keepdims=True)
  sums = jnp.sum(jnp.exp(logits - largest), axis=-1, keepdims=True)
  log_sums = largest + jnp.log(sums)
  chosen = jnp.take_along_axis(logits, targets[:, None], axis=-1)
  return (log_sums - chosen)[:, 0], (logits, log_sums, targets)


def _backward(
  residuals: tuple[Array, Array, Array], cotangents: Array
) -> tuple[Array, None]:
  logits, log_sums, targets = residuals
  words = jnp.arange(logits.shape[-1], dtype=targets.dtype)
  hit = targets[:, None] == words[None]
  probabilities = jnp.exp(logits - log_sums)
  return (probabilities - hit.astype(logits.dtype)) * cotangents[:, None], None


softmax_nll.defvjp(_forward, _backward)
