"""What all compact embedding layers share; a layer holds no arithmetic."""

from typing import Any, Self

import jax
import numpy as np
from flax import nnx
from jax import numpy as jnp
from jaxtyping import Array, Float, Int

from anchor_codes import tables, typing
from anchor_codes.ops import indexing, lookups

Dtype = jax.typing.DTypeLike

# Here for the layers: before rows become codes, which hide a `nan`.
check_finite_rows = lookups.check_finite_rows


class RowParam(nnx.Param):
  """A trained array with one record for each symbol along its first axis."""


# The name is that of the collection of the Linen twins.
@nnx.register_variable_name("codes")
class Code(nnx.Variable):
  """Integers with one record for each symbol; no gradient reaches them."""


@nnx.register_variable_name("given")
class GivenRow(nnx.Variable):
  """Given floats with one record for each symbol, which are not trained."""


def is_row(path: tuple[Any, ...], variable: Any) -> bool:
  """Tells whether a variable has one record for each symbol.

  A filter for ``flax.nnx.split`` and ``flax.nnx.state``; the table of a plain
  ``flax.nnx.Embed`` counts as rows too.

  >>> layer = nnx.Embed(5, 2, rngs=nnx.Rngs(0))
  >>> [path for path, _ in nnx.to_flat_state(nnx.state(layer, is_row))]
  [('embedding',)]
  """
  kind = getattr(variable, "type", type(variable))
  rows = issubclass(kind, RowParam | Code | GivenRow)
  return rows or path[-1] == "embedding"


def is_trained_row(path: tuple[Any, ...], variable: Any) -> bool:
  """Tells whether a variable is a row, see :func:`is_row`, that is trained.

  >>> is_trained_row(("codes",), Code(jnp.zeros((5, 2), jnp.int32)))
  False
  """
  kind = getattr(variable, "type", type(variable))
  return is_row(path, variable) and issubclass(kind, nnx.Param)


class CompactEmbed(nnx.Module):
  """Base of the layers that stand where ``flax.nnx.Embed`` stood.

  A layer is *rows* (one record for each symbol), a *shared* part, and a pure
  function that composes them. Layers differ in :meth:`_lookup`, :meth:`_attend`
  and :meth:`to_table`.

  Attributes:
    num_embeddings: Number of symbols.
    features: Width of a vector.
    dtype: Type of the vectors, that of the parameters if None.
  """

  def __init__(
    self, num_embeddings: int, features: int, *, dtype: Dtype | None = None
  ):
    typing.check_at_least("num_embeddings", num_embeddings, 1)
    typing.check_at_least("features", features, 1)
    self.num_embeddings = num_embeddings
    self.features = features
    self.dtype = dtype

  def __call__(self, inputs: Any) -> Float[Array, "*batch features"]:
    """Looks up one vector for each id.

    Args:
      inputs: Integers of any shape. Under a transformation an id outside the
        table gives ``nan``, as in ``flax.nnx.Embed``.

    Returns:
      The vectors.

    Raises:
      ValueError: If the ids are not integers.
      IndexError: If an id is outside the table, and its value is known.
    """
    ids = indexing.as_ids(inputs, num_embeddings=self.num_embeddings)
    vectors = self._lookup(ids)
    return vectors if self.dtype is None else vectors.astype(self.dtype)

  def attend(self, query: Any) -> Float[Array, "*batch num_embeddings"]:
    """Scores all embeddings against queries, on the compact form.

    Args:
      query: Vectors of the width of the embeddings: an array or nested lists.

    Returns:
      The inner product with each embedding, in the type of the query; integers
      count as floats of the type of the parameters.

    Raises:
      ValueError: If the queries have another width.
    """
    query = jnp.asarray(query)
    typing.check_query(query.shape, self.features)
    return self._attend(query)

  def to_table(self) -> tables.Table:
    """Returns the trained layer as an artefact that needs NumPy alone."""
    raise NotImplementedError

  def auxiliary_loss(self, inputs: Any) -> Float[Array, ""]:
    """Returns what the layer adds to the loss of the task; usually zero."""
    del inputs
    return jnp.zeros(())

  def select(self, ids: Int[Array, " size"]) -> Self:
    """Returns the layer over some of its rows: a small table for a batch.

    Differentiate with respect to its rows, update them, and hand it back to
    :meth:`write`: a step then costs what its batch costs.

    Args:
      ids: Distinct ids; one outside the table stands for padding.

    Returns:
      A layer whose row ``i`` is row ``ids[i]`` of this one.

    Raises:
      ValueError: If the layer has no rows, as those that hash ids.
    """
    return _select(self, ids)

  def write(self, ids: Int[Array, " size"], selected: "CompactEmbed") -> None:
    """Writes the rows of a small table from :meth:`select` back, in place."""
    _write(self, ids, selected)

  def _lookup(
    self, ids: Int[Array, "*batch"]
  ) -> Float[Array, "*batch features"]:
    raise NotImplementedError

  def _attend(
    self, query: Float[Array, "*batch features"]
  ) -> Float[Array, "*batch num_embeddings"]:
    raise NotImplementedError


