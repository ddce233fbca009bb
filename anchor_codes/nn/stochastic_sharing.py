"""Stochastic shared embeddings (Wu et al., NeurIPS 2019)."""

from typing import Any

from flax import nnx
from jaxtyping import Array, Int

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
    graph: Neighbours of each symbol, or None for SSE-SE.
    neighbor_ratio: How much more likely a neighbour is than a non-neighbour.
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
    graph: graphs.Graph | None = None,
    neighbor_ratio: float = 1.0,
    deterministic: bool = False,
    rngs: nnx.Rngs | None = None,
  ):
    lookups.check_sharing_options(
      num_embeddings=num_embeddings,
      rate=rate,
      graph=graph,
      neighbor_ratio=neighbor_ratio,
    )
    self.num_embeddings = num_embeddings
    self.rate = rate
    # A plain attribute belongs to the static structure of a module; arrays are
    # to be arguments of a compiled step.
    self.graph = None if graph is None else nnx.Variable(graph)
    self.neighbor_ratio = neighbor_ratio
    self.deterministic = deterministic
    self.rngs = None if rngs is None else rngs.fork()

  def __call__(
    self, inputs: Any, *, rngs: nnx.Rngs | None = None
  ) -> Int[Array, "*batch"]:
    """Returns the ids to look up in place of `inputs`.

    Args:
      inputs: Ids of any shape.
      rngs: Source of randomness, in place of the one given at construction.

    Returns:
      Ids of the same shape.

    Raises:
      ValueError: If there is no source of randomness.
      IndexError: If an id is outside the table, and its value is known.
    """
    ids = indexing.as_ids(inputs, num_embeddings=self.num_embeddings)
    if self.deterministic or self.rate == 0:
      return ids
    rngs = self.rngs if rngs is None else rngs
    if rngs is None:
      raise ValueError("`rngs` must be given, here or at construction.")
    return lookups.exchange_ids(
      rngs.sse(),
      ids,
      num_embeddings=self.num_embeddings,
      rate=self.rate,
      graph=None if self.graph is None else self.graph.get_value(),
      neighbor_ratio=self.neighbor_ratio,
    )
