r"""Where anchors and their rows start: at random, in pairs, or at vectors.

The anchors need both signs: mixtures are non-negative, so that embeddings of
anchors of one sign would all lie close to one direction.
"""

import math
from typing import Any

import chex
import jax
import numpy as np
from jax import numpy as jnp
from jaxtyping import Array, Float, Integer, PRNGKeyArray

from anchor_codes import typing
from anchor_codes.ops import clustering, drawing
from anchor_codes.ops.anchors import SparseRows, check_num_nonzeros


def start_anchors(
  key: PRNGKeyArray,
  *,
  num_embeddings: int,
  features: int,
  num_anchors: int,
  num_nonzeros: int | None,
  scale: float,
  weight_scale: float,
  start: str,
) -> tuple[Any, Float[Array, "num_anchors features"]]:
  """Draws the rows and the anchors of a layer.

  Args:
    key: Source of randomness.
    num_embeddings: Number of rows.
    features: Width of an anchor.
    num_anchors: Number of anchors.
    num_nonzeros: Non-zeros of a sparse row; None for dense rows.
    scale: Standard deviation of an entry of the embeddings. It is less, down
      to half of it, for sparse rows long enough to hold antipodal partners.
    weight_scale: Scale of the weights; the anchors get the rest of `scale`.
    start: One of `STARTS`.

  Returns:
    Sparse rows, or dense ones [num_embeddings, num_anchors], and the anchors.

  Raises:
    ValueError: If a size is not positive, `num_nonzeros` is too large, or
      `start` is unknown.

  >>> rows, anchors = start_anchors(
  ...   jax.random.key(0), num_embeddings=5, features=3, num_anchors=4,
  ...   num_nonzeros=None, scale=0.1, weight_scale=1.0, start="antipodal")
  >>> rows.shape, anchors.shape
  ((5, 4), (4, 3))
  """
  typing.check_choice("start", start, typing.STARTS)
  typing.check_at_least("num_anchors", num_anchors, 1)
  key_rows, key_anchors = jax.random.split(key)
  sizes = {"num_embeddings": num_embeddings, "num_anchors": num_anchors}
  used = num_anchors if num_nonzeros is None else num_nonzeros
  check_num_nonzeros(used, num_anchors)
  std = anchor_scale(scale / weight_scale, used)
  draw = random_anchors if start == "random" else antipodal_anchors
  if num_nonzeros is None and start == "antipodal":
    rows = antipodal_rows(key_rows, **sizes, scale=weight_scale)
    std = antipodal_scale(scale / weight_scale, num_anchors)
  else:
    rows = random_rows(key_rows, **sizes, num_nonzeros=used, scale=weight_scale)
    # With a slot for each anchor slot k holds anchor k: these weights are the
    # dense rows already.
    rows = rows.weights if num_nonzeros is None else rows
  anchors = draw(
    key_anchors, num_anchors=num_anchors, features=features, scale=std
  )
  return rows, anchors


def random_rows(
  key: PRNGKeyArray,
  *,
  num_embeddings: int,
  num_anchors: int,
  num_nonzeros: int,
  scale: float = 1.0,
) -> SparseRows:
  """Draws sparse rows with distinct positions and uniform weights.

  Each slot has an equal part of the anchors to itself, so that positions never
  repeat and memory stays at the size of the result.

  Args:
    key: Source of randomness.
    num_embeddings: Number of rows.
    num_anchors: Number of anchors to choose from.
    num_nonzeros: Non-zeros for each row, 1 to `num_anchors`.
    scale: Weights are uniform between 0 and this.

  Returns:
    The rows.

  Raises:
    ValueError: If a size is not positive or `num_nonzeros` too large.

  >>> rows = random_rows(jax.random.key(0), num_embeddings=5, num_anchors=6,
  ...                    num_nonzeros=2)
  >>> rows.indices.shape, bool((rows.indices[:, 0] < 3).all())
  ((5, 2), True)
  """
  typing.check_at_least("num_embeddings", num_embeddings, 1)
  check_num_nonzeros(num_nonzeros, num_anchors)
  key_index, key_weight = jax.random.split(key)
  # On the host: the products can pass 2 ** 31.
  edges = np.arange(num_nonzeros + 1) * num_anchors // num_nonzeros
  low, high = edges[None, :-1], edges[None, 1:]
  indices = drawing.draw_rows(
    key_index,
    num_embeddings,
    lambda key, number: jax.random.randint(
      key, (number, num_nonzeros), low, high
    ),
  )
  weights = drawing.draw_rows(
    key_weight,
    num_embeddings,
    lambda key, number: jax.random.uniform(
      key, (number, num_nonzeros), maxval=scale
    ),
  )
  return SparseRows(indices, weights)


