r"""How many anchors: the Indian buffet process and its small-variance limit.

The rows of a table are customers, and the anchors dishes: a customer takes a
dish in proportion to how many have taken it, and tries some new ones. As the
variance of the likelihood goes to zero, the posterior becomes an objective that
charges for every non-zero weight, and more for every anchor (Broderick, Kulis,
Jordan, "MAD-Bayes", 2013; Liang et al., "Anchor & Transform", ICLR 2021).
"""

import jax
from jax import numpy as jnp
from jaxtyping import Array, Bool, Int, PRNGKeyArray

from anchor_codes import typing


def small_variance_objective(
  loss: float | Array,
  num_nonzeros: int | Array,
  num_anchors: int | Array,
  *,
  l1: float,
  anchor_penalty: float,
) -> float | Array:
  r"""Returns the objective that a number of anchors is to minimise.

  Definition (Liang et al., 2021, eq. 5), with :math:`\lambda_2` = `l1` and
  :math:`\lambda_1` = `anchor_penalty`:
  :math:`D + \lambda_2 \|T\|_0 + (\lambda_1 - \lambda_2) K`. The first use of an
  anchor costs :math:`\lambda_1`, each further one :math:`\lambda_2`.

  Args:
    loss: The loss :math:`D`, on validation data.
    num_nonzeros: Non-zero weights of all tables.
    num_anchors: Anchors of all tables.
    l1: Price of one more non-zero weight.
    anchor_penalty: Price of one more anchor.

  Returns:
    The objective.

  Raises:
    ValueError: If not ``0 <= l1 <= anchor_penalty``.

  >>> prices = {"l1": 1e-5, "anchor_penalty": 0.01}
  >>> round(small_variance_objective(0.75, 1000, 5, **prices), 5)
  0.80995
  """
  check_prices(l1=l1, anchor_penalty=anchor_penalty)
  return loss + l1 * num_nonzeros + (anchor_penalty - l1) * num_anchors


def check_prices(*, l1: float, anchor_penalty: float) -> None:
  """Raises `ValueError` unless ``0 <= l1 <= anchor_penalty``.

  >>> check_prices(l1=0.1, anchor_penalty=0.01)
  Traceback (most recent call last):
  ...
  ValueError: `anchor_penalty` must be at least `l1`, the price of one weight,
  got 0.01 and 0.1.
  """
  if not l1 >= 0:
    raise ValueError(f"`l1` must be non-negative, got {l1}.")
  if not anchor_penalty >= l1:
    raise ValueError(
      "`anchor_penalty` must be at least `l1`, the price of one weight, got "
      f"{anchor_penalty} and {l1}."
    )


def indian_buffet_rows(
  key: PRNGKeyArray,
  *,
  num_embeddings: int,
  concentration: float,
  max_anchors: int,
) -> Bool[Array, "num_embeddings max_anchors"]:
  r"""Draws which rows use which anchors from an Indian buffet process.

  Definition (Griffiths and Ghahramani, 2005): row :math:`i = 1, 2, \dots` uses
  an anchor that :math:`m_k` earlier rows use with probability :math:`m_k / i`,
  and :math:`\mathrm{Poisson}(\alpha / i)` new ones. The expected number of
  anchors is :math:`\alpha \sum_i 1/i`.

  Args:
    key: Source of randomness.
    num_embeddings: Number of rows.
    concentration: The :math:`\alpha > 0`, the expected number of a row's
      anchors.
    max_anchors: Room for anchors; new ones beyond it are left out.

  Returns:
    The rows; anchors stand in the order in which they came.

  Raises:
    ValueError: If a size or `concentration` is not positive.

  >>> rows = indian_buffet_rows(
  ...   jax.random.key(0), num_embeddings=50, concentration=2.0, max_anchors=32)
  >>> rows.shape, bool((rows.any(axis=0)[1:] <= rows.any(axis=0)[:-1]).all())
  ((50, 32), True)
  """
  typing.check_at_least("num_embeddings", num_embeddings, 1)
  typing.check_at_least("max_anchors", max_anchors, 1)
  if not concentration > 0:
    raise ValueError(f"`concentration` must be positive, got {concentration}.")
  places = jnp.arange(max_anchors)

  def serve(
    counts: Int[Array, " max_anchors"], customer: tuple[Array, Array]
  ) -> tuple[Array, Array]:
    number, key = customer
    key_old, key_new = jax.random.split(key)
    drawn = jax.random.uniform(key_old, counts.shape) * number
    known = drawn < counts.astype(drawn.dtype)
    # Anchors come in order, so that those in use are the first ones.
    used = jnp.sum(counts > 0)
    new = jax.random.poisson(key_new, concentration / number)
    fresh = (places >= used) & (places < used + new)
    chosen = known | fresh
    return counts + chosen.astype(counts.dtype), chosen

  numbers = jnp.arange(1, num_embeddings + 1, dtype=jnp.float32)
  keys = jax.random.split(key, num_embeddings)
  counts = jnp.zeros(max_anchors, jnp.int32)
  return jax.lax.scan(serve, counts, (numbers, keys))[1]
