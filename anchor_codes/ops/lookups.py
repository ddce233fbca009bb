"""What the layers of both Flax APIs share: checks, and lookups of codes.

Codes that are still being learned are looked up in steps: gather the rows of
the batch, score the entries of the codebooks, normalise the scores, choose.
The layers keep the parameters and the moments; the steps are here.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import core
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from anchor_codes import typing
from anchor_codes.ops import (
  codes,
  compositions,
  dropout,
  frequencies,
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
  inside = indexing.inside_table(ids, num_embeddings=rows.shape[0])
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
  rate: float | Float[Array, ""],
  graph: graphs.AnyGraph | None = None,
  neighbor_ratio: float = 1.0,
  low: int = 0,
  special_ids: Sequence[int] = (),
  exclude_self: bool = True,
  per_row: bool = False,
  counts: frequencies.Frequencies | None = None,
  where: Bool[Array, "*batch"] | None = None,
) -> Int[Array, "*batch"]:
  """Exchanges ids at random, along a graph if there is one.

  Definition (SSE; Wu et al., NeurIPS 2019), see
  :mod:`anchor_codes.ops.transitions`.

  Args:
    key: Random key.
    ids: Ids of any shape.
    num_embeddings: Number of symbols.
    rate: Probability that an id is replaced.
    graph: Neighbours of each ordinary symbol, or None for SSE-SE.
    neighbor_ratio: How much more likely a neighbour is than a non-neighbour.
    low: First ordinary id: those below are special.
    special_ids: More ids that are neither replaced nor drawn.
    exclude_self: Whether an id that is replaced becomes another one.
    per_row: Whether all occurrences of an id become the same one.
    counts: How often each ordinary symbol occurs, to draw in proportion to;
      not with a graph.
    where: Positions that may change, all by default.

  Returns:
    Ids like `ids`.

  >>> import jax
  >>> ids, key = jnp.array([0, 1, 2]), jax.random.key(0)
  >>> print(exchange_ids(
  ...   key, ids, num_embeddings=3, rate=1.0, special_ids=[1]))
  [2 1 0]
  """
  special = np.unique(np.asarray(special_ids, np.int32))
  size = num_embeddings - low - len(special)
  local = _close_gaps(ids, special) if len(special) else ids
  options: dict[str, Any] = {
    "rate": rate,
    "low": low,
    "where": where,
    "exclude_self": exclude_self,
    "per_row": per_row,
  }
  if graph is None:
    new = transitions.sse_se_transition(
      key, local, num_embeddings=size, frequencies=counts, **options
    )
  else:
    new = transitions.sse_graph_transition(
      key, local, graph, neighbor_ratio=neighbor_ratio, **options
    )
  if not len(special):
    return new
  is_special = jnp.isin(ids, jnp.asarray(special, ids.dtype))
  return jnp.where(is_special, ids, _open_gaps(new, special))


def _close_gaps(
  ids: Int[Array, "*batch"], special: Int[np.ndarray, " num_special"]
) -> Int[Array, "*batch"]:
  """Numbers ordinary ids without gaps; special ones get the number -1."""
  marks = jnp.asarray(special, ids.dtype)
  below = jnp.searchsorted(marks, ids).astype(ids.dtype)
  return jnp.where(jnp.isin(ids, marks), -1, ids - below)


def _open_gaps(
  local: Int[Array, "*batch"], special: Int[np.ndarray, " num_special"]
) -> Int[Array, "*batch"]:
  """Undoes :func:`_close_gaps` for ordinary ids."""
  # What the first ordinary id after each special one has as its number.
  after = jnp.asarray(special - np.arange(len(special)), local.dtype)
  below = jnp.searchsorted(after, local, side="right")
  return local + below.astype(local.dtype)


def as_frequencies(
  counts: Any,
) -> frequencies.Frequencies | None:
  """Returns counts as frequencies, if there are any.

  >>> as_frequencies(None)
  """
  return None if counts is None else frequencies.frequencies_from_counts(counts)


def never(rate: Any) -> bool:
  """Tells whether a rate is known to be 0.

  >>> never(0.0), never(jnp.array(0.0))
  (True, False)
  """
  return isinstance(rate, int | float) and rate == 0


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
  graph: graphs.AnyGraph | None,
  neighbor_ratio: float,
  low: int = 0,
  special_ids: Sequence[int] = (),
  counts: frequencies.Frequencies | None = None,
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
  transitions.check_ratio(neighbor_ratio)
  transitions.check_one_law(graph, counts)
  typing.check_at_least("low", low, 0)
  for special in special_ids:
    if not low <= special < num_embeddings:
      raise ValueError(
        f"`special_ids` must lie in [{low}, {num_embeddings}), got {special}."
      )
  size = num_embeddings - low - len(set(special_ids))
  if size < 1:
    raise ValueError(
      f"`low` and `special_ids` must leave one of {num_embeddings} embeddings."
    )
  if graph is not None and graph.num_nodes != size:
    raise ValueError(
      "`graph` must have one node for each embedding that is not special, got "
      f"{graph.num_nodes} nodes and {size} embeddings."
    )
  if counts is not None and counts.num_embeddings != size:
    raise ValueError(
      "`counts` must be one for each embedding that is not special, got "
      f"{counts.num_embeddings} counts and {size} embeddings."
    )
