"""The recurrence of an LSTM layer, with a backward pass of few products."""

from typing import NamedTuple

import chex
import jax
from jax import numpy as jnp
from jaxtyping import Array, Float

State = tuple[Float[Array, "batch hidden"], Float[Array, "batch hidden"]]
"""The hidden vectors h, and the memory cells c."""


class _Trace(NamedTuple):
  """What the forward pass leaves for each step, [time, batch, hidden].

  Attributes:
    hidden: The hidden vectors, the outputs of the layer.
    memory: The memory cells.
    write: The gate i, what is written to the memory.
    forget: The gate f, what is kept of the memory.
    candidate: What may be written, g.
    read: The gate o, what is read from the memory.
  """

  hidden: Array
  memory: Array
  write: Array
  forget: Array
  candidate: Array
  read: Array


def lstm(
  inputs: Float[Array, "time batch features"],
  state: State,
  *,
  input_kernel: Float[Array, "features gates"],
  hidden_kernel: Float[Array, "hidden gates"],
  bias: Float[Array, " gates"],
) -> tuple[State, Float[Array, "time batch hidden"]]:
  r"""Runs an LSTM layer over time (Hochreiter & Schmidhuber, 1997).

  Definition (Zaremba et al., 2014), with the logistic function :math:`\sigma`
  and the blocks of :math:`z_t = x_t W + h_{t-1} U + b` for i, f, g and o:

  .. math::

    c_t &= \sigma(z^f_t) \odot c_{t-1} + \sigma(z^i_t) \odot \tanh(z^g_t) \\
    h_t &= \sigma(z^o_t) \odot \tanh(c_t)

  The products :math:`x_t W` of all steps are one product. Backwards, each step
  takes only the product :math:`dh_{t-1} = dz_t U^T`; the gradient :math:`dU =
  \sum_t h_{t-1}^T dz_t` is again one product over all steps, where automatic
  differentiation takes one for each step and adds up matrices as large as U.
  There is no forward mode: `jax.jvp` raises an error. Under `shard_map` kernels
  that all devices share must be made to vary as the inputs do, by
  ``jax.lax.pcast(kernel, axis_name, to="varying")``, whose gradient is the sum
  over the devices; under `jit` nothing is to be done.

  Args:
    inputs: The vectors x.
    state: The hidden vectors and the memory cells before the first step.
    input_kernel: The matrix W, ``4 * hidden`` wide: i, f, g, o side by side.
    hidden_kernel: The matrix U.
    bias: The vector b.

  Returns:
    The state after the last step, and the hidden vectors of all steps.

  >>> inputs, zeros = jnp.ones((3, 1, 2)), jnp.zeros((1, 1))
  >>> state, outputs = lstm(
  ...   inputs,
  ...   (zeros, zeros),
  ...   input_kernel=jnp.ones((2, 4)),
  ...   hidden_kernel=jnp.ones((1, 4)),
  ...   bias=jnp.zeros(4),
  ... )
  >>> print(*(f"{output:.3f}" for output in outputs.ravel()))
  0.608 0.873 0.935
  """
  chex.assert_rank([inputs, *state], [3, 2, 2])
  hidden = hidden_kernel.shape[0]
  chex.assert_shape([input_kernel, hidden_kernel], (None, 4 * hidden))
  terms = inputs @ input_kernel + bias[None, None]
  return _recur(terms, state, hidden_kernel)


@jax.custom_vjp
def _recur(
  terms: Float[Array, "time batch gates"],
  state: State,
  kernel: Float[Array, "hidden gates"],
) -> tuple[State, Float[Array, "time batch hidden"]]:
  """Runs over the terms of the inputs, ``x W + b``."""
  state, trace = _forward(terms, state, kernel)
  return state, trace.hidden


def _forward(terms: Array, state: State, kernel: Array) -> tuple[State, _Trace]:
  def step(state: State, term: Array) -> tuple[State, _Trace]:
    hidden, memory = state
    parts = jnp.split(term + hidden @ kernel, 4, axis=-1)
    write, forget, read = (jax.nn.sigmoid(parts[i]) for i in (0, 1, 3))
    candidate = jnp.tanh(parts[2])
    memory = forget * memory + write * candidate
    hidden = read * jnp.tanh(memory)
    trace = _Trace(hidden, memory, write, forget, candidate, read)
    return (hidden, memory), trace

  return jax.lax.scan(step, state, terms)


def _recur_fwd(
  terms: Array, state: State, kernel: Array
) -> tuple[tuple[State, Array], tuple[_Trace, State, Array]]:
  last, trace = _forward(terms, state, kernel)
  return (last, trace.hidden), (trace, state, kernel)


def _recur_bwd(
  residuals: tuple[_Trace, State, Array],
  cotangents: tuple[State, Array],
) -> tuple[Array, State, Array]:
  trace, first, kernel = residuals
  last_cotangents, output_cotangents = cotangents
  _, memory, write, forget, candidate, read = trace
  earlier_hidden, earlier_memory = (
    jnp.concatenate([start[None], steps])[:-1]
    for start, steps in zip(first, trace[:2], strict=True)
  )
  # What does not depend on later steps is computed for all steps at once: the
  # derivatives of c_t by the first three blocks of z_t, of h_t by the last
  # block, and of h_t by c_t.
  tanh_memory = jnp.tanh(memory)
  by_write = candidate * write * (1 - write)
  by_forget = earlier_memory * forget * (1 - forget)
  by_candidate = write * (1 - candidate * candidate)
  by_read = tanh_memory * read * (1 - read)
  by_memory = read * (1 - tanh_memory * tanh_memory)

  def step(cotangents: State, known: tuple) -> tuple[State, Array]:
    output, *to_memory, to_hidden, through, kept = known
    hidden, memory = cotangents
    hidden = hidden + output
    memory = memory + hidden * through
    blocks = [memory * factor for factor in to_memory] + [hidden * to_hidden]
    term = jnp.concatenate(blocks, axis=-1)
    return (term @ kernel.T, memory * kept), term

  known = by_write, by_forget, by_candidate, by_read, by_memory, forget
  first_cotangents, terms = jax.lax.scan(
    step, last_cotangents, (output_cotangents, *known), reverse=True
  )
  of_kernel = jnp.einsum("tbh,tbg->hg", earlier_hidden, terms)
  return terms, first_cotangents, of_kernel


_recur.defvjp(_recur_fwd, _recur_bwd)