def random_anchors(
  key: PRNGKeyArray, *, num_anchors: int, features: int, scale: float = 1.0
) -> Float[Array, "num_anchors features"]:
  """Draws anchors from a normal distribution: both signs occur.

  With anchors of one sign, all embeddings would lie close to one direction.

  Args:
    key: Source of randomness.
    num_anchors: Number of anchors.
    features: Width of an anchor.
    scale: Standard deviation of an entry.

  Returns:
    The anchors.

  Raises:
    ValueError: If a size is not positive.

  >>> random_anchors(jax.random.key(0), num_anchors=3, features=2).shape
  (3, 2)
  """
  typing.check_at_least("num_anchors", num_anchors, 1)
  typing.check_at_least("features", features, 1)
  return scale * jax.random.normal(key, (num_anchors, features))


def anchor_scale(scale: float, num_nonzeros: int) -> float:
  r"""Returns the scale of anchors that gives embeddings the scale asked for.

  With weights uniform in [0, 1], :math:`\mathrm{Var}\,e = \sigma_A^2 s / 3`.

  Args:
    scale: Standard deviation of an entry of the embeddings.
    num_nonzeros: Non-zeros of a row, :math:`s`.

  Returns:
    The standard deviation of an entry of the anchors.

  Raises:
    ValueError: If `num_nonzeros` is not positive.

  >>> anchor_scale(0.1, 3)
  0.1
  """
  typing.check_at_least("num_nonzeros", num_nonzeros, 1)
  return scale * math.sqrt(3 / num_nonzeros)


