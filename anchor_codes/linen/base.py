"""What the Linen layers share."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen
from jaxtyping import Array, Float, Int

from anchor_codes import tables, typing
from anchor_codes.ops import drawing, indexing, lookups

Dtype = jax.typing.DTypeLike
check_finite_rows = lookups.check_finite_rows
Ids = Int[Array, "*batch"]
Vectors = Float[Array, "*batch features"]
Scores = Float[Array, "*batch num_embeddings"]


class CompactEmbed(linen.Module):
  """Linen twin of :class:`anchor_codes.nn.CompactEmbed`.

  Layers differ in `_declare`, `_lookup`, `_attend` and `_to_table`.
  """

  num_embeddings: int
  features: int
  _: dataclasses.KW_ONLY
  dtype: Dtype | None = None
  param_dtype: Dtype = jnp.float32
  scale: float = 0.1

  def setup(self) -> None:
    """Checks the options and declares the parameters."""
    typing.check_at_least("num_embeddings", self.num_embeddings, 1)
    typing.check_at_least("features", self.features, 1)
    self._declare()

  def __call__(self, inputs: Any) -> Vectors:
    """Looks up one vector for each id."""
    vectors = self._lookup(self._as_ids(inputs))
    return vectors if self.dtype is None else vectors.astype(self.dtype)

  def attend(self, query: Any) -> Scores:
    """Scores all embeddings against queries, on the compact form."""
    query = jnp.asarray(query)
    typing.check_query(query.shape, self.features)
    return self._attend(query)

  def auxiliary_loss(self, inputs: Any) -> Float[Array, ""]:
    """Returns what the layer adds to the loss of the task; usually zero."""
    del inputs
    return jnp.zeros(())

  def to_table(self) -> tables.Table:
    """Returns the artefact: ``layer.apply(variables, method="to_table")``."""
    return self._to_table()

  def _declare(self) -> None:
    raise NotImplementedError

  def _lookup(self, ids: Ids) -> Vectors:
    raise NotImplementedError

  def _attend(self, query: Vectors) -> Scores:
    raise NotImplementedError

  def _to_table(self) -> tables.Table:
    raise NotImplementedError

  def _as_ids(self, inputs: Any) -> Ids:
    return indexing.as_ids(inputs, num_embeddings=self.num_embeddings)

  def _normal(self, name: str, std: float, *shape: int) -> Array:
    init = functools.partial(
      drawing.normal_rows, scale=std, dtype=self.param_dtype
    )
    return self.param(name, init, shape)
