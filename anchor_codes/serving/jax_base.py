"""What all tables on a device share: jitted calls over a frozen pytree."""

import dataclasses
import functools
import operator
from typing import Any

import jax
import numpy as np
from jax import core
from jax import numpy as jnp
from jaxtyping import Array, Float, Int, Num

from anchor_codes.ops import indexing
from anchor_codes.tables import pooling
from anchor_codes.typing import check_choice

OUTSIDE = ("nan", "clip")
_BLOCK = 4096  # Rows or ids at a time where there may be many.


def static(**options: Any) -> Any:
  """Returns a field of a table that is no array."""
  return dataclasses.field(metadata={"static": True}, **options)


@dataclasses.dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class JaxTable:
  """A compact table on a device; a frozen pytree of arrays.

  The same vectors as those of the table in NumPy: bit for bit where they are
  gathered, up to rounding where they are summed. All calls are pure and
  jitted, and may be used inside of other jitted functions: hand the table over
  as an argument, so that its arrays are no constants of the program.

  Attributes:
    num_embeddings: Number of rows.
    features: Width of a vector.
    outside: What an id outside the table gives where its value is not known,
      as under ``jax.jit``: 'nan', or 'clip' for the nearest row. One whose
      value is known is an ``IndexError``.
  """

  num_embeddings: int = static()
  features: int = static()
  outside: str = static(default="nan")

  def __repr__(self) -> str:
    return (
      f"{type(self).__name__}(num_embeddings={self.num_embeddings}, "
      f"features={self.features}, nbytes={self.nbytes})"
    )

  @property
  def nbytes(self) -> int:
    """Bytes on the device."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(self))

  def lookup(self, ids: Any) -> Float[Array, "*batch features"]:
    """Looks up one vector for each id.

    Args:
      ids: Integers of any shape.

    Returns:
      float32 vectors.

    Raises:
      ValueError: If the ids are not integers.
      IndexError: If an id is outside the table, and its value is known.
    """
    ids = indexing.as_ids(ids, num_embeddings=self.num_embeddings)
    return lookup_rows(self, ids)

  def bag(
    self, ids: Any, offsets: Any, weights: Any = None, *, mode: str = "sum"
  ) -> Float[Array, "num_bags features"]:
    """Pools the vectors of bags of ids, block by block of ids.

    Args:
      ids: Integers [num_ids].
      offsets: Integers [num_bags], where each bag begins, ascending from 0.
        Where their values are not known, as under ``jax.jit``, wrong ones make
        all bags nan.
      weights: A float for each id, or None for ones; for 'sum' only.
      mode: 'sum', or 'mean' over the ids of the bag.

    Returns:
      float32 vectors; zeros for an empty bag.

    Raises:
      ValueError: If an argument does not fit.
      IndexError: If an id is outside the table, and its value is known.
    """
    check_choice("mode", mode, pooling.MODES)
    ids = indexing.as_ids(ids, num_embeddings=self.num_embeddings)
    if ids.ndim != 1:
      raise ValueError(f"`ids` must be [num_ids], got shape {ids.shape}.")
    if not isinstance(offsets, core.Tracer):
      pooling.bag_sizes(offsets, ids.size)
    else:
      pooling.check_offsets(offsets)
    offsets = jnp.asarray(offsets, jnp.int32)
    if weights is not None:
      if mode != "sum":
        raise ValueError(f"`weights` must be None for the mode {mode!r}.")
      weights = jnp.asarray(weights, jnp.float32)
      if weights.shape != ids.shape:
        raise ValueError(
          f"`weights` must have shape {ids.shape}, one for each id, got "
          f"{weights.shape}."
        )
    return _bag(self, ids, offsets, weights, mode=mode)

  def attend(
    self, query: Float[Any, "*batch features"]
  ) -> Float[Array, "*batch num_embeddings"]:
    """Scores all embeddings against queries, block by block of rows.

    Args:
      query: Floats [..., features].

    Returns:
      The inner products, float32 [..., num_embeddings].

    Raises:
      ValueError: If the query is not `features` wide.
    """
    return _attend(self, self._as_queries("query", query))

  def top_k(
    self, queries: Float[Any, "*batch features"], k: int
  ) -> tuple[Float[Array, "*batch k"], Int[Array, "*batch k"]]:
    """Finds the rows with the highest inner products with queries, exactly.

    Args:
      queries: Floats [..., features].
      k: How many rows to find, 1 to ``num_embeddings``.

    Returns:
      Scores, the highest first, and ids; of equal scores the lower id first.

    Raises:
      ValueError: If the queries are not `features` wide, or `k` is out of
        range.
    """
    if not 1 <= operator.index(k) <= self.num_embeddings:
      raise ValueError(
        f"`k` must be between 1 and the {self.num_embeddings} rows of the "
        f"table, got {k}."
      )
    return _top_k(self, self._as_queries("queries", queries), k=k)

  def _as_queries(self, name: str, queries: Any) -> Float[Array, "..."]:
    queries = jnp.asarray(queries, jnp.float32)
    if queries.shape[-1:] != (self.features,):
      raise ValueError(
        f"`{name}` must be [..., {self.features}], got shape {queries.shape}."
      )
    return queries

  def compose(self, ids: Int[Array, " size"]) -> Float[Array, "size features"]:
    """Returns the vectors of ids that are in range, as float32."""
    raise NotImplementedError

  def score(
    self,
    ids: Int[Array, " size"],
    queries: Float[Array, "num_queries features"],
  ) -> Float[Array, "num_queries size"]:
    """Returns the scores of rows that are in range; of whole vectors here."""
    return queries @ self.compose(ids).T


def take(array: Num[Array, "..."], ids: Int[Array, " size"]) -> Array:
  """Gathers rows whose ids are in range: no clamping, no filling."""
  return array.at[ids].get(mode="promise_in_bounds")


@jax.jit
def lookup_rows(
  table: JaxTable, ids: Int[Array, "*batch"]
) -> Float[Array, "*batch features"]:
  """Looks up ids whose values are not checked, as :meth:`JaxTable.lookup`.

  Args:
    table: A table on a device.
    ids: Ids of any shape.

  Returns:
    float32 vectors.
  """
  flat = ids.reshape(-1)
  vectors = table.compose(jnp.clip(flat, 0, table.num_embeddings - 1))
  if table.outside == "nan":
    size = table.num_embeddings
    vectors = indexing.nan_outside(vectors, flat, num_embeddings=size)
  return vectors.reshape(*ids.shape, table.features)


@functools.partial(jax.jit, static_argnames="mode")
def _bag(
  table: JaxTable,
  ids: Int[Array, " num_ids"],
  offsets: Int[Array, " num_bags"],
  weights: Float[Array, " num_ids"] | None,
  *,
  mode: str,
) -> Float[Array, "num_bags features"]:
  num_bags, size = offsets.shape[0], ids.shape[0]
  bags = jnp.searchsorted(
    offsets, jnp.arange(size, dtype=jnp.int32), side="right"
  )
  if weights is None:
    weights = jnp.ones(size, jnp.float32)
  # Padding belongs to a bag that there is not.
  pad = lambda a, value: jnp.pad(
    a, (0, -size % _BLOCK), constant_values=value
  ).reshape(-1, _BLOCK)
  blocks = pad(ids, 0), pad(bags - 1, num_bags), pad(weights, 0)

  def add(pooled: Array, block: tuple[Array, ...]) -> tuple[Array, None]:
    some, of_bag, weight = block
    vectors = weight[:, None] * lookup_rows(table, some)
    return pooled.at[of_bag].add(vectors, mode="drop"), None

  start = jnp.zeros((num_bags, table.features), jnp.float32)
  pooled, _ = jax.lax.scan(add, start, blocks)
  ends = jnp.append(offsets, jnp.int32(size))
  counts = jnp.diff(ends)
  # The ids before the first bag would belong to none.
  pooled = jnp.where((ends[0] == 0) & jnp.all(counts >= 0), pooled, jnp.nan)
  if mode == "sum":
    return pooled
  return pooled / jnp.maximum(counts, 1).astype(jnp.float32)[:, None]


@jax.jit
def _attend(
  table: JaxTable, query: Float[Array, "*batch features"]
) -> Float[Array, "*batch num_embeddings"]:
  size = table.num_embeddings
  flat = query.reshape(-1, table.features)
  scores = jax.lax.map(
    lambda ids: table.score(jnp.minimum(ids, size - 1), flat), _row_ids(size)
  )
  scores = jnp.moveaxis(scores, 0, 1)
  width = scores.shape[1] * scores.shape[2]
  scores = scores.reshape(flat.shape[0], width)[:, :size]
  return scores.reshape(*query.shape[:-1], size)


@functools.partial(jax.jit, static_argnames="k")
def _top_k(
  table: JaxTable, queries: Float[Array, "*batch features"], *, k: int
) -> tuple[Float[Array, "*batch k"], Int[Array, "*batch k"]]:
  size, least = table.num_embeddings, jnp.finfo(jnp.float32).min
  flat = queries.reshape(-1, table.features)

  def merge(best: Any, ids: Int[Array, " block"]) -> tuple[Any, None]:
    scores = table.score(jnp.minimum(ids, size - 1), flat)
    # A damaged row, with scores that are `nan`, is never the best, but it goes
    # before what is no row.
    scores = jnp.where(scores > least, scores, least)
    scores = jnp.where((ids < size)[None, :], scores, -jnp.inf)
    values = jnp.concatenate([best[0], scores], axis=1)
    found = jnp.broadcast_to(ids[None, :], scores.shape)
    found = jnp.concatenate([best[1], found], axis=1)
    # The first of equal ones wins, and the ids so far are the lower ones.
    values, places = jax.lax.top_k(values, k)
    return (values, jnp.take_along_axis(found, places, axis=1)), None

  shape = flat.shape[0], k
  nothing = jnp.full(shape, -jnp.inf, jnp.float32), jnp.zeros(shape, jnp.int32)
  (values, ids), _ = jax.lax.scan(merge, nothing, _row_ids(size))
  values = jnp.where(values > least, values, -jnp.inf)
  shape = (*queries.shape[:-1], k)
  return values.reshape(shape), ids.reshape(shape)


def _row_ids(size: int) -> Int[Array, "num_blocks block"]:
  """Returns all ids in blocks; the last one is filled up with more."""
  block = min(_BLOCK, size)
  ids = np.arange(-(-size // block) * block, dtype=np.int32)
  return jnp.asarray(ids.reshape(-1, block))
