"""Stochastic shared embeddings (Wu et al., NeurIPS 2019)."""

from collections.abc import Sequence
from typing import Any

from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from anchor_codes.ops import graphs, indexing, lookups


class StochasticSharing(nnx.Module):
  """Exchanges ids at random in training: one line in front of any embedding.

  Definition (Wu et al., 2019): with probability `rate` an id becomes another
  id of the same table; any other with the same probability (SSE-SE), or, given
  a graph, a neighbour `neighbor_ratio` times as likely as a non-neighbour
  (SSE-Graph). Out of training ids pass as they are; nothing is rescaled.

  Args:
    num_embeddings: Number of symbols.
    rate: Probability that an id is replaced.
    graph: Neighbours of each symbol that is not special, in the order of their
      ids, or classes of them; None for SSE-SE.
    neighbor_ratio: How much more likely a neighbour is than a non-neighbour.
    low: First ordinary id. Those below, such as that of padding, are special:
      neither replaced nor drawn.
    special_ids: More special ids, wherever they are.
    exclude_self: Whether an id that is replaced becomes another one. If not, it
      may be drawn itself, as in the code that the paper released.
    per_row: Whether all occurrences of an id in a call become the same one: one
      map of all symbols is drawn, which takes their number of steps.
    counts: How often each symbol that is not special occurs. Ids are drawn in
      proportion to that, in place of uniformly; not with a graph.
    deterministic: Whether the layer is out of training. Set by
      ``model.train()`` and ``model.eval()``.
    rngs: Source of randomness; its stream `sse` is used.

  Raises:
    ValueError: If an option is outside its range.

  >>> import jax.numpy as jnp
  >>> sharing = StochasticSharing(100, rate=0.01, rngs=nnx.Rngs(sse=0))
  >>> sharing.eval()
  >>> print(sharing(jnp.array([3, 1, 4])))
  [3 1 4]
  """

  def __init__(
    self,
    num_embeddings: int,
    *,
    rate: float = 0.01,
    graph: graphs.AnyGraph | None = None,
    neighbor_ratio: float = 1.0,
    low: int = 0,
    special_ids: Sequence[int] = (),
    exclude_self: bool = True,
    per_row: bool = False,
    counts: Any = None,
    deterministic: bool = False,
    rngs: nnx.Rngs | None = None,
  ):
    frequencies = lookups.as_frequencies(counts)
    lookups.check_sharing_options(
      num_embeddings=num_embeddings,
      rate=rate,
      graph=graph,
      neighbor_ratio=neighbor_ratio,
      low=low,
      special_ids=special_ids,
      counts=frequencies,
    )
    self.num_embeddings = num_embeddings
    self.rate = rate
    # A plain attribute belongs to the static structure of a module; arrays are
    # to be arguments of a compiled step.
    self.graph = None if graph is None else nnx.Variable(graph)
    self.counts = None if frequencies is None else nnx.Variable(frequencies)
    self.neighbor_ratio = neighbor_ratio
    self.low = low
    self.special_ids = tuple(map(int, special_ids))
    self.exclude_self = exclude_self
    self.per_row = per_row
    self.deterministic = deterministic
    self.rngs = None if rngs is None else rngs.fork()

  def __call__(
    self,
    inputs: Any,
    *,
    rate: float | Float[Array, ""] | None = None,
    where: Bool[Array, "*batch"] | None = None,
    rngs: nnx.Rngs | None = None,
  ) -> Int[Array, "*batch"]:
    """Returns the ids to look up in place of `inputs`.

    Args:
      inputs: Ids of any shape.
      rate: Probability that an id is replaced, in place of that of the layer.
        It may be traced: a schedule does not compile again.
      where: Positions that may change, all by default.
      rngs: Source of randomness, in place of the one given at construction.

    Returns:
      Ids of the same shape.

    Raises:
      ValueError: If there is no source of randomness, or the rate is a number
        outside its range.
      IndexError: If an id is outside the table, and its value is known.
    """
    ids = indexing.as_ids(inputs, num_embeddings=self.num_embeddings)
    rate = self.rate if rate is None else rate
    if self.deterministic or lookups.never(rate):
      return ids
    rngs = self.rngs if rngs is None else rngs
    if rngs is None:
      raise ValueError("`rngs` must be given, here or at construction.")
    return lookups.exchange_ids(
      rngs.sse(),
      ids,
      num_embeddings=self.num_embeddings,
      rate=rate,
      graph=None if self.graph is None else self.graph.get_value(),
      neighbor_ratio=self.neighbor_ratio,
      low=self.low,
      special_ids=self.special_ids,
      exclude_self=self.exclude_self,
      per_row=self.per_row,
      counts=None if self.counts is None else self.counts.get_value(),
      where=where,
    )