def to_numpy(value: nnx.Variable | Array) -> np.ndarray:
  """Returns the value of a variable as a NumPy array of its own."""
  return np.asarray(jax.device_get(jnp.asarray(value[...])))


def select_rows(layer: Any, ids: Int[Array, " size"]) -> Any:
  """Returns a layer over some of its rows, see :meth:`CompactEmbed.select`.

  Args:
    layer: A layer of this package, or a ``flax.nnx.Embed``.
    ids: Distinct ids; one outside the table stands for padding.

  Returns:
    A layer whose row ``i`` is row ``ids[i]`` of `layer`.

  >>> embed = nnx.Embed(5, 2, rngs=nnx.Rngs(0))
  >>> select_rows(embed, jnp.array([3, 1])).embedding.shape
  (2, 2)
  """
  if isinstance(layer, CompactEmbed):
    return layer.select(ids)
  return _select(layer, ids)


def write_rows(layer: Any, ids: Int[Array, " size"], selected: Any) -> None:
  """Writes the rows of a small table from :func:`select_rows` back, in place.

  Args:
    layer: A layer of this package, or a ``flax.nnx.Embed``.
    ids: The ids that were selected.
    selected: The small table.

  >>> layer, ids = nnx.Embed(5, 2, rngs=nnx.Rngs(0)), jnp.array([3])
  >>> small = select_rows(layer, ids)
  >>> small.embedding[...] = jnp.ones((1, 2))
  >>> write_rows(layer, ids, small)
  >>> print(layer(jnp.array(3)))
  [1. 1.]
  """
  if isinstance(layer, CompactEmbed):
    layer.write(ids, selected)
  else:
    _write(layer, ids, selected)


def auxiliary_loss(layer: Any, inputs: Any) -> Float[Array, ""]:
  """Returns what a layer adds to the loss; zero for a ``flax.nnx.Embed``.

  Args:
    layer: A layer of this package, or a ``flax.nnx.Embed``.
    inputs: The ids of the batch.

  >>> layer = nnx.Embed(5, 2, rngs=nnx.Rngs(0))
  >>> print(auxiliary_loss(layer, jnp.array([1, 2])))
  0.0
  """
  if isinstance(layer, CompactEmbed):
    return layer.auxiliary_loss(inputs)
  return jnp.zeros(())


def to_table(layer: Any) -> tables.Table:
  """Returns a trained layer as an artefact that needs NumPy alone.

  Args:
    layer: A layer of this package, or a ``flax.nnx.Embed``.

  Raises:
    ValueError: If it is another layer.

  >>> to_table(nnx.Embed(5, 2, rngs=nnx.Rngs(0))).nbytes
  40
  """
  if isinstance(layer, CompactEmbed):
    return layer.to_table()
  if not hasattr(layer, "embedding"):
    raise ValueError(
      "`layer` must be a layer of this package or a `flax.nnx.Embed`, got "
      f"{type(layer).__name__}."
    )
  return tables.DenseTable(to_numpy(layer.embedding))


def _select(layer: Any, ids: Int[Array, " size"]) -> Any:
  graphdef, rows, shared = nnx.split(layer, is_row, ...)
  if not rows:
    raise ValueError(
      f"{type(layer).__name__} has no rows to select: train it as a whole."
    )
  # Zeros for padding: whatever sums over the small table would spread `nan`.
  take = lambda a: indexing.take_rows(a, ids, fill_value=0.0)
  selected = nnx.merge(graphdef, jax.tree.map(take, rows), shared)
  selected.num_embeddings = ids.shape[0]
  return selected


def _write(layer: Any, ids: Int[Array, " size"], selected: Any) -> None:
  put = lambda a, rows: indexing.put_rows(a, ids, rows)
  rows, new_rows = nnx.state(layer, is_row), nnx.state(selected, is_row)
  nnx.update(layer, jax.tree.map(put, rows, new_rows))
