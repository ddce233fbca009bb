r"""How well a model ranks items: where the right ones stand in the order.

Two kinds of task. One target for each example (the next item of a sequence):
:func:`ranks_of_targets`, then :func:`hit_rate_at` and :func:`ndcg_at`. Any
number of relevant items (all that a user liked): :func:`hits_among_top`, then
:func:`precision_at`, :func:`recall_at` and :func:`hits_ndcg_at`.

All are given for each example, so that the caller takes the mean over those
that count, and may go through them in blocks. Scores that are ``nan`` never
count in favour of a model.
"""

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from anchor_codes.typing import TIES, Ties, check_at_least, check_choice


def ranks_of_targets(
  scores: Float[Array, "*batch num_items"],
  targets: Int[Array, "*batch"],
  *,
  where: Bool[Array, "*batch num_items"] | None = None,
  ties: Ties = "mean",
) -> Float[Array, "*batch"]:
  r"""Computes the rank of one item among all, 0 for the best.

  Definition: :math:`|\{i : s_i > s_t\}| + c \, |\{i \ne t : s_i = s_t\}|` with
  :math:`c = 1/2` for the mean over all orders of equal scores, 0 for the best
  and 1 for the worst place. A sort would give the target some place among its
  equals, so that a model whose scores are all equal could look perfect.

  For a sample of candidates, put the target first: ``scores`` are those of the
  candidates, and ``targets`` are zeros.

  Args:
    scores: Scores of the items, more is better.
    targets: The item to rank, for each example; in range.
    where: Items that compete, all by default. The target always does.
    ties: Where the target stands among others of the same score.

  Returns:
    The ranks; ``nan``, which no metric counts as a hit, for a target whose
    score is ``nan``. A competitor of score ``nan`` stands before the target.

  Raises:
    ValueError: If `ties` is unknown.

  >>> scores = jnp.array([[0.1, 0.7, 0.7, 0.9], [0.0, 0.0, 0.0, 0.0]])
  >>> print(ranks_of_targets(scores, jnp.array([2, 0])))
  [1.5 1.5]
  >>> print(ranks_of_targets(scores, jnp.array([2, 0]), ties="worst"))
  [2. 3.]
  """
  check_choice("ties", ties, TIES)
  chex.assert_shape(targets, scores.shape[:-1])
  # A type that does not hold all items would wrap their numbers around.
  targets = targets.astype(jnp.int32)
  others = ~jax.nn.one_hot(targets, scores.shape[-1], dtype=jnp.bool_)
  if where is not None:
    chex.assert_equal_shape([scores, where])
    others &= where
  target = jnp.take_along_axis(scores, targets[..., None], axis=-1)
  # Written so that a competitor of score nan is counted.
  above = jnp.sum(others & ~(scores <= target), axis=-1)
  equal = jnp.sum(others & (scores == target), axis=-1)
  share = {"best": 0.0, "mean": 0.5, "worst": 1.0}[ties]
  ranks = above.astype(jnp.float32) + share * equal.astype(jnp.float32)
  return jnp.where(jnp.isnan(target[..., 0]), jnp.nan, ranks)


def hit_rate_at(
  ranks: Float[Array, "*batch"], *, k: int
) -> Float[Array, "*batch"]:
  """Computes whether the target is among the first `k`: 1 or 0.

  With one target this is the recall at `k`, too.

  Args:
    ranks: Ranks from 0, see :func:`ranks_of_targets`.
    k: Length of the list, at least 1.

  Returns:
    1 or 0 for each example; its mean is the hit rate.

  Raises:
    ValueError: If `k` is out of range.

  >>> print(hit_rate_at(jnp.array([0.0, 1.5, 2.0]), k=2))
  [1. 1. 0.]
  """
  check_at_least("k", k, 1)
  return (ranks < k).astype(jnp.float32)


def ndcg_at(ranks: Float[Array, "*batch"], *, k: int) -> Float[Array, "*batch"]:
  r"""Computes the normalised discounted gain of one target.

  Definition: :math:`1 / \log_2(r + 2)` for a rank :math:`r < k`, else 0.

  Args:
    ranks: Ranks from 0, see :func:`ranks_of_targets`.
    k: Length of the list, at least 1.

  Returns:
    A number between 0 and 1 for each example.

  Raises:
    ValueError: If `k` is out of range.

  >>> print(ndcg_at(jnp.array([0.0, 2.0, 10.0]), k=10))
  [1.  0.5 0. ]
  """
  check_at_least("k", k, 1)
  inside = ranks < k
  gains = 1 / jnp.log2(jnp.where(inside, ranks, 0.0) + 2)
  return jnp.where(inside, gains, 0.0).astype(jnp.float32)


