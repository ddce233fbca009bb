r"""What the theory of stochastic shared embeddings (SSE) says of a run.

Wu et al., NeurIPS 2019, bound the risk of a model that is trained with replaced
ids (theorems 1 and 2) by a complexity, which replacement lowers, and a bias,
which it costs. Both depend on the matrix :math:`P` of transitions: see
:func:`~anchor_codes.ops.transition_products.transition_product`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
from jax import numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from anchor_codes.ops.graphs import AnyGraph
from anchor_codes.ops.indexing import take_rows
from anchor_codes.ops.reductions import wide
from anchor_codes.ops.transition_products import transition_product
from anchor_codes.typing import check_at_least


class Estimate(NamedTuple):
  """A mean over random draws, and how far off it may be.

  Attributes:
    mean: The mean.
    error: Its standard error; ``nan`` for a single draw.
  """

  mean: Float[Array, ""]
  error: Float[Array, ""]


def second_eigenvalue(
  key: PRNGKeyArray,
  *,
  num_embeddings: int,
  rate: float | Float[Array, ""],
  graph: AnyGraph | None = None,
  neighbor_ratio: float | Float[Array, ""] = 1.0,
  num_iterations: int = 200,
) -> Float[Array, ""]:
  r"""Estimates the modulus of the second largest eigenvalue of the transitions.

  It tells how quickly repeated replacement forgets an id, from 1 (never) to 0
  (at once). For SSE-SE it is :math:`|1 - p_0 N / (N - 1)|`. For SSE-Graph of a
  few replacements it is near 1 if the graph falls into clusters.

  Power iteration: the largest eigenvalue, 1, has the vector of ones. Without
  their mean, products :math:`P x` grow by the next one (Wielandt deflation),
  whether the graph is symmetric or not; if it is not, that may be a complex
  pair, whose growth swings about its modulus. Time grows as ``num_iterations *
  (num_embeddings + num_edges)``.

  Args:
    key: Random key of the start.
    num_embeddings: Number of ids; 1 has no second eigenvalue, and gives 0.
    rate: Probability of replacement, between 0 and 1; it may be traced.
    graph: Neighbours of each id, for SSE-Graph.
    neighbor_ratio: How many times as likely as another id a neighbour is.
    num_iterations: Products, at least 2. The estimate is the mean growth in the
      last half of them: slightly low where the next eigenvalues are close.

  Returns:
    A number between 0 and 1.

  Raises:
    ValueError: If an option is out of range, or the graph is of another size.

  >>> value = second_eigenvalue(jax.random.key(0), num_embeddings=5, rate=0.2)
  >>> print(f"{value:.4f}")
  0.7500
  """
  check_at_least("num_iterations", num_iterations, 2)
  check_at_least("num_embeddings", num_embeddings, 1)

  def step(vector: Array, _: None) -> tuple[Array, Array]:
    product = transition_product(
      vector, rate=rate, graph=graph, neighbor_ratio=neighbor_ratio
    )
    product -= jnp.mean(product, keepdims=True)
    growth = jnp.linalg.norm(product)
    # Lengths stay 1, or 0 if all that is left has been forgotten.
    return product / jnp.where(growth > 0, growth, 1), growth

  start = jax.random.normal(key, (num_embeddings,))
  start -= jnp.mean(start, keepdims=True)
  norm = jnp.linalg.norm(start)
  start /= jnp.where(norm > 0, norm, 1)
  _, growths = jax.lax.scan(step, start, length=num_iterations)
  return jnp.exp(jnp.mean(jnp.log(growths[num_iterations // 2 :])))


def empirical_complexity(
  key: PRNGKeyArray,
  losses: Float[Array, "num_models num_embeddings"],
  *,
  rate: float | Float[Array, ""],
  ids: Int[Array, " num_samples"] | None = None,
  graph: AnyGraph | None = None,
  neighbor_ratio: float | Float[Array, ""] = 1.0,
  num_signs: int = 1000,
) -> Estimate:
  r"""Estimates the empirical complexity of a few models under replacement.

  Definition (Wu et al., NeurIPS 2019, eq. 9): :math:`\rho_L = E_\sigma \sup_L
  |\sum_i \sigma_i \sum_k p(j_i, k) L(k)|` with independent signs
  :math:`\sigma_i`, the supremum over the models that are given: a Rademacher
  complexity, and with a rate of 0 the plain one. One key for all rates draws
  the same signs, which makes their *differences* far more exact than the
  errors; at small rates they are within the noise otherwise.

  Args:
    key: Random key of the signs.
    losses: For each model, its expected loss :math:`L(k)` if the embedding is
      row :math:`k`.
    rate: Probability of replacement, between 0 and 1; it may be traced.
    ids: The id :math:`j_i` of each sample; by default each id has one.
    graph: Neighbours of each id, for SSE-Graph.
    neighbor_ratio: How many times as likely as another id a neighbour is.
    num_signs: Vectors of signs, at least 1; they are drawn one by one.

  Returns:
    The complexity; that of one sample is this over the number of samples.

  Raises:
    ValueError: If an option is out of range, the graph is of another size, or
      ids are not integers.

  >>> losses = jnp.array([[1.0, 1.0], [1.0, -1.0]])
  >>> found = empirical_complexity(jax.random.key(0), losses, rate=0.0)
  >>> print(found.mean)
  2.0
  """
  check_at_least("num_signs", num_signs, 1)
  chex.assert_rank(losses, 2)
  shared = transition_product(
    losses.T, rate=rate, graph=graph, neighbor_ratio=neighbor_ratio
  )
  samples = shared if ids is None else take_rows(shared, ids)

  def supremum(key: PRNGKeyArray) -> Array:
    signs = jax.random.rademacher(key, samples.shape[:1], samples.dtype)
    sums = jnp.matmul(signs, samples, precision=jax.lax.Precision.HIGHEST)
    return jnp.max(jnp.abs(sums))

  # A few at a time: all signs together would be as large as many tables.
  keys = jax.random.split(key, num_signs)
  return _estimate(jax.lax.map(supremum, keys, batch_size=32))


def expected_bias(
  losses: Float[Array, " num_embeddings"],
  *,
  rate: float | Float[Array, ""],
  ids: Int[Array, " num_samples"] | None = None,
  graph: AnyGraph | None = None,
  neighbor_ratio: float | Float[Array, ""] = 1.0,
) -> Float[Array, ""]:
  r"""Computes the bias of replaced ids for a loss of the embedding alone.

  Definition (Wu et al., NeurIPS 2019, the bias of theorem 2 for one model):
  :math:`\frac{1}{n} (S_n - R_n) = \frac{1}{n} \sum_i \sum_k p(j_i, k) (L(k) -
  L(j_i))`, exactly. Theirs is the modulus.

  Args:
    losses: The loss :math:`L(k)` of each row.
    rate: Probability of replacement, between 0 and 1; it may be traced.
    ids: The id :math:`j_i` of each sample; by default each id has one.
    graph: Neighbours of each id, for SSE-Graph.
    neighbor_ratio: How many times as likely as another id a neighbour is.

  Returns:
    The mean difference; positive if replacement adds to the loss.

  Raises:
    ValueError: If an option is out of range, the graph is of another size, or
      ids are not integers.

  >>> losses = jnp.array([0.0, 4.0])
  >>> print(expected_bias(losses, rate=0.25, ids=jnp.array([0])))
  1.0
  """
  chex.assert_rank(losses, 1)
  shared = transition_product(
    losses, rate=rate, graph=graph, neighbor_ratio=neighbor_ratio
  )
  change = shared - wide(losses)
  return jnp.mean(change if ids is None else take_rows(change, ids))


def sampled_bias(
  key: PRNGKeyArray,
  ids: Any,
  *,
  loss: Callable[[Any], Float[Array, "..."]],
  transition: Callable[[PRNGKeyArray, Any], Any],
  num_draws: int = 100,
) -> Estimate:
  r"""Estimates the bias of replaced ids for any loss and any transition.

  Definition (Wu et al., NeurIPS 2019): :math:`\frac{1}{n} (S_n - R_n)`, the
  mean loss of the samples with replaced ids less that with their own.

  Args:
    key: Random key of the draws.
    ids: The ids of the samples: an array, or a tree of arrays if there are
      several tables.
    loss: From ids to the loss of each sample.
    transition: From a key and ids to replaced ids, such as
      :func:`~anchor_codes.ops.transitions.sse_se_transition` with its options;
      of several tables it may replace some only, to tell their parts apart.
    num_draws: Draws for all samples, at least 1; they run one by one.

  Returns:
    The bias.

  Raises:
    ValueError: If `num_draws` is not a positive integer.

  >>> swap = lambda key, ids: 1 - ids
  >>> losses = jnp.array([0.0, 4.0])
  >>> found = sampled_bias(
  ...     jax.random.key(0), jnp.array([0]), loss=lambda ids: losses[ids],
  ...     transition=swap)
  >>> print(found.mean, found.error)
  4.0 0.0
  """
  check_at_least("num_draws", num_draws, 1)
  risk = jnp.mean(wide(loss(ids)))

  def difference(key: PRNGKeyArray) -> Array:
    return jnp.mean(wide(loss(transition(key, ids)))) - risk

  return _estimate(jax.lax.map(difference, jax.random.split(key, num_draws)))


def mean_squared_distance(
  table: Float[Array, "num_embeddings features"],
) -> Float[Array, ""]:
  r"""Computes the mean squared distance between two different rows.

  Definition: :math:`\frac{1}{N (N - 1)} \sum_{j \ne k} \|e_j - e_k\|^2 =
  \frac{2}{N - 1} \sum_j \|e_j - \bar e\|^2`, in time :math:`O(N d)`. Rows that
  stand for each other now and then move together.

  Args:
    table: The table.

  Returns:
    The mean, in at least float32; 0 for a single row.

  >>> print(mean_squared_distance(jnp.array([[0.0], [1.0], [2.0]])))
  2.0
  """
  chex.assert_rank(table, 2)
  table = wide(table)
  centered = table - jnp.mean(table, axis=0, keepdims=True)
  return 2 * jnp.sum(jnp.square(centered)) / max(table.shape[0] - 1, 1)


def _estimate(draws: Array) -> Estimate:
  # One draw says nothing about its error: 0 / 0 on purpose.
  spread = jnp.sum(jnp.square(draws - jnp.mean(draws, keepdims=True)))
  count = jnp.asarray(draws.size, draws.dtype)
  return Estimate(jnp.mean(draws), jnp.sqrt(spread / (count - 1) / count))
