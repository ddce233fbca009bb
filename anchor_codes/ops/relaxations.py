r"""Hard choices that let a gradient through.

A code is an argmax, whose derivative is zero. The functions here return the
hard choice, exactly, and differentiate a soft one in its place (the
straight-through estimator; Bengio et al., 2013). They are ``custom_vjp``
functions: reverse mode only, ``jax.jvp`` of them raises a ``TypeError``.

Temperatures are ordinary arguments with zero gradient: a schedule does not
recompile. Scores of ``nan`` go unnoticed in the forward pass, where an argmax
picks the first ``nan``, and make the gradient ``nan``.
"""

import functools
from collections.abc import Mapping

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from anchor_codes.ops.codes import combine_codes, lookup_codes
from anchor_codes.ops.compositions import check_composition, finish
from anchor_codes.ops.reductions import wide
from anchor_codes.ops.scores import position_scores


def straight_through(
  hard: Float[Array, "*shape"], soft: Float[Array, "*shape"]
) -> Float[Array, "*shape"]:
  r"""Returns one value and differentiates another one.

  The straight-through estimator (Bengio et al., 2013): the value of `hard`, bit
  for bit, and :math:`\partial y / \partial \text{soft} = I`,
  :math:`\partial y / \partial \text{hard} = 0`.

  Args:
    hard: The value.
    soft: What gets every cotangent; of the same shape and type as `hard`.

  Returns:
    The array `hard`.

  >>> print(jax.grad(lambda x: straight_through(jnp.round(x), x) ** 2)(1.8))
  4.0
  """
  chex.assert_trees_all_equal_shapes_and_dtypes(hard, soft)
  return _straight_through(hard, soft)


def softmax_codes(
  logits: Float[Array, "*batch codebook_size"],
  temperature: float | Float[Array, ""],
) -> Float[Array, "*batch codebook_size"]:
  r"""Chooses the best entry, with the gradient of a tempered softmax.

  The estimator of KD codes (Chen et al., ICML 2018) and DPQ-SX (Chen et al.,
  ICML 2020): forward :math:`y = \text{onehot}(\arg\max_k z_k)`, backward
  :math:`\partial y / \partial z := \partial\, \text{softmax}(z / \tau) /
  \partial z`, that is, :math:`dz = p \odot (g - \langle p, g \rangle) / \tau`
  with :math:`p = \text{softmax}(z / \tau)`.

  Args:
    logits: Scores, larger is better; compared in at least float32.
    temperature: The scalar :math:`\tau > 0`.

  Returns:
    Exact one-hot vectors, in the type of the logits.

  Raises:
    ValueError: If the temperature is a number that is not positive; one that
      is traced is not checked, and 0 gives a gradient of ``nan``.

  >>> print(softmax_codes(jnp.array([1.0, 2.0, 0.5]), 0.5))
  [0. 1. 0.]
  >>> first = lambda logits: softmax_codes(logits, 0.5)[0]
  >>> print(jax.grad(first)(jnp.zeros(2)))
  [ 0.5 -0.5]
  """
  return _softmax_codes(logits, check_temperature(temperature))


def perturb_logits(
  key: PRNGKeyArray, logits: Float[Array, "*shape"]
) -> Float[Array, "*shape"]:
  r"""Adds Gumbel noise, so that the argmax is a sample of the softmax.

  Definition (Gumbel-max; Maddison et al., 2014): with independent
  :math:`\gamma_k \sim \text{Gumbel}(0, 1)`, :math:`\arg\max_k (z_k +
  \gamma_k)` has the distribution :math:`\text{softmax}(z)`.

  Args:
    key: Random key.
    logits: Scores.

  Returns:
    Perturbed scores, at least float32.

  >>> print(perturb_logits(jax.random.key(0), jnp.zeros((2, 3))).shape)
  (2, 3)
  """
  scores = wide(logits)
  return scores + jax.random.gumbel(key, scores.shape, scores.dtype)


def gumbel_codes(
  key: PRNGKeyArray,
  logits: Float[Array, "*batch codebook_size"],
  temperature: float | Float[Array, ""],
) -> Float[Array, "*batch codebook_size"]:
  r"""Samples an entry, with the gradient of the Gumbel-softmax.

  The straight-through Gumbel-softmax (Jang et al., 2017; Maddison et al.,
  2017): forward a sample of :math:`\text{softmax}(z)` by
  :func:`perturb_logits`, backward the derivative of :math:`\text{softmax}((z +
  \gamma) / \tau)` for the same noise.

  Args:
    key: Random key.
    logits: Scores, larger is likelier.
    temperature: The scalar :math:`\tau > 0`; it does not affect the sample.

  Returns:
    Exact one-hot vectors, in the type of the logits.

  Raises:
    ValueError: If the temperature is a number that is not positive.

  >>> logits = jnp.log(jnp.array([0.001, 0.998, 0.001]))
  >>> print(gumbel_codes(jax.random.key(0), logits, 1.0))
  [0. 1. 0.]
  """
  perturbed = perturb_logits(key, logits)
  return softmax_codes(perturbed, temperature).astype(logits.dtype)


