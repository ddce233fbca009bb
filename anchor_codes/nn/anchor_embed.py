"""Embeddings that are mixtures of a few anchors (Liang et al., ICLR 2021)."""

from typing import Any

import jax
from flax import nnx
from jax import numpy as jnp
from jaxtyping import Array, Float, Int

from anchor_codes import tables
from anchor_codes.nn import base, table_parts
from anchor_codes.ops import anchor_starts, indexing
from anchor_codes.ops import anchors as anchor_ops


class AnchorEmbed(table_parts.FromAnchors, base.CompactEmbed):
  r"""Embeds symbols as sparse, non-negative mixtures of a few anchors.

  Definition (Liang et al., 2021): :math:`e_i = \sum_k T_{ik} A_k`. The paper
  trains a dense :math:`T`; by default this layer keeps the `num_nonzeros`
  largest weights of each row, so that training needs less memory than the full
  table. A step over :meth:`select` still sees the gradient of all anchors, so
  a row can take up any of them.

  Parameters: `anchors` [num_anchors, features]; the rows are `indices` and
  `weights` [num_embeddings, num_nonzeros], or `transform`
  [num_embeddings, num_anchors] when dense.

  Args:
    num_embeddings: Number of symbols.
    features: Width of a vector.
    num_anchors: Number of anchors.
    num_nonzeros: Weights that a row keeps, 1 to `num_anchors`; None for dense
      rows.
    dtype: Type of the vectors.
    param_dtype: Type of the parameters.
    scale: Standard deviation of an entry of the vectors at the start.
    weight_scale: Weights start uniform between 0 and this, and the anchors so
      much larger; smaller weights let a row change its anchors sooner.
    start: 'random', or 'antipodal' for anchors in pairs of opposite sign,
      whose dense rows start as a table without a constraint on its signs.
    rngs: Source of randomness of the start.

  Raises:
    ValueError: If a size is not positive, `num_nonzeros` too large, or `start`
      unknown.

  >>> embed = AnchorEmbed(100, 8, num_anchors=10, num_nonzeros=2,
  ...                     rngs=nnx.Rngs(0))
  >>> embed(jnp.array([[1, 2, 3]])).shape
  (1, 3, 8)
  """

  def __init__(
    self,
    num_embeddings: int,
    features: int,
    *,
    num_anchors: int,
    num_nonzeros: int | None = 8,
    dtype: base.Dtype | None = None,
    param_dtype: base.Dtype = jnp.float32,
    scale: float = 0.1,
    weight_scale: float = 1.0,
    start: str = "random",
    rngs: nnx.Rngs,
  ):
    super().__init__(num_embeddings, features, dtype=dtype)
    rows, anchors = anchor_starts.start_anchors(
      rngs.params(),
      num_embeddings=num_embeddings,
      features=features,
      num_anchors=num_anchors,
      num_nonzeros=num_nonzeros,
      scale=scale,
      weight_scale=weight_scale,
      start=start,
    )
    self.num_nonzeros = num_nonzeros
    self.anchors = nnx.Param(anchors.astype(param_dtype))
    if num_nonzeros is None:
      self.transform = base.RowParam(rows.astype(param_dtype))
    else:
      self.indices = base.Code(rows.indices)
      self.weights = base.RowParam(rows.weights.astype(param_dtype))

  @property
  def num_anchors(self) -> int:
    """Number of anchors."""
    # From the array itself: anchors come and go while a model is trained.
    return self.anchors[...].shape[0]

  @property
  def rows(self) -> anchor_ops.SparseRows:
    """The sparse rows."""
    return anchor_ops.SparseRows(self.indices[...], self.weights[...])

  def _lookup(
    self, ids: Int[Array, "*batch"]
  ) -> Float[Array, "*batch features"]:
    if self.num_nonzeros is None:
      return anchor_ops.anchor_lookup(
        self.transform[...], self.anchors[...], ids
      )
    return anchor_ops.sparse_anchor_lookup(self.rows, self.anchors[...], ids)

  def _attend(
    self, query: Float[Array, "*batch features"]
  ) -> Float[Array, "*batch num_embeddings"]:
    """Scores all embeddings: the query meets each anchor only once."""
    anchors = self.anchors[...]
    if self.num_nonzeros is None:
      return anchor_ops.anchor_attend(self.transform[...], anchors, query)
    return anchor_ops.sparse_anchor_attend(self.rows, anchors, query)

  def to_table(self) -> tables.AnchorTable:
    """Returns the artefact: anchors, and the rows as they were trained.

    Dense rows that have become sparse are kept by their non-zeros, if that is
    smaller.
    """
    anchors = base.to_numpy(self.anchors)
    if self.num_nonzeros is None:
      transform = base.to_numpy(self.transform)
      # NumPy has no bfloat16.
      dtype = "float16" if transform.dtype == jnp.float16 else "float32"
      return tables.AnchorTable.from_transform(anchors, transform, dtype=dtype)
    return tables.AnchorTable(
      anchors,
      weights=base.to_numpy(self.weights),
      indices=base.to_numpy(self.indices),
    )

  def select(self, ids: Int[Array, " size"]) -> "AnchorEmbed":
    """Returns a layer with *dense* rows, for their gradient to see all anchors.

    Args:
      ids: Distinct ids; one outside the table stands for padding.

    Returns:
      The small table.
    """
    if self.num_nonzeros is None:
      return super().select(ids)
    # Zeros for padding: whatever sums over the small table would spread `nan`.
    take = lambda a: indexing.take_rows(a, ids, fill_value=0.0)
    rows = anchor_ops.SparseRows(*jax.tree.map(take, self.rows))
    selected = nnx.clone(self)
    del selected.indices, selected.weights
    selected.num_embeddings, selected.num_nonzeros = ids.shape[0], None
    selected.transform = base.RowParam(
      anchor_ops.expand_rows(rows, num_anchors=self.num_anchors)
    )
    return selected

  def write(self, ids: Int[Array, " size"], selected: Any) -> None:
    """Writes rows back; sparse rows keep their largest weights."""
    if self.num_nonzeros is None:
      return super().write(ids, selected)
    # The step has moved all weights of a row; there is room for the largest.
    rows = anchor_ops.project_rows(
      selected.transform[...], num_nonzeros=self.num_nonzeros
    )
    put = lambda a, new: indexing.put_rows(a, ids, new)
    self.indices[...] = put(self.indices[...], rows.indices)
    self.weights[...] = put(self.weights[...], rows.weights)
    return None