def hits_among_top(
  scores: Float[Array, "*batch num_items"],
  relevant: Bool[Array, "*batch num_items"],
  *,
  k: int,
  where: Bool[Array, "*batch num_items"] | None = None,
) -> Bool[Array, "*batch k"]:
  """Tells which of the `k` best items are relevant, from the best on.

  Of equal scores the item of the lower id comes first.

  Args:
    scores: Scores of the items, more is better; ``nan`` counts as the worst,
      and is never a hit.
    relevant: The items to find.
    k: Length of the list, from 1 to the number of items.
    where: Items that compete, all by default; no others are hits. If they are
      fewer than `k`, the end of the list has no hits.

  Returns:
    Hits for each example and place.

  Raises:
    ValueError: If `k` is out of range.

  >>> scores = jnp.array([0.1, 0.7, 0.9, 0.5])
  >>> relevant = jnp.array([False, True, False, True])
  >>> print(hits_among_top(scores, relevant, k=3))
  [False  True  True]
  """
  check_at_least("k", k, 1)
  if k > scores.shape[-1]:
    raise ValueError(
      f"`k` must be at most the number of items, got {k} and "
      f"{scores.shape[-1]}."
    )
  chex.assert_equal_shape([scores, relevant])
  barred = jnp.isnan(scores)
  if where is not None:
    chex.assert_equal_shape([scores, where])
    barred |= ~where
  # At the end of the list, or where all scores are nan, it may have such items.
  relevant &= ~barred
  _, best = jax.lax.top_k(jnp.where(barred, -jnp.inf, scores), k)
  return jnp.take_along_axis(relevant, best, axis=-1)


def precision_at(
  hits: Bool[Array, "*batch length"], *, k: int
) -> Float[Array, "*batch"]:
  r"""Computes the share of the first `k` items that are relevant.

  Args:
    hits: What :func:`hits_among_top` gives, for a list of at least `k`.
    k: Length of the list, at least 1.

  Returns:
    A number between 0 and 1 for each example.

  Raises:
    ValueError: If `k` is out of range.

  >>> print(precision_at(jnp.array([[True, False, True]]), k=2))
  [0.5]
  """
  return _count(hits, k) / k


def recall_at(
  hits: Bool[Array, "*batch length"],
  num_relevant: Int[Array, "*batch"],
  *,
  k: int,
) -> Float[Array, "*batch"]:
  """Computes the share of the relevant items that are among the first `k`.

  Args:
    hits: What :func:`hits_among_top` gives, for a list of at least `k`.
    num_relevant: Number of relevant items of each example; 0 gives 0.
    k: Length of the list, at least 1.

  Returns:
    A number between 0 and 1 for each example.

  Raises:
    ValueError: If `k` is out of range.

  >>> hits = jnp.array([[True, False, True], [False, False, False]])
  >>> print(recall_at(hits, jnp.array([4, 0]), k=3))
  [0.5 0. ]
  """
  chex.assert_shape(num_relevant, hits.shape[:-1])
  count = jnp.maximum(num_relevant, 1).astype(jnp.float32)
  return _count(hits, k) / count


def hits_ndcg_at(
  hits: Bool[Array, "*batch length"],
  num_relevant: Int[Array, "*batch"],
  *,
  k: int,
) -> Float[Array, "*batch"]:
  r"""Computes the normalised discounted gain of any number of relevant items.

  Definition (Järvelin and Kekäläinen, 2002, with gains of 0 and 1):
  :math:`\sum_{r < k} h_r / \log_2(r + 2)` over the same sum with the relevant
  items first.

  Args:
    hits: What :func:`hits_among_top` gives, for a list of at least `k`.
    num_relevant: Number of relevant items of each example; 0 gives 0.
    k: Length of the list, at least 1.

  Returns:
    A number between 0 and 1 for each example.

  Raises:
    ValueError: If `k` is out of range.

  >>> hits = jnp.array([[True, False, True], [False, False, False]])
  >>> print(hits_ndcg_at(hits, jnp.array([1, 0]), k=1))
  [1. 0.]
  """
  _check_length(hits, k)
  chex.assert_shape(num_relevant, hits.shape[:-1])
  discounts = 1 / jnp.log2(jnp.arange(k, dtype=jnp.float32) + 2)
  gain = jnp.matmul(hits[..., :k].astype(jnp.float32), discounts)
  ideal = jnp.concatenate([jnp.zeros(1), jnp.cumsum(discounts)])
  # A narrow type may hold the number, but not the length.
  best = ideal[jnp.minimum(num_relevant.astype(jnp.int32), k)]
  return jnp.where(best > 0, gain / jnp.where(best > 0, best, 1.0), 0.0)


def _count(
  hits: Bool[Array, "*batch length"], k: int
) -> Float[Array, "*batch"]:
  _check_length(hits, k)
  return jnp.sum(hits[..., :k], axis=-1).astype(jnp.float32)


def _check_length(hits: Bool[Array, "*batch length"], k: int) -> None:
  check_at_least("k", k, 1)
  if k > hits.shape[-1]:
    raise ValueError(
      f"`k` must be at most the length of the list, got {k} and "
      f"{hits.shape[-1]}."
    )