def straight_through_decode(
  logits: Float[Array, "*batch code_length codebook_size"],
  codebooks: Float[Array, "#code_length codebook_size code_features"],
  temperature: float | Float[Array, ""],
  composition: str,
  *,
  projection: Float[Array, "width features"] | None = None,
  bias: Float[Array, " features"] | None = None,
  network: Mapping[str, Float[Array, "..."]] | None = None,
) -> Float[Array, "*batch features"]:
  r"""Composes the embeddings of the best codes, differentiably.

  Equals ``compose(softmax_codes(logits) @ codebooks)`` in value and gradient
  (KD codes; Chen et al., ICML 2018) without building the one-hot codes: see
  :func:`straight_through_combine`, which is followed by the network and the
  projection.

  Args:
    logits: Scores of the entries of each codebook.
    codebooks: Code vectors; a leading axis of 1 shares one codebook among all
      positions.
    temperature: The scalar :math:`\tau > 0`.
    composition: ``"sum"``, ``"concat"``, ``"linear"``, ``"mlp"`` or
      ``"lstm"``.
    projection: Matrix of the last three.
    bias: Added to every embedding.
    network: Arrays of the last two.

  Returns:
    One embedding for each row of logits, in the type of the codebooks.

  Raises:
    ValueError: If the temperature is a number that is not positive, for an
      unknown composition, or unless the arrays are exactly those of the
      composition.

  >>> logits = jnp.array([[1.0, 2.0], [3.0, 0.0]])
  >>> codebooks = jnp.array([[[1.0], [2.0]], [[30.0], [40.0]]])
  >>> print(straight_through_decode(logits, codebooks, 1.0, "sum"))
  [32.]
  """
  check_composition(composition, projection, network)
  return finish(
    straight_through_combine(logits, codebooks, temperature, composition),
    composition,
    projection=projection,
    bias=bias,
    network=network,
  )


def straight_through_combine(
  logits: Float[Array, "*batch code_length codebook_size"],
  codebooks: Float[Array, "#code_length codebook_size code_features"],
  temperature: float | Float[Array, ""],
  composition: str,
) -> Float[Array, "*batch_and_width"]:
  r"""Combines the vectors of the best codes, differentiably.

  The stage of a composition before its network and projection: the forward
  pass is :func:`~anchor_codes.ops.codes.combine_codes`, the codebooks get the
  gradient of the chosen rows alone, and the logits that of the softmax,
  :math:`dz_j = p_j \odot (s_j - \langle p_j, s_j \rangle) / \tau` with
  :math:`s_{jk} = \langle g, \partial m / \partial y_{jk} \rangle` for the
  gradient :math:`g` of what is returned, :math:`m`.

  Args:
    logits: Scores of the entries of each codebook.
    codebooks: Code vectors; a leading axis of 1 shares one codebook among all
      positions.
    temperature: The scalar :math:`\tau > 0`.
    composition: As for :func:`straight_through_decode`.

  Returns:
    A sum, or vectors side by side or in order, as
    :func:`~anchor_codes.ops.compositions.combine`.

  Raises:
    ValueError: If the temperature is a number that is not positive.

  >>> logits = jnp.array([[1.0, 2.0], [3.0, 0.0]])
  >>> codebooks = jnp.array([[[1.0], [2.0]], [[30.0], [40.0]]])
  >>> print(straight_through_combine(logits, codebooks, 1.0, "linear"))
  [32.]
  """
  if composition == "lstm":
    return straight_through_lookup(logits, codebooks, temperature)
  chex.assert_axis_dimension(codebooks, 1, logits.shape[-1])
  vectors = combine_codes(_argmax(logits), codebooks, composition)
  arrays = (logits, codebooks, check_temperature(temperature))
  kind = "concat" if composition == "concat" else "sum"
  return _attach_logits(kind, vectors, arrays)


def straight_through_lookup(
  logits: Float[Array, "*batch code_length codebook_size"],
  codebooks: Float[Array, "#code_length codebook_size code_features"],
  temperature: float | Float[Array, ""],
) -> Float[Array, "*batch code_length code_features"]:
  r"""Looks up the vectors of the best codes, differentiably.

  Equals ``softmax_codes(logits, temperature) @ codebooks`` in value and
  gradient, without building the one-hot codes; see
  :func:`straight_through_decode`, which takes less memory where the vectors
  are summed afterwards.

  Args:
    logits: Scores of the entries of each codebook.
    codebooks: Code vectors; a leading axis of 1 shares one codebook among all
      positions.
    temperature: The scalar :math:`\tau > 0`.

  Returns:
    One vector for each position, bit for bit a row of its codebook.

  Raises:
    ValueError: If the temperature is a number that is not positive.

  >>> logits = jnp.array([[1.0, 2.0, 0.5]])
  >>> codebooks = jnp.array([[[1.0, 0.0], [0.0, 1.0], [2.0, 2.0]]])
  >>> print(straight_through_lookup(logits, codebooks, 1.0))
  [[0. 1.]]
  """
  vectors = straight_through_combine(logits, codebooks, temperature, "concat")
  return vectors.reshape(*logits.shape[:-1], codebooks.shape[-1])


