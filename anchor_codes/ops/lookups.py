"""What the layers of both Flax APIs share: checks, and lookups of codes.

Codes that are still being learned are looked up in steps: gather the rows of
the batch, score the entries of the codebooks, normalise the scores, choose.
The layers keep the parameters and the moments; the steps are here.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import core
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from anchor_codes import typing
from anchor_codes.ops import (
  codes,
  compositions,
  dropout,
  graphs,
  indexing,
  normalization,
  relaxations,
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
    # The moments of nothing are zeros: a batch of padding would draw the stored
    # ones to them.
    counts = values.size > 0 if where is None else jnp.any(where)
    keep = lambda new, old: jnp.where(counts, new, old)
    moved = normalization.Moments(*map(keep, moved, stored))
  values = normalization.normalize_scores(values, *used, epsilon=epsilon)
  return values, moved


def combine_best(
  key: PRNGKeyArray | None,
  logits: Float[Array, "*batch code_length codebook_size"],
  codebooks: Float[Array, "#code_length codebook_size code_features"],
  *,
  temperature: float | Float[Array, ""],
  composition: str,
  rate: float = 0.0,
) -> Float[Array, "*batch_and_width"]:
  """Combines the vectors of the best digits, all of them or some.

  Args:
    key: Random key; None to keep all digits.
    logits: Scores of the entries of each codebook.
    codebooks: Code vectors; a leading axis of 1 shares one codebook.
    temperature: Positive temperature of the backward pass.
    composition: As for
      :func:`~anchor_codes.ops.relaxations.straight_through_combine`.
    rate: Probability that a digit is dropped.

  Returns:
    The stage of a composition before its network and projection.

  >>> logits, codebooks = jnp.array([[1.0, 2.0]]), jnp.array([[[3.0], [4.0]]])
  >>> print(combine_best(None, logits, codebooks, temperature=1.0,
  ...                    composition="sum"))
  [4.]
  """
  # Only dropout needs the vectors of single digits: a sum without it does not
  # store them.
  if key is None:
    return relaxations.straight_through_combine(
      logits, codebooks, temperature, composition
    )
  vectors = relaxations.straight_through_lookup(logits, codebooks, temperature)
  vectors = dropout.drop_digits(key, vectors, rate)
  return compositions.combine(vectors, composition)


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
  temperature: float | typing.Schedule,
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
  if not callable(temperature):
    relaxations.check_temperature(temperature)


def check_regularizers(*, entropy_weight: float, code_dropout: float) -> None:
  """Raises `ValueError` unless what regularises codes is in range.

  >>> check_regularizers(entropy_weight=-1.0, code_dropout=0.0)
  Traceback (most recent call last):
  ...
  ValueError: `entropy_weight` must be finite and at least 0, got -1.0.
  """
  if not 0 <= entropy_weight < float("inf"):
    raise ValueError(
      f"`entropy_weight` must be finite and at least 0, got {entropy_weight}."
    )
  dropout.check_dropout("code_dropout", code_dropout)


def check_finite_rows(
  name: str, rows: Float[Array, " num_embeddings *shape"]
) -> None:
  """Raises `ValueError` if rows hold `nan` or infinity, and says which.

  An argmax would choose codes of them without a word. Under a transformation
  nothing is checked.

  Args:
    name: What the rows are, for the error.
    rows: One record for each symbol.

  >>> check_finite_rows("logits", jnp.array([[0.0], [jnp.nan]]))
  Traceback (most recent call last):
  ...
  ValueError: `logits` must be finite, got nan or infinity for 1 of 2 symbols...
  """
  # Counted where the rows are: only a table that is bad is copied to the host.
  if isinstance(rows, core.Tracer) or not codes.nonfinite_rows(rows):
    return
  values = np.asarray(rows)
  finite = np.isfinite(values).all(axis=tuple(range(1, values.ndim)))
  bad = np.flatnonzero(~finite)
  ids = ", ".join(map(str, bad[:5])) + (", ..." if len(bad) > 5 else "")
  raise ValueError(
    f"`{name}` must be finite, got nan or infinity for {len(bad)} of "
    f"{len(values)} symbols: ids {ids}."
  )


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
  # In this form `nan` is refused, too.
  if not neighbor_ratio >= 1:
    raise ValueError(
      f"`neighbor_ratio` must be at least 1, got {neighbor_ratio}."
    )
  if graph is not None and graph.num_nodes != num_embeddings:
    raise ValueError(
      "`graph` must have one node for each embedding, got "
      f"{graph.num_nodes} nodes and {num_embeddings} embeddings."
    )
