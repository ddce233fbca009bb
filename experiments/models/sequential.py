"""Recommenders of the next item: SASRec, and SSE-PT with a vector per user."""

from typing import Any

import jax
from flax import nnx
from jax import numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from anchor_codes import nn, ops
from experiments.models import attention


class SequentialRecommender(nnx.Module):
  r"""Reads the items of a user, and predicts the next one.

  Definition (Wu et al., "SSE-PT", RecSys 2020; without users: Kang and McAuley,
  "Self-Attentive Sequential Recommendation", 2018): position :math:`t` reads
  :math:`[\sqrt{d_i}\, v_{i_t}; \sqrt{d_u}\, u] + p_t`, attention blocks make of
  it :math:`F_t`, and item :math:`j` comes next with the logit
  :math:`F_t^\top [v_j; \sqrt{d_u}\, u]`.

  Args:
    items: Embedding of the items, any layer; row 0 is padding and never read.
    users: Embedding of the users, None for SASRec.
    max_length: Length of the sequences.
    num_blocks: Number of attention blocks.
    num_heads: Number of heads of each.
    dropout: Rate of all dropout.
    sharing: What exchanges ids in training, kept for its graph.
    rngs: Source of randomness of the start.
  """

  def __init__(
    self,
    items: Any,
    users: Any = None,
    *,
    max_length: int,
    num_blocks: int = 2,
    num_heads: int = 1,
    dropout: float = 0.2,
    sharing: Any = None,
    rngs: nnx.Rngs,
  ):
    self.items = items
    self.users = users
    self.sharing = sharing
    self.rate = dropout
    features = items.features + (users.features if users is not None else 0)
    init = nnx.initializers.glorot_uniform()
    self.positions = nnx.Param(init(rngs.params(), (max_length, features)))
    self.blocks = nnx.List(
      attention.AttentionBlock(
        features, num_heads=num_heads, dropout=dropout, rngs=rngs
      )
      for _ in range(num_blocks)
    )
    self.norm = attention.layer_norm(features, rngs)

  def read(
    self,
    items: Float[Array, "batch length item_features"],
    users: Float[Array, "batch users user_features"] | None,
    where: Bool[Array, "batch length"],
    *,
    key: Array | None = None,
  ) -> Float[Array, "batch length features"]:
    """Returns what the model knows after each item.

    Args:
      items: Vectors of the items, as they are looked up.
      users: One vector for each sequence, or each position; None for SASRec.
      where: Which positions are no padding.
      key: Source of the dropout, None outside of training.
    """
    keys = (
      jax.random.split(key, len(self.blocks) + 1) if key is not None else None
    )
    parts = [items * items.shape[-1] ** 0.5]
    if users is not None:
      parts.append(_scaled_users(users, items.shape[1]))
    hidden = jnp.concatenate(parts, axis=-1) + self.positions[...][None]
    hidden = attention.byte_dropout(
      None if keys is None else keys[-1], hidden, self.rate
    )
    hidden = jnp.where(where[..., None], hidden, 0)
    for number, block in enumerate(self.blocks):
      hidden = block(hidden, where, key=None if keys is None else keys[number])
    return self.norm(hidden)

  def logits(
    self,
    hidden: Float[Array, "batch length features"],
    items: Float[Array, "batch length item_features"],
    users: Float[Array, "batch users user_features"] | None,
  ) -> Float[Array, "batch length"]:
    """Returns the logit of one item at each position."""
    width = items.shape[-1]
    logits = jnp.sum(hidden[..., :width] * items, axis=-1)
    if users is not None:
      scaled = _scaled_users(users, items.shape[1])
      logits += jnp.sum(hidden[..., width:] * scaled, axis=-1)
    return logits

  def loss(
    self,
    items: Int[Array, "3 batch length"],
    users: Int[Array, "2 batch users"] | None,
    where: Bool[Array, "batch length"],
    *,
    l2: float = 0.0,
    key: Array | None = None,
  ) -> tuple[Float[Array, ""], Float[Array, ""]]:
    r"""Returns the loss of a batch, whole and without what is added to it.

    Args:
      items: What is read, what comes next, and negatives.
      users: Whose vectors are read, and whose vectors score; None for SASRec.
      where: Which positions have a target.
      l2: Weight of the squared norms: the mean over positions for the three
        items, and over sequences for the user.
      key: Source of the dropout, None outside of training.
    """
    vectors = look_up(self.items, items)
    vectors = jnp.where(where[None, ..., None], vectors, 0)
    reading = scoring = None
    auxiliary = nn.auxiliary_loss(self.items, items)
    if users is not None:
      reading, scoring = look_up(self.users, users)
      auxiliary += nn.auxiliary_loss(self.users, users)
    hidden = self.read(vectors[0], reading, where, key=key)
    loss = next_item_loss(
      self.logits(hidden, vectors[1], scoring),
      self.logits(hidden, vectors[2], scoring),
      where,
    )
    if l2:
      number = jnp.maximum(jnp.sum(where), 1).astype(vectors.dtype)
      auxiliary += l2 * jnp.sum(vectors**2) / number
      if reading is not None:
        auxiliary += l2 * jnp.mean(jnp.sum(reading**2, axis=-1))
    return loss + auxiliary, loss

  def scores(
    self,
    inputs: Int[Array, "batch length"],
    users: Int[Array, " batch"],
    table: Float[Array, "num_rows item_features"],
  ) -> Float[Array, "batch num_rows"]:
    """Scores all items as the next one, without the part that all share.

    Args:
      inputs: Ids of items, 0 for padding.
      users: Ids of users; not read by SASRec.
      table: The vectors of all items, see :meth:`item_table`.

    Returns:
      Logits but for a constant of each user, which changes no rank.
    """
    vectors = None if self.users is None else self.users(users)[:, None]
    hidden = self.read(table[inputs], vectors, inputs > 0)[:, -1]
    return hidden[:, : table.shape[-1]] @ table.T

  def item_table(self) -> Float[Array, "num_rows item_features"]:
    """Composes the vectors of all items, padding first."""
    return self.items(jnp.arange(self.items.num_embeddings))


