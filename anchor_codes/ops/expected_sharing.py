r"""The exact expected loss of matrix factorisation under shared embeddings.

Wu et al., NeurIPS 2019 (eq. 4), train on losses of ids that are replaced at
random, for users and items independently. For the squared error of a dot
product, the expectation over all replacements has a closed form: an oracle for
the samplers, and a way to train without their noise. A loss that is no
polynomial of the rows, such as the logistic loss of a ranking, has none.
"""

import dataclasses
from typing import NamedTuple

import chex
import jax
from jax import numpy as jnp
from jaxtyping import Array, Float, Int

from anchor_codes.ops.graphs import AnyGraph
from anchor_codes.ops.indexing import take_rows
from anchor_codes.ops.reductions import wide
from anchor_codes.ops.transition_products import (
  padded_neighbors,
  transition_weights,
)
from anchor_codes.typing import check_integer_ids

_HIGHEST = jax.lax.Precision.HIGHEST


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class SharedTable:
  """A table whose ids are replaced in training, and by what law; a pytree.

  Attributes:
    rows: The whole table, for the replacement may be any of its rows.
    rate: Probability of replacement, between 0 and 1; it may be traced.
    graph: Neighbours of each row, for SSE-Graph; SSE-SE without.
    neighbor_ratio: How many times as likely as another row a neighbour is, at
      least 1; it may be traced.
    max_degree: Upper limit of the degrees, by default the largest one; needed
      where the graph is traced. A row with more neighbours gives ``nan``.

  >>> SharedTable(rows=jnp.ones((3, 2)), rate=0.01).graph is None
  True
  """

  rows: Float[Array, "num_embeddings features"]
  rate: float | Float[Array, ""]
  graph: AnyGraph | None = None
  neighbor_ratio: float | Float[Array, ""] = 1.0
  max_degree: int | None = dataclasses.field(
    default=None, metadata={"static": True}
  )


def append_biases(
  users: Float[Array, "num_users features"],
  items: Float[Array, "num_items features"],
  *,
  user_bias: Float[Array, " num_users"],
  item_bias: Float[Array, " num_items"],
) -> tuple[
  Float[Array, "num_users features+2"], Float[Array, "num_items features+2"]
]:
  r"""Writes biases into the rows, so that a score is a dot product again.

  Definition: :math:`[u, b_u, 1] \cdot [v, 1, b_i] = u \cdot v + b_u + b_i`. A
  column of ones is the same in all rows: whatever row takes the place of
  another brings a one along. So what is exact for dot products is exact with
  biases that are replaced with their rows.

  Args:
    users: Vectors of the users.
    items: Vectors of the items.
    user_bias: What is added to the scores of each user.
    item_bias: What is added to the scores of each item.

  Returns:
    Tables with two more columns. A constant, and biases that are *not*
    replaced, belong to the ratings instead: subtract them there.

  >>> users, items = append_biases(
  ...     jnp.ones((1, 2)), jnp.ones((1, 2)),
  ...     user_bias=jnp.array([10.0]), item_bias=jnp.array([100.0]))
  >>> print(users @ items.T)
  [[112.]]
  """
  chex.assert_rank([users, items, user_bias, item_bias], [2, 2, 1, 1])
  return (
    jnp.concatenate([users, _column(user_bias, users), _ones(users)], axis=1),
    jnp.concatenate([items, _ones(items), _column(item_bias, items)], axis=1),
  )


def expected_squared_error(
  users: SharedTable,
  items: SharedTable,
  ratings: Float[Array, "*batch"],
  *,
  user_ids: Int[Array, "*batch"],
  item_ids: Int[Array, "*batch"],
) -> Float[Array, "*batch"]:
  r"""Computes the exact expected squared error of replaced users and items.

  Definition (Wu et al., NeurIPS 2019, eq. 4, for this loss): :math:`\sum_{k, l}
  p_u(j, k) \, p_v(i, l) \, (r - u_k \cdot v_l)^2`. The replacement of a user is
  the user itself, one of its neighbours, or any user, with the weights of
  :func:`transition_weights`. In place of any user stand their mean
  :math:`\bar u` and covariance :math:`C_u`, computed once for all ratings. With
  these choices :math:`x_k` of weights :math:`w_k`, of which :math:`W_u` that of
  :math:`\bar u`, and :math:`y_l`, :math:`w'_l` and :math:`W_v` of the item,

  .. math::
    \sum_{k, l} w_k w'_l (r - x_k \cdot y_l)^2
    + W_v \sum_k w_k \, x_k^\top C_v x_k
    + W_u \sum_l w'_l \, y_l^\top C_u y_l
    + W_u W_v \operatorname{tr}(C_u C_v),

  the same as :math:`r^2 - 2 r \, m_u \cdot m_v + \operatorname{tr}(S_u S_v)`
  with the first two moments of the replaced rows, but a sum of squares, which
  does not cancel.

  With tables of :math:`N` rows and :math:`d` features, a call takes time
  :math:`O(N d^2)`, and :math:`O(d^2)` for each rating. A graph adds its
  neighbours to the choices: exact still, in time and memory of ``max_degree *
  features`` for each rating, and the product of both degrees if users and items
  have one. That is affordable for sparse graphs only; the *score* is cheap on
  any, see :func:`transition_product`.

  Args:
    users: The table of the users, and how they are replaced.
    items: The table of the items, and how they are replaced.
    ratings: What the dot products ought to be.
    user_ids: The user of each rating.
    item_ids: The item of each rating.

  Returns:
    The expected error of each rating, in at least float32; ``nan`` for an id
    outside of its table. Gradients reach all rows.

  Raises:
    ValueError: If a rate or ratio is out of range, a graph is of another size
      than its table, or ids are not integers.

  >>> table = jnp.array([[1.0], [3.0]])
  >>> print(expected_squared_error(
  ...     SharedTable(rows=table, rate=0.5), SharedTable(rows=table, rate=0.0),
  ...     jnp.array([2.0]), user_ids=jnp.array([0]), item_ids=jnp.array([1])))
  [25.]
  """
  chex.assert_equal_shape([ratings, user_ids, item_ids])
  chex.assert_equal_shape([users.rows, items.rows], dims=1)
  shape, ratings = ratings.shape, wide(ratings).reshape(-1)
  user_rows, item_rows = _moments(users.rows), _moments(items.rows)
  user = _choices(users, user_rows, user_ids.reshape(-1), item_rows)
  item = _choices(items, item_rows, item_ids.reshape(-1), user_rows)
  scores = jnp.einsum(
    "bkd,bld->bkl", user.vectors, item.vectors, precision=_HIGHEST
  )
  errors = jnp.square(ratings[:, None, None] - scores)
  both = jnp.einsum("bk,bl,bkl->b", user.weights, item.weights, errors)
  traces = jnp.sum(user_rows.covariance * item_rows.covariance)
  expected = (
    both
    + item.anyone * jnp.sum(user.weights * user.spreads, axis=-1)
    + user.anyone * jnp.sum(item.weights * item.spreads, axis=-1)
    + user.anyone * item.anyone * traces
  )
  return expected.reshape(shape)