def antipodal_rows(
  key: PRNGKeyArray,
  *,
  num_embeddings: int,
  num_anchors: int,
  scale: float = 1.0,
) -> Float[Array, "num_embeddings num_anchors"]:
  r"""Draws dense rows for anchors in pairs: half of each row is zero.

  Definition: with a normal :math:`W` [num_embeddings, num_anchors / 2], the
  rows are :math:`T = [\max(W, 0), \max(-W, 0)]`. With anchors
  :math:`A = [B; -B]` of :func:`antipodal_anchors`, :math:`T A = W B`: a table
  of rank ``num_anchors / 2`` without a constraint on its signs, whose columns
  then part company in training. Random non-negative rows, on the other hand,
  all share their mean, and training tends to stay near that direction.

  Args:
    key: Source of randomness.
    num_embeddings: Number of rows.
    num_anchors: Number of anchors; of an odd number the last of the first half
      has no partner.
    scale: Standard deviation of an entry of :math:`W`.

  Returns:
    The rows.

  Raises:
    ValueError: If a size is not positive.

  >>> rows = antipodal_rows(jax.random.key(0), num_embeddings=5, num_anchors=4)
  >>> print((rows > 0).sum(axis=1))
  [2 2 2 2 2]
  """
  typing.check_at_least("num_embeddings", num_embeddings, 1)
  typing.check_at_least("num_anchors", num_anchors, 1)
  pairs = -(-num_anchors // 2)

  def draw(key: PRNGKeyArray, number: int) -> Array:
    signed = scale * jax.random.normal(key, (number, pairs))
    both = jnp.concatenate([jax.nn.relu(signed), jax.nn.relu(-signed)], axis=1)
    return both[:, :num_anchors]

  return drawing.draw_rows(key, num_embeddings, draw)


def antipodal_anchors(
  key: PRNGKeyArray, *, num_anchors: int, features: int, scale: float = 1.0
) -> Float[Array, "num_anchors features"]:
  r"""Draws anchors in pairs :math:`b, -b`, the second half after the first.

  The directions of up to `features` pairs are orthogonal, drawn at random, and
  so are those of the next ones among themselves.

  Args:
    key: Source of randomness.
    num_anchors: Number of anchors; of an odd number the last of the first half
      has no partner.
    features: Width of an anchor.
    scale: Root of the mean square of an entry.

  Returns:
    The anchors, all of the same length.

  Raises:
    ValueError: If a size is not positive.

  >>> anchors = antipodal_anchors(jax.random.key(0), num_anchors=4, features=2)
  >>> bool((anchors[:2] == -anchors[2:]).all())
  True
  """
  typing.check_at_least("num_anchors", num_anchors, 1)
  typing.check_at_least("num_anchors", num_anchors, 1)
  typing.check_at_least("features", features, 1)
  pairs = -(-num_anchors // 2)
  blocks = jax.random.orthogonal(key, features, (-(-pairs // features),))
  # Rows of an orthogonal matrix have length 1, hence entries of mean square
  # 1 / features.
  half = scale * math.sqrt(features) * blocks.reshape(-1, features)[:pairs]
  return jnp.concatenate([half, -half])[:num_anchors]


def antipodal_scale(scale: float, num_anchors: int) -> float:
  r"""Returns the scale of antipodal anchors for embeddings of a scale.

  With a normal :math:`W` of standard deviation 1,
  :math:`\mathrm{Var}\,e = \sigma_A^2 K / 2`. So it is for an odd :math:`K`: an
  anchor without a partner counts half as much as a pair.

  Args:
    scale: Standard deviation of an entry of the embeddings.
    num_anchors: Number of anchors, :math:`K`.

  Returns:
    The standard deviation of an entry of the anchors.

  Raises:
    ValueError: If `num_anchors` is not positive.

  >>> antipodal_scale(0.2, 8)
  0.1
  """
  typing.check_at_least("num_anchors", num_anchors, 1)
  return scale * math.sqrt(2 / num_anchors)


def frequency_anchors(
  vectors: Float[Array, "num_embeddings features"],
  counts: Integer[Array, " num_embeddings"],
  *,
  num_anchors: int,
) -> Float[Array, "num_anchors features"]:
  """Takes the vectors of the most frequent symbols as anchors.

  Args:
    vectors: Vectors that exist already.
    counts: How often each symbol occurs; ties go to the smaller id.
    num_anchors: Number of anchors, at most ``num_embeddings``.

  Returns:
    The anchors, the most frequent symbol first.

  Raises:
    ValueError: If there are fewer vectors than anchors.

  >>> vectors = jnp.array([[1.0], [2.0], [3.0]])
  >>> print(frequency_anchors(vectors, jnp.array([5, 9, 7]), num_anchors=2))
  [[2.]
   [3.]]
  """
  _check_enough(vectors, num_anchors)
  chex.assert_shape(counts, vectors.shape[:1])
  _, most_frequent = jax.lax.top_k(counts, num_anchors)
  return vectors[most_frequent]


def kmeans_anchors(
  key: PRNGKeyArray,
  vectors: Float[Array, "num_embeddings features"],
  *,
  num_anchors: int,
  num_iterations: int = 25,
) -> Float[Array, "num_anchors features"]:
  """Takes the centres of clusters of given vectors as anchors.

  Args:
    key: Source of randomness of the start.
    vectors: Vectors that exist already.
    num_anchors: Number of anchors, at most ``num_embeddings``.
    num_iterations: Rounds of Lloyd's algorithm.

  Returns:
    The anchors.

  Raises:
    ValueError: If there are fewer vectors than anchors.

  >>> vectors = jnp.array([[0.0], [0.2], [5.0], [5.2]])
  >>> anchors = kmeans_anchors(jax.random.key(0), vectors, num_anchors=2)
  >>> [f"{anchor:.1f}" for anchor in jnp.sort(anchors[:, 0])]
  ['0.1', '5.1']
  """
  _check_enough(vectors, num_anchors)
  return clustering.kmeans(
    key, vectors, num_clusters=num_anchors, num_iterations=num_iterations
  ).centroids


def _check_enough(vectors: Array, num_anchors: int) -> None:
  chex.assert_rank(vectors, 2)
  typing.check_at_least("num_anchors", num_anchors, 1)
  if num_anchors > vectors.shape[0]:
    raise ValueError(
      f"`num_anchors` must be at most the number of vectors, got {num_anchors} "
      f"and {vectors.shape[0]}."
    )
