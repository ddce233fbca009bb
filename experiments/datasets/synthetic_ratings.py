"""Ratings drawn from a model of anchors, whose number is therefore known.

The rows of users and of items take their anchors from an Indian buffet process
(Griffiths and Ghahramani, 2005), so that some anchors serve nearly all rows and
others few, as the prior of :mod:`anchor_codes.ops.nonparametric` has it.
"""

import jax
import numpy as np

from anchor_codes import ops, typing
from experiments.datasets.ratings import Ratings, make_ratings

# Compiled once for all draws of one size.
_buffet_rows = jax.jit(
  ops.indian_buffet_rows,
  static_argnames=("num_embeddings", "concentration", "max_anchors"),
)
_CONCENTRATION = 6.0  # The expected number of a row's anchors.
_WEIGHT_SHAPE = 4.0  # Of a gamma distribution: positive, rarely near zero.
_MEAN_RATING = 3.5
_BIAS_SCALE = 0.3
_LEAST_SHARE = 0.05  # Nobody could find an anchor that serves a few rows.
_MOST_DRAWS = 100


def buffet_ratings(
  seed: int = 0,
  *,
  num_users: int = 1500,
  num_items: int = 800,
  num_ratings: int = 250_000,
  num_anchors: int = 8,
  features: int = 16,
  noise: float = 0.5,
) -> Ratings:
  r"""Draws ratings whose vectors are mixtures of anchors.

  Definition: :math:`r_{ui} = \mu + b_u + b_i + s\, e_u^\top e_i + \epsilon`,
  with :math:`E = T A` for users and for items, and :math:`s` such that the
  products have a variance of 1.

  Args:
    seed: Of all randomness.
    num_users: Number of users.
    num_items: Number of items.
    num_ratings: Number of ratings, of different pairs of a user and an item.
    num_anchors: Anchors of the users, and of the items; each serves one row in
      twenty at least.
    features: Width of an anchor.
    noise: Standard deviation of the noise, non-negative: the root of the error
      that the best model has.

  Returns:
    The ratings in the order in which they were drawn.

  Raises:
    ValueError: If a size is not positive, there are more ratings than pairs,
      `noise` is negative, or the rows are too few for so many anchors.

  >>> ratings = buffet_ratings(
  ...   1, num_users=30, num_items=20, num_ratings=400, num_anchors=3
  ... )
  >>> len(ratings.values), ratings.user_names[:2], ratings.item_names[:2]
  (400, ('user 0', 'user 1'), ('item 0', 'item 1'))
  """
  typing.check_at_least("num_ratings", num_ratings, 1)
  if num_ratings > num_users * num_items:
    raise ValueError(
      f"`num_ratings` must be at most the number of pairs, "
      f"{num_users * num_items}, got {num_ratings}."
    )
  if not noise >= 0:
    raise ValueError(f"`noise` must be non-negative, got {noise}.")
  rng = np.random.default_rng(seed)
  sizes = {"num_anchors": num_anchors, "features": features}
  user_vectors = buffet_vectors(rng, num_embeddings=num_users, **sizes)
  item_vectors = buffet_vectors(rng, num_embeddings=num_items, **sizes)
  pairs = rng.choice(num_users * num_items, num_ratings, replace=False)
  users, items = np.divmod(pairs, num_items)
  products = np.sum(user_vectors[users] * item_vectors[items], axis=1)
  biases = rng.normal(scale=_BIAS_SCALE, size=num_users)[users]
  biases += rng.normal(scale=_BIAS_SCALE, size=num_items)[items]
  errors = rng.normal(scale=noise, size=num_ratings)
  return make_ratings(
    "synthetic",
    users=users,
    items=items,
    # The products of a single pair do not vary.
    values=_MEAN_RATING + biases + products / (products.std() or 1) + errors,
    order=np.arange(num_ratings),
    user_names=[f"user {number}" for number in range(num_users)],
    item_names=[f"item {number}" for number in range(num_items)],
    source=f"drawn from {num_anchors} anchors, seed {seed}",
  )


def buffet_vectors(
  rng: np.random.Generator,
  *,
  num_embeddings: int,
  num_anchors: int,
  features: int,
) -> np.ndarray:
  r"""Draws vectors that are mixtures of anchors, each of which many use.

  Definition: :math:`E = T A` with normal anchors, gamma weights where a row
  uses an anchor, and a factor for each row that gives it length 1: without it,
  a few rows with many anchors would make most of the ratings' variance.

  Args:
    rng: Source of randomness.
    num_embeddings: Number of vectors.
    num_anchors: Number of anchors.
    features: Width of a vector.

  Returns:
    The vectors, [num_embeddings, features]; a row without anchors is zero.

  Raises:
    ValueError: If a size is not positive, or the rows are too few for so many
      anchors.

  >>> vectors = buffet_vectors(
  ...   np.random.default_rng(0), num_embeddings=40, num_anchors=2, features=9
  ... )
  >>> int(np.linalg.matrix_rank(vectors))
  2
  """
  used = _used_anchors(rng, num_embeddings, num_anchors)
  weights = used * rng.gamma(_WEIGHT_SHAPE, size=used.shape)
  vectors = weights @ rng.normal(size=(num_anchors, features))
  lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
  return vectors / np.where(lengths > 0, lengths, 1)


def _used_anchors(
  rng: np.random.Generator, num_embeddings: int, num_anchors: int
) -> np.ndarray:
  """Draws which rows use which anchors until each serves some rows."""
  for _ in range(_MOST_DRAWS):
    rows = _buffet_rows(
      jax.random.key(int(rng.integers(2**31))),
      num_embeddings=num_embeddings,
      concentration=_CONCENTRATION,
      max_anchors=num_anchors,
    )
    used = np.asarray(rows)
    if (used.mean(axis=0) >= _LEAST_SHARE).all():
      return used
  raise ValueError(
    f"`num_anchors` must be few enough for {num_embeddings} rows to use them "
    f"all, got {num_anchors}."
  )
