"""Matrix factorisation, with biases or without, over any two embeddings."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
from flax import nnx
from jax import numpy as jnp
from jaxtyping import Array, Float, Int

from anchor_codes import nn, ops

TABLES = ("users", "items", "user_bias", "item_bias")
"""The embeddings of the model, by attribute; the last two may be missing."""

Change = Callable[[dict[str, Array]], dict[str, Array]]
"""What is done to the vectors of a batch, by the names of `TABLES`."""


class Vectors(NamedTuple):
  """What a trained model comes down to.

  Attributes:
    users: Vectors of the users.
    items: Vectors of the items.
    user_bias: What is added to all ratings of a user.
    item_bias: What is added to all ratings of an item.
    mean: The mean rating.
  """

  users: Float[Array, "num_users features"]
  items: Float[Array, "num_items features"]
  user_bias: Float[Array, " num_users"]
  item_bias: Float[Array, " num_items"]
  mean: Float[Array, ""]

  def predict(
    self, users: Int[Array, " batch"], items: Int[Array, " batch"]
  ) -> Float[Array, " batch"]:
    """Predicts the rating that each user gives to an item."""
    products = jnp.sum(self.users[users] * self.items[items], axis=-1)
    return self.mean + self.user_bias[users] + self.item_bias[items] + products


class Factorization(nnx.Module):
  r"""Predicts ratings, or ranks items, from embeddings of users and items.

  Definition (Koren, Bell, Volinsky, 2009):
  :math:`\mu + b_u + b_i + e_u^\top e_i`, or :math:`e_u^\top e_i` alone.

  Args:
    users: Embedding of the users.
    items: Embedding of the items.
    mean: The mean rating, :math:`\mu`.
    biases: Whether users and items have a bias :math:`b`.
    rngs: Source of randomness.
  """

  def __init__(
    self,
    users: Any,
    items: Any,
    *,
    mean: float,
    biases: bool = True,
    rngs: nnx.Rngs,
  ):
    self.users = users
    self.items = items
    zeros = nnx.initializers.zeros_init()
    if biases:
      self.user_bias = nnx.Embed(
        users.num_embeddings, 1, embedding_init=zeros, rngs=rngs
      )
      self.item_bias = nnx.Embed(
        items.num_embeddings, 1, embedding_init=zeros, rngs=rngs
      )
    self.mean = nnx.Variable(jnp.float32(mean))

  def loss(
    self,
    positions: Mapping[str, Int[Array, " batch"]],
    ratings: Float[Array, " batch"],
    *,
    l2: float,
    change: Change = dict,
  ) -> tuple[Float[Array, ""], Float[Array, ""]]:
    r"""Returns the loss of a batch, and its mean squared error.

    Args:
      positions: What to look up in each embedding, by the names of `TABLES`.
      ratings: The ratings.
      l2: Weight of :math:`\|e_u\|^2 + \|e_i\|^2 + b_u^2 + b_i^2`, averaged over
        the batch: a symbol is held back as often as it occurs.
      change: What is done to what was looked up, such as dropout.
    """
    parts = change(self._look_up(positions))
    mse = jnp.mean((self.mean[...] + _scores(parts) - ratings) ** 2)
    norms = sum(jnp.mean(jnp.sum(p**2, axis=-1)) for p in parts.values())
    return mse + l2 * norms + self._auxiliary(positions), mse

  def ranking_loss(
    self,
    positions: Mapping[str, Int[Array, "..."]],
    *,
    l2: float,
    change: Change = dict,
  ) -> tuple[Float[Array, ""], Float[Array, ""]]:
    r"""Returns the loss of triplets: a user, an item of theirs, and another.

    Definition (Rendle et al., UAI 2009): :math:`-\log \sigma(s_{u+} -
    s_{u-})` for the scores of both items.

    Args:
      positions: As in :meth:`loss`, with positions [batch] of users, and [2,
        batch] of items: those that users like, then the others.
      l2: Weight of the squared norms of all that a triplet looks up.
      change: What is done to what was looked up, such as dropout.

    Returns:
      The loss, and without the norms.
    """
    first, second = (
      {n: p[i] if n.startswith("item") else p for n, p in positions.items()}
      for i in range(2)
    )
    parts = self._look_up(first)
    # Two lookups: the product of users with a stack takes twice as long.
    for name, part in self._look_up(second, only="item").items():
      parts[name.replace("item", "other")] = part
    parts = change(parts)
    liked, others = _scores(parts), _scores(parts, "other")
    loss = jnp.mean(jax.nn.softplus(others - liked))
    norms = sum(jnp.sum(p**2) for p in parts.values()) / liked.size
    return loss + l2 * norms + self._auxiliary(positions), loss

  def expected_loss(
    self,
    ids: Mapping[str, Int[Array, " batch"]],
    ratings: Float[Array, " batch"],
    *,
    l2: float,
    rates: Mapping[str, float],
  ) -> tuple[Float[Array, ""], Float[Array, ""]]:
    r"""Returns the exact expectation of :meth:`loss` over replaced ids.

    Args:
      ids: The users and items of the batch, by name.
      ratings: The ratings.
      l2: As in :meth:`loss`.
      rates: Probabilities with which a user, and an item, is replaced by any
        other one, along with its bias.

    Returns:
      The loss, and the expected squared error alone.
    """
    vectors = self.vectors()
    rows = {"users": vectors.users, "items": vectors.items}
    if self._has_biases():
      rows["users"], rows["items"] = ops.append_biases(
        **rows, user_bias=vectors.user_bias, item_bias=vectors.item_bias
      )
      ratings = ratings - self.mean[...]
    shared = {
      name: ops.SharedTable(rows=rows[name], rate=rate)
      for name, rate in rates.items()
    }
    errors = ops.expected_squared_error(
      shared["users"],
      shared["items"],
      ratings,
      user_ids=ids["users"],
      item_ids=ids["items"],
    )
    norms = jnp.float32(0)
    for name, bias in (("users", "user_bias"), ("items", "item_bias")):
      squares = jnp.sum(getattr(vectors, name) ** 2, axis=-1)
      squares += getattr(vectors, bias) ** 2
      expected = ops.transition_product(squares, rate=rates[name])
      norms += jnp.mean(expected[ids[name]])
    mse = jnp.mean(errors)
    return mse + l2 * norms + self._auxiliary(ids), mse

  def vectors(self) -> Vectors:
    """Composes all vectors, for evaluation."""

    def rows(name: str) -> Array:
      layer = getattr(self, name)
      return layer(jnp.arange(layer.num_embeddings))

    users, items = rows("users"), rows("items")
    if not self._has_biases():
      biases = [jnp.zeros_like(table[:, 0]) for table in (users, items)]
    else:
      biases = [rows(name)[:, 0] for name in ("user_bias", "item_bias")]
    return Vectors(users, items, biases[0], biases[1], self.mean[...])

  def _has_biases(self) -> bool:
    return hasattr(self, "user_bias")

  def _look_up(
    self, positions: Mapping[str, Array], *, only: str = ""
  ) -> dict[str, Array]:
    """Looks up in all tables, or in those whose names begin in some way."""
    names = TABLES if self._has_biases() else TABLES[:2]
    return {
      name: getattr(self, name)(positions[name])
      for name in names
      if name.startswith(only)
    }

  def _auxiliary(self, positions: Mapping[str, Array]) -> Array:
    users, items = (
      nn.auxiliary_loss(getattr(self, name), positions[name])
      for name in TABLES[:2]
    )
    return users + items


def _scores(parts: Mapping[str, Array], kind: str = "item") -> Array:
  """Returns the products of users and items; adds biases if there are some."""
  scores = jnp.sum(parts["users"] * parts[f"{kind}s"], axis=-1)
  if "user_bias" in parts:
    scores += (parts["user_bias"] + parts[f"{kind}_bias"])[..., 0]
  return scores


def fill_unseen(
  rows: Float[Array, "num_embeddings ..."], unseen: Array
) -> Float[Array, "num_embeddings ..."]:
  """Gives the mean of all other rows to those that were never trained.

  Args:
    rows: Vectors or biases.
    unseen: Whether each row was never seen in training, [num_embeddings].

  >>> print(fill_unseen(jnp.array([1.0, 9.0, 3.0]), jnp.array([0, 1, 0]) > 0))
  [1. 2. 3.]
  """
  where = unseen.reshape(-1, *(1,) * (rows.ndim - 1))
  weight = jnp.maximum(jnp.sum(~unseen), 1).astype(rows.dtype)
  mean = jnp.sum(jnp.where(where, 0, rows), axis=0, keepdims=True) / weight
  return jnp.where(where, mean, rows)


def squared_errors(
  vectors: Vectors, users: Array, items: Array, ratings: Array
) -> Float[Array, " batch"]:
  """Returns the squared error of each rating."""
  return jnp.square(vectors.predict(users, items) - ratings)


mean_squared_error = jax.jit(
  lambda *args: jnp.mean(squared_errors(*args)),
)