class _Moments(NamedTuple):
  """Moments of a row that is drawn uniformly."""

  mean: Float[Array, " features"]
  covariance: Float[Array, "features features"]


class _Choices(NamedTuple):
  """What a row may become: itself, a neighbour, and last of all any row.

  Attributes:
    vectors: The choices; for any row, their mean.
    weights: Of the choices, summing to 1.
    spreads: Variance of each choice's score with a random row of the other
      table.
  """

  vectors: Float[Array, "batch choices features"]
  weights: Float[Array, "batch choices"]
  spreads: Float[Array, "batch choices"]

  @property
  def anyone(self) -> Float[Array, " batch"]:
    """The weight of any row."""
    return self.weights[:, -1]


def _moments(rows: Array) -> _Moments:
  rows = wide(rows)
  mean = jnp.mean(rows, axis=0)
  # Centred first: differences of squares would lose digits.
  centered = rows - mean[None]
  products = jnp.matmul(centered.T, centered, precision=_HIGHEST)
  return _Moments(mean, products / rows.shape[0])


def _choices(
  table: SharedTable, moments: _Moments, ids: Array, other: _Moments
) -> _Choices:
  """Lists what each row of a batch may become."""
  check_integer_ids(ids)
  # Small types may not hold all neighbours.
  ids = ids.astype(jax.dtypes.canonicalize_dtype(jnp.int64))
  rows = wide(table.rows)
  weights = transition_weights(
    num_embeddings=rows.shape[0],
    rate=table.rate,
    graph=table.graph,
    neighbor_ratio=table.neighbor_ratio,
    dtype=rows.dtype,
  )
  keep, everyone, neighbor = (_weight_of(ids, w)[:, None] for w in weights)
  choices, exist = ids[:, None], jnp.ones((ids.size, 0), rows.dtype)
  if table.graph is not None:
    near, exist = padded_neighbors(
      table.graph, ids, max_degree=table.max_degree
    )
    choices = jnp.concatenate([choices, near.astype(ids.dtype)], axis=1)
  return _Choices(
    _append(take_rows(rows, choices), moments.mean),
    jnp.concatenate(
      [keep, neighbor * exist.astype(rows.dtype), rows.shape[0] * everyone],
      axis=1,
    ),
    _append(
      _spreads(rows, choices, other.covariance),
      _quadratic(moments.mean, other.covariance),
    ),
  )


def _weight_of(ids: Array, weight: Array) -> Array:
  # An id outside of the table reads the weight of another: its row is `nan`.
  return weight[ids] if weight.ndim else jnp.broadcast_to(weight, ids.shape)


def _spreads(rows: Array, ids: Array, covariance: Array) -> Array:
  """Returns the quadratic forms of some rows: once for each, if they repeat."""
  if ids.size < rows.shape[0]:
    return _quadratic(take_rows(rows, ids), covariance)
  return take_rows(_quadratic(rows, covariance), ids)


def _quadratic(vectors: Array, matrix: Array) -> Array:
  products = jnp.matmul(vectors, matrix, precision=_HIGHEST)
  return jnp.sum(products * vectors, axis=-1)


def _append(values: Array, last: Array) -> Array:
  """Appends one more choice, the same one for the whole batch."""
  lasts = jnp.broadcast_to(last, (values.shape[0], 1, *last.shape))
  return jnp.concatenate([values, lasts], axis=1)


def _column(bias: Array, rows: Array) -> Array:
  return bias.reshape(-1, 1).astype(rows.dtype)


def _ones(rows: Array) -> Array:
  return jnp.ones((rows.shape[0], 1), rows.dtype)
