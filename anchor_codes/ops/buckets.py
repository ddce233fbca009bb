"""Embeddings from buckets that are found from the id alone."""

import functools
import math
import operator

import chex
from jax import numpy as jnp
from jaxtyping import Array, Float, Int

from anchor_codes.ops import hashing, indexing, reductions
from anchor_codes.typing import BUCKET_COMPOSITIONS, check_choice


def hash_lookup(
  buckets: Float[Array, "num_hashes num_buckets features"],
  ids: Int[Array, "*batch"],
  *,
  num_embeddings: int,
  seed: int = 0,
) -> Float[Array, "*batch features"]:
  r"""Adds up the buckets that ids hash to.

  Definition (Svenstrup et al., NeurIPS 2017, without their weights):
  :math:`e_i = \sum_h B^h[\mathrm{hash}_h(i)]`.

  Args:
    buckets: The buckets of each hash function.
    ids: Ids to look up; one outside the table gives ``nan``.
    num_embeddings: Number of symbols.
    seed: Chooses the hash functions, see
      :func:`~anchor_codes.ops.hashing.hash_buckets`.

  Returns:
    One vector for each id.

  Raises:
    ValueError: If the ids are not integers or the seed is out of range.

  >>> buckets = jnp.ones((2, 10, 3))
  >>> print(hash_lookup(buckets, jnp.array([4, 99]), num_embeddings=50))
  [[ 2.  2.  2.]
   [nan nan nan]]
  """
  chex.assert_rank(buckets, 3)
  num_hashes, num_buckets, _ = buckets.shape
  positions = hashing.hash_buckets(
    ids, num_buckets=num_buckets, num_hashes=num_hashes, seed=seed
  )
  # Added up one by one, or the vectors of all hashes would lie side by side.
  # Buckets are in range by construction: `clip` spares the mask of `fill`.
  vectors = functools.reduce(
    operator.add,
    (
      jnp.take(buckets[number], positions[..., number], axis=0, mode="clip")
      for number in range(num_hashes)
    ),
  )
  return indexing.nan_outside(vectors, ids, num_embeddings=num_embeddings)


def hash_attend(
  buckets: Float[Array, "num_hashes num_buckets features"],
  query: Float[Array, "*batch features"],
  *,
  num_embeddings: int,
  seed: int = 0,
) -> Float[Array, "*batch num_embeddings"]:
  r"""Scores all embeddings of :func:`hash_lookup` against queries.

  A query meets each bucket only once: :math:`\sum_h z^h[\mathrm{hash}_h(i)]`
  with :math:`z^h = B^h q`.

  Args:
    buckets: The buckets of each hash function.
    query: Vectors to score.
    num_embeddings: Number of symbols.
    seed: Chooses the hash functions.

  Returns:
    The inner product with each embedding, in the type of the query; integers
    count as floats of the type of the buckets.

  Raises:
    ValueError: If the seed is out of range.

  >>> buckets = jnp.ones((2, 10, 3))
  >>> print(hash_attend(buckets, jnp.ones(3), num_embeddings=2))
  [6. 6.]
  """
  chex.assert_rank(buckets, 3)
  num_hashes, num_buckets, _ = buckets.shape
  positions = hashing.hash_buckets(
    jnp.arange(num_embeddings),
    num_buckets=num_buckets,
    num_hashes=num_hashes,
    seed=seed,
  )
  query = reductions.as_floats(query, buckets)
  buckets = buckets.astype(query.dtype)
  return functools.reduce(
    operator.add,
    (
      jnp.take(query @ buckets[number].T, positions[:, number], axis=-1)
      for number in range(num_hashes)
    ),
  )