def _scaled_users(users: Array, length: int) -> Array:
  """Spreads vectors of users over sequences, and scales them."""
  shape = (users.shape[0], length, users.shape[-1])
  return jnp.broadcast_to(users * users.shape[-1] ** 0.5, shape)


def look_up(
  layer: Any, ids: Int[Array, "*batch"]
) -> Float[Array, "*batch features"]:
  """Looks up ids; composes each row once where there are more ids than rows.

  Args:
    layer: Any layer from ids to vectors.
    ids: Ids within its table.
  """
  if isinstance(layer, nnx.Embed) or ids.size <= layer.num_embeddings:
    return layer(ids)
  return ops.take_rows(layer(jnp.arange(layer.num_embeddings)), ids)


def next_item_loss(
  positive: Float[Array, "batch length"],
  negative: Float[Array, "batch length"],
  where: Bool[Array, "batch length"],
) -> Float[Array, ""]:
  r"""Returns the mean loss of telling the next item from another one.

  Definition (Kang and McAuley, 2018): :math:`-\log \sigma(s_+) - \log(1 -
  \sigma(s_-))`, the mean over all positions with a target.

  Args:
    positive: Logits of the items that came next.
    negative: Logits of items that the user has never taken up.
    where: Which positions count.

  >>> zeros = jnp.zeros((1, 2))
  >>> print(next_item_loss(zeros, zeros, jnp.array([[False, True]])).round(3))
  1.386
  """
  losses = jax.nn.softplus(-positive) + jax.nn.softplus(negative)
  number = jnp.maximum(jnp.sum(where), 1).astype(losses.dtype)
  return jnp.sum(jnp.where(where, losses, 0)) / number
