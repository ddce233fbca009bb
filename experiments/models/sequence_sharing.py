"""Stochastic shared embeddings in batches of sequences."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
from flax import nnx
from jax import numpy as jnp
from jaxtyping import Array, Int

from anchor_codes import ops, typing

FIRST_ITEM = 1
"""Ids below are padding, which is never exchanged and never drawn."""


class Exchanged(NamedTuple):
  """The ids to look up; those of users have a second axis, of 1 or the length.

  Attributes:
    users: Users whose vectors the inputs are joined with.
    inputs: Items that the model reads.
    target_users: Users whose vectors score the targets and negatives.
    targets: Items that it learns to expect.
  """

  users: Int[Array, "batch users"]
  inputs: Int[Array, "batch length"]
  target_users: Int[Array, "batch users"]
  targets: Int[Array, "batch length"]


class SequenceSharing(nnx.Module):
  """Exchanges users, input items and target items, each at a rate of its own.

  The draws are independent (Wu et al., NeurIPS 2019, eq. 4). Padding stays as
  it is. Negatives are no business of this class: they stay too.

  Args:
    num_users: Number of users.
    num_items: Number of items, without padding.
    user_rate: Probability that a user is exchanged.
    item_rate: The same for an item that is read.
    target_rate: The same for an item that is to be predicted.
    per_position: Whether users are drawn for each position, reading and scoring
      apart; else once for each sequence, as in the published code.
    graphs: Neighbours of the "users" and of the "items", item 1 first; a table
      without a graph is shared as by SSE-SE.
    neighbor_ratio: How many times as likely as another node a neighbour is.
    official: Whether ids are exchanged as in the published code, see
      :func:`official_exchange`; `target_rate` is not used then.

  Raises:
    ValueError: If an option is out of range.
  """

  def __init__(
    self,
    num_users: int,
    num_items: int,
    *,
    user_rate: float,
    item_rate: float,
    target_rate: float,
    per_position: bool = False,
    graphs: Mapping[str, Any] | None = None,
    neighbor_ratio: float = 1.0,
    official: bool = False,
  ):
    rates = {"user": user_rate, "item": item_rate, "target": target_rate}
    for name, rate in rates.items():
      typing.check_rate(f"{name}_sharing_rate", rate)
    if official and (per_position or graphs):
      raise ValueError(
        "`official_sampler` draws users once for each sequence, and without a "
        "graph."
      )
    self.sizes = {"users": num_users, "items": num_items}
    for name, graph in (graphs or {}).items():
      if graph.num_nodes != self.sizes[name]:
        raise ValueError(
          f"the graph of the {name} must have {self.sizes[name]} nodes, got "
          f"{graph.num_nodes}."
        )
    self.rates = rates
    self.per_position = per_position
    self.official = official
    self.neighbor_ratio = neighbor_ratio
    # Variables, so that the arrays are arguments of a compiled step.
    graphs = {name: jax.tree.flatten(g) for name, g in (graphs or {}).items()}
    self.forms = {name: form for name, (_, form) in graphs.items()}
    self.arrays = nnx.Dict(
      {
        name: nnx.List(nnx.Variable(array) for array in arrays)
        for name, (arrays, _) in graphs.items()
      }
    )

  def __call__(self, key: Array, batch: Any) -> Exchanged:
    """Exchanges the ids of a batch.

    Args:
      key: Source of randomness.
      batch: A :class:`~experiments.sequence_batches.Batch`.
    """
    keys = jax.random.split(key, 4)
    users, scoring = self._share_users(keys[0], keys[1], batch)
    if self.official:
      inputs, targets = official_exchange(
        keys[2],
        batch.inputs,
        batch.targets,
        num_items=self.sizes["items"],
        rate=self.rates["item"],
      )
    else:
      share = functools.partial(self._share, "items", low=FIRST_ITEM)
      inputs = share(keys[2], batch.inputs, rate=self.rates["item"])
      targets = share(keys[3], batch.targets, rate=self.rates["target"])
    return Exchanged(users, inputs, scoring, targets)

  def _share_users(
    self, key: Array, other_key: Array, batch: Any
  ) -> tuple[Array, Array]:
    share = functools.partial(self._share, "users", rate=self.rates["user"])
    users = batch.users[:, None]
    if not self.per_position:
      shared = share(key, users)
      return shared, shared
    users = jnp.broadcast_to(users, batch.inputs.shape)
    return share(key, users), share(other_key, users)

  def _share(
    self, name: str, key: Array, ids: Array, *, rate: float, low: int = 0
  ) -> Array:
    """Exchanges ids of a table, along its graph if it has one."""
    if name not in self.forms:
      return ops.sse_se_transition(
        key,
        ids,
        num_embeddings=self.sizes[name],
        rate=rate,
        low=low,
        exclude_self=not self.official,
      )
    arrays = [array[...] for array in self.arrays[name]]
    return ops.sse_graph_transition(
      key,
      ids,
      jax.tree.unflatten(self.forms[name], arrays),
      rate=rate,
      neighbor_ratio=self.neighbor_ratio,
      low=low,
    )


def unshared(batch: Any) -> Exchanged:
  """Returns the ids of a batch as they are."""
  users = batch.users[:, None]
  return Exchanged(users, batch.inputs, users, batch.targets)


def official_exchange(
  key: Array,
  inputs: Int[Array, "batch length"],
  targets: Int[Array, "batch length"],
  *,
  num_items: int,
  rate: float,
) -> tuple[Int[Array, "batch length"], Int[Array, "batch length"]]:
  r"""Exchanges items as the published code of SSE-PT does, for comparison.

  One coin for each position makes its input *and* its target new items, drawn
  from all, the old ones included; and a new input is the target of the position
  before it as well. So an input is drawn anew with probability :math:`p`, a
  target with :math:`1 - (1 - p)^2`, the last one with :math:`p`. The published
  method has independent rates.

  Args:
    key: Source of randomness.
    inputs: Items, 0 for padding, which stays.
    targets: The item after each input.
    num_items: Number of items.
    rate: The probability :math:`p`.

  Returns:
    The new inputs and targets.

  >>> ids = jnp.array([[0, 5, 7]]), jnp.array([[0, 7, 9]])
  >>> official_exchange(jax.random.key(0), *ids, num_items=9, rate=0.0)
  (Array([[0, 5, 7]], dtype=int32), Array([[0, 7, 9]], dtype=int32))
  """
  coin_key, input_key, target_key = jax.random.split(key, 3)
  known = inputs >= FIRST_ITEM
  coins = known & (jax.random.uniform(coin_key, inputs.shape) < rate)
  draw = lambda key: jax.random.randint(
    key, inputs.shape, FIRST_ITEM, num_items + FIRST_ITEM, inputs.dtype
  )
  new_inputs = jnp.where(coins, draw(input_key), inputs)
  carried = jnp.concatenate([new_inputs[:, 1:], targets[:, -1:]], axis=1)
  carried = jnp.where(known, carried, targets)
  return new_inputs, jnp.where(coins, draw(target_key), carried)