def qr_lookup(
  quotients: Float[Array, "num_quotients features"],
  remainders: Float[Array, "num_buckets features"],
  ids: Int[Array, "*batch"],
  *,
  num_embeddings: int,
  composition: str = "product",
) -> Float[Array, "*batch features"]:
  r"""Combines a vector of the quotient and one of the remainder of an id.

  Definition (Shi et al., KDD 2020): :math:`Q[\lfloor i/m \rfloor] \odot
  R[i \bmod m]`, or the sum, with :math:`m` the number of remainders.

  Args:
    quotients: Vectors of the quotients, at least ``num_embeddings /
      num_buckets`` of them.
    remainders: Vectors of the remainders.
    ids: Ids to look up; one outside the table gives ``nan``.
    num_embeddings: Number of symbols.
    composition: 'product' or 'sum'.

  Returns:
    One vector for each id.

  Raises:
    ValueError: If the ids are not integers or the composition is unknown.

  >>> quotients = jnp.array([[1.0], [2.0]])
  >>> remainders = jnp.array([[3.0], [5.0]])
  >>> print(qr_lookup(quotients, remainders, jnp.arange(4), num_embeddings=4))
  [[ 3.]
   [ 5.]
   [ 6.]
   [10.]]
  """
  _check_qr(quotients, remainders, num_embeddings, composition)
  quotient, remainder = hashing.quotient_remainder(
    ids, divisor=remainders.shape[0]
  )
  # Only ids outside the table are clipped, and those are marked in the end.
  left = jnp.take(quotients, quotient, axis=0, mode="clip")
  right = jnp.take(remainders, remainder, axis=0, mode="clip")
  vectors = left * right if composition == "product" else left + right
  return indexing.nan_outside(vectors, ids, num_embeddings=num_embeddings)


def qr_attend(
  quotients: Float[Array, "num_quotients features"],
  remainders: Float[Array, "num_buckets features"],
  query: Float[Array, "*batch features"],
  *,
  num_embeddings: int,
  composition: str = "product",
) -> Float[Array, "*batch num_embeddings"]:
  r"""Scores all embeddings of :func:`qr_lookup` against queries.

  Ids are the pairs of a quotient and a remainder in order, so that the scores
  are :math:`(q \odot Q) R^\top`, or the sums of :math:`Q q` and :math:`R q`.

  Args:
    quotients: Vectors of the quotients.
    remainders: Vectors of the remainders.
    query: Vectors to score.
    num_embeddings: Number of symbols.
    composition: 'product' or 'sum'.

  Returns:
    The inner product with each embedding, in the type of the query; integers
    count as floats of the type of the tables.

  Raises:
    ValueError: If the composition is unknown.

  >>> quotients = jnp.array([[1.0], [2.0]])
  >>> remainders = jnp.array([[3.0], [5.0]])
  >>> print(qr_attend(quotients, remainders, jnp.ones(1), num_embeddings=3))
  [3. 5. 6.]
  """
  _check_qr(quotients, remainders, num_embeddings, composition)
  query = reductions.as_floats(query, remainders)
  quotients = quotients.astype(query.dtype)
  remainders = remainders.astype(query.dtype)
  if composition == "product":
    scaled = jnp.einsum("...f,qf->...qf", query, quotients)
    scores = jnp.einsum("...qf,rf->...qr", scaled, remainders)
  else:
    left, right = query @ quotients.T, query @ remainders.T
    scores = left[..., :, None] + right[..., None, :]
  # No -1: there may be no query.
  num_pairs = quotients.shape[0] * remainders.shape[0]
  return scores.reshape(*query.shape[:-1], num_pairs)[..., :num_embeddings]


def qr_scale(composition: str, scale: float) -> float:
  """Returns the scale of both tables that gives embeddings the one asked for.

  Args:
    composition: 'product' or 'sum'.
    scale: Standard deviation of an entry of the embeddings.

  Returns:
    The standard deviation of an entry of both tables.

  Raises:
    ValueError: If the composition is unknown.

  >>> round(qr_scale("product", 0.01), 3), round(qr_scale("sum", 0.02), 4)
  (0.1, 0.0141)
  """
  check_choice("composition", composition, BUCKET_COMPOSITIONS)
  return math.sqrt(scale) if composition == "product" else scale / math.sqrt(2)


def _check_qr(
  quotients: Float[Array, "num_quotients features"],
  remainders: Float[Array, "num_buckets features"],
  num_embeddings: int,
  composition: str,
) -> None:
  check_choice("composition", composition, BUCKET_COMPOSITIONS)
  chex.assert_shape([quotients, remainders], (None, remainders.shape[-1]))
  num_quotients = -(-num_embeddings // remainders.shape[0])
  chex.assert_axis_dimension_gteq(quotients, 0, num_quotients)
