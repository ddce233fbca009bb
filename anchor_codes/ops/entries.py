"""What product quantisation chooses from, as one value, and how it starts."""

from typing import NamedTuple

import jax
from jaxtyping import Array, Float, PRNGKeyArray

from anchor_codes.ops.clustering import product_kmeans
from anchor_codes.ops.normalization import Moments
from anchor_codes.ops.quantization import query_moments
from anchor_codes.typing import check_at_least


class Entries(NamedTuple):
  """The entries of codebooks.

  Attributes:
    codebooks: The values.
    keys: What queries are compared with; None if these are the values.
    moments: Stored moments of the scores of each entry; None if scores are
      not normalised.
  """

  codebooks: Float[Array, "#code_length codebook_size code_features"]
  keys: Float[Array, "#code_length codebook_size code_features"] | None = None
  moments: Moments | None = None


def start_entries(
  key: PRNGKeyArray,
  queries: Float[Array, "num_embeddings features"],
  entries: Entries,
  *,
  relaxation: str,
  num_iterations: int = 25,
  num_samples: int = 2**16,
) -> Entries:
  """Returns entries of the same form that are the clusters of queries.

  Values and keys are the centroids of
  :func:`~anchor_codes.ops.clustering.product_kmeans`, and the moments those of
  all scores, :func:`~anchor_codes.ops.quantization.query_moments`.

  Args:
    key: Random key.
    queries: One query for each symbol.
    entries: Their form: whether there is one codebook for each position or one
      for all, how large it is, whether there are keys and moments.
    relaxation: 'softmax' or 'nearest'.
    num_iterations: Steps of k-means.
    num_samples: Queries to cluster, drawn at random if there are more.

  Returns:
    The entries.

  Raises:
    ValueError: If an option is out of range, or there are fewer points than
      entries.

  >>> import jax.numpy as jnp
  >>> queries = jnp.array([[0.0], [1.0], [10.0], [11.0]])
  >>> start = start_entries(
  ...   jax.random.key(0),
  ...   queries,
  ...   Entries(jnp.zeros((1, 2, 1))),
  ...   relaxation="nearest",
  ... )
  >>> print(jnp.sort(start.codebooks.ravel()))
  [ 0.5 10.5]
  """
  sample_key, cluster_key = jax.random.split(key)
  positions, size, width = entries.codebooks.shape
  codebooks, _ = product_kmeans(
    cluster_key,
    sample_rows(sample_key, queries, num_samples=num_samples),
    code_length=queries.shape[1] // width,
    codebook_size=size,
    shared_codebook=positions == 1,
    num_iterations=num_iterations,
  )
  moments = None
  if entries.moments is not None:
    # Of all queries, not of the sample: they cost no more than a covariance.
    moments = query_moments(queries, codebooks, relaxation=relaxation)
  codebooks = codebooks.astype(entries.codebooks.dtype)
  keys = None if entries.keys is None else codebooks
  return Entries(codebooks, keys, moments)


def sample_rows(
  key: PRNGKeyArray,
  rows: Float[Array, "num_embeddings features"],
  *,
  num_samples: int,
) -> Float[Array, "num_samples features"]:
  """Draws rows without replacement; all of them, in order, if they are few.

  Args:
    key: Random key.
    rows: A table.
    num_samples: At least 1.

  Returns:
    At most so many rows.

  Raises:
    ValueError: If the number is not positive.

  >>> rows = jax.random.normal(jax.random.key(0), (5, 2))
  >>> sample_rows(jax.random.key(1), rows, num_samples=3).shape
  (3, 2)
  """
  check_at_least("num_samples", num_samples, 1)
  if rows.shape[0] <= num_samples:
    return rows
  chosen = jax.random.choice(key, rows.shape[0], (num_samples,), replace=False)
  return rows[chosen]