def nearest_lookup(
  queries: Float[Array, "*batch code_length code_features"],
  codebooks: Float[Array, "#code_length codebook_size code_features"],
  scores: Float[Array, "*batch code_length codebook_size"],
) -> Float[Array, "*batch code_length code_features"]:
  r"""Replaces queries by their best codebook entries, differentiably.

  The estimator of DPQ-VQ (Chen et al., ICML 2020): forward :math:`h_j =
  c_{j, \arg\max_k s_{jk}}`, backward :math:`\partial h / \partial q := I`.
  Neither the codebooks nor the scores get a gradient: codebooks learn by
  :func:`~anchor_codes.ops.losses.codebook_loss` alone.

  Args:
    queries: One vector for each position, in the type of the codebooks.
    codebooks: Entries to choose from; a leading axis of 1 shares one codebook
      among all positions.
    scores: Larger is closer, mostly
      :func:`~anchor_codes.ops.scores.squared_distance_scores`, normalised or
      not.

  Returns:
    The chosen entries, bit for bit.

  >>> queries = jnp.array([[0.2, 0.9]])
  >>> codebooks = jnp.array([[[0.0, 0.0], [1.0, 1.0]]])
  >>> scores = jnp.array([[-0.85, -0.65]])  # Negated squared distances.
  >>> print(nearest_lookup(queries, codebooks, scores))
  [[1. 1.]]
  """
  chex.assert_axis_dimension(codebooks, 1, scores.shape[-1])
  chosen = lookup_codes(_argmax(scores), codebooks)
  return straight_through(chosen, queries)


def check_temperature(
  temperature: float | Float[Array, ""],
) -> Float[Array, ""]:
  """Returns a temperature as an array, checked if it is a number.

  Args:
    temperature: A number, or a scalar array, which may be traced.

  Returns:
    A scalar array.

  Raises:
    ValueError: If it is a number that is not positive.

  >>> check_temperature(0)
  Traceback (most recent call last):
  ...
  ValueError: `temperature` must be positive, got 0.
  """
  if isinstance(temperature, int | float | np.number) and not temperature > 0:
    raise ValueError(f"`temperature` must be positive, got {temperature}.")
  temperature = jnp.asarray(temperature, jnp.float32)
  chex.assert_rank(temperature, 0)
  return temperature


def _argmax(logits: Array) -> Array:
  return jnp.argmax(wide(logits), axis=-1)


@jax.custom_vjp
def _straight_through(hard: Array, soft: Array) -> Array:
  del soft
  return hard


# Rules call the function itself, so that second derivatives use the rule too.
_straight_through.defvjp(
  lambda hard, soft: (_straight_through(hard, soft), None),
  lambda _, cotangent: (None, cotangent),
)


@jax.custom_vjp
def _softmax_codes(logits: Array, temperature: Array) -> Array:
  del temperature
  return jax.nn.one_hot(_argmax(logits), logits.shape[-1], dtype=logits.dtype)


def _softmax_codes_fwd(
  logits: Array, temperature: Array
) -> tuple[Array, tuple[Array, Array]]:
  return _softmax_codes(logits, temperature), (logits, temperature)


def _softmax_codes_bwd(
  residuals: tuple[Array, Array], cotangent: Array
) -> tuple[Array, None]:
  logits, temperature = residuals
  return _softmax_vjp(logits, temperature, cotangent), None


_softmax_codes.defvjp(_softmax_codes_fwd, _softmax_codes_bwd)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attach_logits(
  composition: str, vectors: Array, arrays: tuple[Array, Array, Array]
) -> Array:
  """Gives combined vectors the gradient of the softmax of their logits."""
  del composition, arrays
  return vectors


def _attach_logits_fwd(
  composition: str, vectors: Array, arrays: tuple[Array, Array, Array]
) -> tuple[Array, tuple[Array, Array, Array]]:
  return _attach_logits(composition, vectors, arrays), arrays


def _attach_logits_bwd(
  composition: str, arrays: tuple[Array, Array, Array], cotangent: Array
) -> tuple[Array, tuple[Array, None, None]]:
  logits, codebooks, temperature = arrays
  scores = position_scores(
    cotangent, codebooks, composition, code_length=logits.shape[-2]
  )
  return cotangent, (_softmax_vjp(logits, temperature, scores), None, None)


_attach_logits.defvjp(_attach_logits_fwd, _attach_logits_bwd)


def _softmax_vjp(logits: Array, temperature: Array, cotangent: Array) -> Array:
  logits, dtype = wide(logits), logits.dtype
  temperature = temperature.astype(logits.dtype)
  # The maximum goes first, so that a tiny temperature cannot overflow.
  shifted = logits - jnp.max(logits, axis=-1, keepdims=True)
  probs = jax.nn.softmax(shifted / temperature, axis=-1)
  cotangent = cotangent.astype(logits.dtype)
  mean = jnp.sum(probs * cotangent, axis=-1, keepdims=True)
  return (probs * (cotangent - mean) / temperature).astype(dtype)
