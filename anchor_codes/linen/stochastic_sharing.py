"""Linen twin of stochastic shared embeddings."""

import dataclasses
from typing import Any

from flax import linen
from jaxtyping import Array, Int

from anchor_codes.ops import graphs, indexing, lookups


class StochasticSharing(linen.Module):
  """Linen twin of :class:`anchor_codes.nn.StochasticSharing`.

  The graph is a constant of the program, not a variable.

  >>> import jax, jax.numpy as jnp
  >>> sharing = StochasticSharing(100, rate=0.01)
  >>> ids = sharing.apply({}, jnp.arange(3), rngs={"sse": jax.random.key(0)})
  >>> print(ids)
  [0 1 2]
  """

  num_embeddings: int
  _: dataclasses.KW_ONLY
  rate: float = 0.01
  graph: graphs.Graph | None = None
  neighbor_ratio: float = 1.0
  deterministic: bool = False

  def __call__(self, inputs: Any) -> Int[Array, "*batch"]:
    """Returns the ids to look up in place of `inputs`."""
    options = {
      name: getattr(self, name)
      for name in ("num_embeddings", "rate", "graph", "neighbor_ratio")
    }
    lookups.check_sharing_options(**options)
    ids = indexing.as_ids(inputs, num_embeddings=self.num_embeddings)
    if self.deterministic or self.rate == 0:
      return ids
    return lookups.exchange_ids(self.make_rng("sse"), ids, **options)
