"""Matrix factorisation with biases, over any two embeddings."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
from flax import nnx
from jax import numpy as jnp
from jaxtyping import Array, Float, Int

from anchor_codes import nn

TABLES = ("users", "items", "user_bias", "item_bias")
"""The embeddings of the model, by attribute."""


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
  r"""Predicts ratings from an embedding of users and one of items.

  Definition (Koren, Bell, Volinsky, 2009):
  :math:`\mu + b_u + b_i + e_u^\top e_i`.

  Args:
    users: Embedding of the users.
    items: Embedding of the items.
    mean: The mean rating, :math:`\mu`.
    rngs: Source of randomness.
  """

  def __init__(self, users: Any, items: Any, *, mean: float, rngs: nnx.Rngs):
    self.users = users
    self.items = items
    zeros = nnx.initializers.zeros_init()
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
  ) -> tuple[Float[Array, ""], Float[Array, ""]]:
    r"""Returns the loss of a batch, and its mean squared error.

    Args:
      positions: What to look up in each embedding, by the names of `TABLES`.
      ratings: The ratings.
      l2: Weight of :math:`\|e_u\|^2 + \|e_i\|^2 + b_u^2 + b_i^2`, averaged over
        the batch: a symbol is held back as often as it occurs.
    """
    parts = {name: getattr(self, name)(positions[name]) for name in TABLES}
    biases = parts["user_bias"] + parts["item_bias"]
    products = jnp.sum(parts["users"] * parts["items"], axis=-1)
    error = self.mean[...] + biases[:, 0] + products - ratings
    mse = jnp.mean(error**2)
    norms = sum(jnp.mean(jnp.sum(p**2, axis=-1)) for p in parts.values())
    auxiliary = sum(
      nn.auxiliary_loss(getattr(self, name), positions[name])
      for name in ("users", "items")
    )
    return mse + l2 * norms + auxiliary, mse

  def vectors(self) -> Vectors:
    """Composes all vectors, for evaluation."""

    def rows(name: str) -> Array:
      layer = getattr(self, name)
      return layer(jnp.arange(layer.num_embeddings))

    return Vectors(
      rows("users"),
      rows("items"),
      rows("user_bias")[:, 0],
      rows("item_bias")[:, 0],
      self.mean[...],
    )


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
