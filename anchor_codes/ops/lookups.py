"""What the layers of both Flax APIs share: checks, and lookups of codes.

Codes that are still being learned are looked up in steps: gather the rows of
the batch, score the entries of the codebooks, normalise the scores, choose.
The layers keep the parameters and the moments; the steps are here.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from anchor_codes import typing
from anchor_codes.ops import (
  codes,
  compositions,
  graphs,
  indexing,
  losses,
  normalization,
  relaxations,
  scores,
  transitions,
)


class Gathered(NamedTuple):
  """The rows of a batch.

  Attributes:
    rows: One row for each id, zeros for an id outside the table.
    inside: Which ids lie inside the table.
  """

  rows: Float[Array, "*batch_and_shape"]
  inside: Bool[Array, "*batch"]


def gather(
  rows: Float[Array, " num_embeddings *shape"], ids: Int[Array, "*batch"]
) -> Gathered:
  """Gathers rows, so that an id outside the table spoils no statistics.

  Args:
    rows: The table.
    ids: Ids of any shape.

  Returns:
    The rows, and where they mean something.

  >>> rows, inside = gather(jnp.array([[1.0], [2.0]]), jnp.array([1, -1]))
  >>> print(rows[:, 0], inside)
  [2. 0.] [ True False]
  """
  inside = (ids >= 0) & (ids < rows.shape[0])
  return Gathered(indexing.take_rows(rows, ids, fill_value=0.0), inside)


def normalize_centroids(
  values: Float[Array, "*batch codebook_size"],
  stored: normalization.Moments,
  *,
  deterministic: bool,
  where: Bool[Array, "*leading"] | None = None,
  momentum: float = 0.99,
  epsilon: float = 1e-3,
) -> tuple[Float[Array, "*batch codebook_size"], normalization.Moments]:
  """Normalises scores per codebook entry, by one of two kinds of moments.

  The distance batch norm of DPQ (Chen et al., ICML 2020), see
  :mod:`anchor_codes.ops.normalization`.

  Args:
    values: Scores of a batch.
    stored: Moving moments.
    deterministic: Whether to use the stored moments, not those of the batch.
    where: Mask of leading axes that count for the moments, all by default.
    momentum: Share of the stored moments that stays.
    epsilon: Added to the variance.

  Returns:
    The normalised scores, and the moments to store next; a batch without a
    score that counts leaves them as they are.

  >>> stored = normalization.Moments(jnp.zeros(2), jnp.ones(2))
  >>> values, moved = normalize_centroids(
  ...   jnp.array([[10.0, 1.0], [12.0, 2.0]]), stored, deterministic=False
  ... )
  >>> print(values.round(), moved.mean.round(2))
  [[-1. -1.]
   [ 1.  1.]] [0.11 0.02]
  """
  if deterministic:
    used = moved = stored
  else:
    used = normalization.centroid_moments(values, where=where)
    moved = normalization.update_moments(stored, used, momentum=momentum)
    counts = values.size > 0 if where is None else jnp.any(where)
    keep = lambda new, old: jnp.where(counts, new, old)
    moved = normalization.Moments(*map(keep, moved, stored))
  values = normalization.normalize_scores(values, *used, epsilon=epsilon)
  return values, moved


def query_scores(
  queries: Float[Array, "*batch features"],
  codebooks: Float[Array, "#code_length codebook_size code_features"],
  keys: Float[Array, "#code_length codebook_size code_features"] | None = None,
) -> Float[Array, "*batch code_length codebook_size"]:
  r"""Scores codebook entries against the parts of queries.

  Definition (DPQ; Chen et al., ICML 2020): :math:`\langle q_j, K_{jk} \rangle`
  with keys (DPQ-SX), :math:`-\|q_j - V_{jk}\|^2` without (DPQ-VQ).

  Args:
    queries: Vectors to cut into parts as wide as a codebook entry.
    codebooks: The values.
    keys: What the queries are compared with; the values if None.

  Returns:
    Larger is closer; at least float32.

  >>> codebooks = jnp.array([[[0.0], [1.0]]])
  >>> print(query_scores(jnp.array([0.5, 2.0]), codebooks))
  [[-0.25 -0.25]
   [-4.   -1.  ]]
  """
  parts = _parts(queries, codebooks)
  if keys is None:
    return scores.squared_distance_scores(parts, codebooks)
  return scores.dot_scores(parts, keys)


def quantize(
  queries: Float[Array, "*batch features"],
  values: Float[Array, "*batch code_length codebook_size"],
  codebooks: Float[Array, "#code_length codebook_size code_features"],
  *,
  relaxation: str,
  temperature: float | Float[Array, ""] = 1.0,
) -> Float[Array, "*batch features"]:
  """Replaces the parts of queries by their best values, differentiably.

  The two estimators of DPQ (Chen et al., ICML 2020).

  Args:
    queries: Vectors to quantise.
    values: Scores of the entries, normalised or not.
    codebooks: The values.
    relaxation: 'softmax', as
      :func:`~anchor_codes.ops.relaxations.straight_through_decode`, or
      'nearest', as :func:`~anchor_codes.ops.relaxations.nearest_lookup`.
    temperature: Positive temperature of 'softmax'.

  Returns:
    The concatenation of the chosen values.

  Raises:
    ValueError: If the relaxation is neither, or the temperature not positive.

  >>> queries, codebooks = jnp.array([0.4, 2.0]), jnp.array([[[0.0], [1.0]]])
  >>> values = query_scores(queries, codebooks)
  >>> print(quantize(queries, values, codebooks, relaxation="nearest"))
  [0. 1.]
  """
  typing.check_choice("relaxation", relaxation, ("softmax", "nearest"))
  if relaxation == "softmax":
    return relaxations.straight_through_decode(
      values, codebooks, temperature, "concat"
    )
  parts = _parts(queries, codebooks)
  chosen = relaxations.nearest_lookup(parts, codebooks, values)
  return compositions.compose(chosen, "concat")


def quantization_loss(
  queries: Float[Array, "*batch features"],
  values: Float[Array, "*batch code_length codebook_size"],
  codebooks: Float[Array, "#code_length codebook_size code_features"],
  *,
  where: Bool[Array, "*batch"] | None = None,
) -> Float[Array, ""]:
  r"""Draws the chosen values to the queries.

  Definition (DPQ-VQ; Chen et al., ICML 2020): the mean of
  :math:`(\mathrm{sg}(q) - V_c)^2`, see
  :func:`~anchor_codes.ops.losses.codebook_loss`.

  Args:
    queries: Vectors to quantise.
    values: Scores of the entries.
    codebooks: The values, which alone get a gradient.
    where: Mask of the queries that count, all by default.

  Returns:
    The mean.

  >>> queries, codebooks = jnp.array([0.5, 2.0]), jnp.array([[[0.0], [1.0]]])
  >>> values = query_scores(queries, codebooks)
  >>> print(quantization_loss(queries, values, codebooks))
  0.625
  """
  chosen = codes.decode_codes(codes.assign_codes(values), codebooks, "concat")
  return losses.codebook_loss(queries, chosen, where=where)


def exchange_ids(
  key: PRNGKeyArray,
  ids: Int[Array, "*batch"],
  *,
  num_embeddings: int,
  rate: float,
  graph: graphs.Graph | None = None,
  neighbor_ratio: float = 1.0,
) -> Int[Array, "*batch"]:
  """Exchanges ids at random, along a graph if there is one.

  Definition (SSE; Wu et al., NeurIPS 2019), see
  :mod:`anchor_codes.ops.transitions`.

  Args:
    key: Random key.
    ids: Ids of any shape.
    num_embeddings: Number of symbols.
    rate: Probability that an id is replaced.
    graph: Neighbours of each symbol, or None for SSE-SE.
    neighbor_ratio: How much more likely a neighbour is than a non-neighbour.

  Returns:
    Ids like `ids`.

  >>> import jax
  >>> ids, key = jnp.array([0, 1]), jax.random.key(0)
  >>> print(exchange_ids(key, ids, num_embeddings=2, rate=1.0))
  [1 0]
  """
  if graph is None:
    return transitions.sse_se_transition(
      key, ids, num_embeddings=num_embeddings, rate=rate
    )
  return transitions.sse_graph_transition(
    key, ids, graph, rate=rate, neighbor_ratio=neighbor_ratio
  )


def check_code_options(
  *,
  code_length: int,
  codebook_size: int,
  relaxation: str,
  allowed: tuple[str, ...],
  temperature: float,
) -> None:
  """Raises `ValueError` unless the options of learned codes are valid.

  >>> check_code_options(
  ...   code_length=4,
  ...   codebook_size=1,
  ...   relaxation="softmax",
  ...   allowed=("softmax",),
  ...   temperature=1.0,
  ... )
  Traceback (most recent call last):
  ...
  ValueError: `codebook_size` must be at least 2, got 1.
  """
  typing.check_at_least("code_length", code_length, 1)
  typing.check_codebook_size(codebook_size)
  typing.check_choice("relaxation", relaxation, allowed)
  relaxations.check_temperature(temperature)


def check_sharing_options(
  *,
  num_embeddings: int,
  rate: float,
  graph: graphs.Graph | None,
  neighbor_ratio: float,
) -> None:
  """Raises `ValueError` unless the options of an exchange of ids are valid.

  >>> check_sharing_options(
  ...   num_embeddings=4, rate=2.0, graph=None, neighbor_ratio=1.0
  ... )
  Traceback (most recent call last):
  ...
  ValueError: `rate` must be between 0 and 1, got 2.0.
  """
  typing.check_at_least("num_embeddings", num_embeddings, 1)
  typing.check_rate("rate", rate)
  if not neighbor_ratio >= 1:
    raise ValueError(
      f"`neighbor_ratio` must be at least 1, got {neighbor_ratio}."
    )
  if graph is not None and graph.num_nodes != num_embeddings:
    raise ValueError(
      "`graph` must have one node for each embedding, got "
      f"{graph.num_nodes} nodes and {num_embeddings} embeddings."
    )


def _parts(queries, codebooks):
  *batch, features = queries.shape
  width = codebooks.shape[-1]
  # No -1: the batch may be empty.
  return jnp.reshape(queries, (*batch, features // width, width))
