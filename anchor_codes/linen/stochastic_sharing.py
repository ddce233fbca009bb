"""Linen twin of stochastic shared embeddings."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from flax import linen
from jaxtyping import Array, Bool, Float, Int

from anchor_codes.ops import graphs, indexing, lookups


class StochasticSharing(linen.Module):
  """Linen twin of :class:`anchor_codes.nn.StochasticSharing`.

  The graph and the counts are constants of the program, not variables.

  >>> import jax, jax.numpy as jnp
  >>> sharing = StochasticSharing(100, rate=0.01)
  >>> ids = sharing.apply({}, jnp.arange(3), rngs={"sse": jax.random.key(0)})
  >>> print(ids)
  [0 1 2]
  """

  num_embeddings: int
  _: dataclasses.KW_ONLY
  rate: float = 0.01
  graph: graphs.AnyGraph | None = None
  neighbor_ratio: float = 1.0
  low: int = 0
  special_ids: Sequence[int] = ()
  exclude_self: bool = True
  per_row: bool = False
  counts: Any = None
  deterministic: bool = False

  def __call__(
    self,
    inputs: Any,
    *,
    rate: float | Float[Array, ""] | None = None,
    where: Bool[Array, "*batch"] | None = None,
  ) -> Int[Array, "*batch"]:
    """Returns the ids to look up in place of `inputs`."""
    options: dict[str, Any] = {
      "num_embeddings": self.num_embeddings,
      "graph": self.graph,
      "neighbor_ratio": self.neighbor_ratio,
      "low": self.low,
      "special_ids": self.special_ids,
      "counts": lookups.as_frequencies(self.counts),
    }
    lookups.check_sharing_options(rate=self.rate, **options)
    ids = indexing.as_ids(inputs, num_embeddings=self.num_embeddings)
    rate = self.rate if rate is None else rate
    if self.deterministic or lookups.never(rate):
      return ids
    return lookups.exchange_ids(
      self.make_rng("sse"),
      ids,
      rate=rate,
      where=where,
      exclude_self=self.exclude_self,
      per_row=self.per_row,
      **options,
    )
