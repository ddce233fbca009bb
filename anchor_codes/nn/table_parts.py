"""Layers made out of tables: what each layer takes from which table."""

from typing import Any, NamedTuple, Self, TypeVar

import jax
import numpy as np
from flax import nnx
from jax import numpy as jnp

from anchor_codes import tables
from anchor_codes.nn import base
from anchor_codes.tables import parts

T = TypeVar("T", bound=tables.Table)
_SHARED = ("codebooks", "projection", "bias", "kernels", "biases", "states")


class Parts(NamedTuple):
  """What a table tells about a layer.

  Attributes:
    options: Arguments of the layer, besides the two sizes.
    arrays: Its variables by name.
  """

  options: dict[str, Any]
  arrays: dict[str, Any]


class FromTable:
  """Layers that go on from a table, as from one that was compressed."""

  @classmethod
  def from_table(
    cls, table: tables.Table, *, rngs: nnx.Rngs | None = None, **options: Any
  ) -> Self:
    """Returns a layer with the vectors of a table, to be trained on.

    Distil the original into it by :class:`~anchor_codes.nn.GuidedEmbed` with
    the original as its `guide`, or train it with the task.

    Args:
      table: A table of the kind of the layer, such as :meth:`to_table` or
        :func:`anchor_codes.tables.load` returns; integers with scales become
        floats. Its vocabulary is left behind.
      rngs: Source of the randomness of training, seed 0 if None; nothing of
        the start is random.
      **options: Arguments of the layer that the table does not tell, such as
        `dtype`, `param_dtype` or `temperature`.

    Returns:
      The layer; :meth:`to_table` gives the same vectors back.

    Raises:
      ValueError: If no such layer has the vectors of the table.
    """
    found = cls._parts(table)
    # Any: the layers differ in their arguments.
    make: Any = cls
    sizes = table.num_embeddings, table.features
    layer = make(*sizes, **found.options, **options, rngs=rngs or nnx.Rngs(0))
    dtype = options.get("param_dtype", jnp.float32)
    layer._fill(found.arrays, dtype)
    return layer

  @classmethod
  def _parts(cls, table: tables.Table) -> Parts:
    """Reads what the layer needs of a table."""
    raise NotImplementedError

  def _fill(self, arrays: dict[str, Any], dtype: base.Dtype) -> None:
    """Sets the variables: integers as they are, floats in a type."""
    for name, array in arrays.items():
      is_float = np.issubdtype(array.dtype, np.floating)
      value = jnp.asarray(array, dtype if is_float else None)
      old = getattr(self, name, None)
      kind = type(old) if isinstance(old, nnx.Variable) else nnx.Param
      # `data`: what was None does not become a variable without it.
      setattr(self, name, nnx.data(kind(value)))


class FromAnchors(FromTable):
  """Reads the anchors of an :class:`~anchor_codes.tables.AnchorTable`.

  Slots and masks become sparse rows with as many non-zeros as the longest row
  has, dense rows stay so.
  """

  @classmethod
  def _parts(cls, table: tables.Table) -> Parts:
    source = _checked(cls, table, tables.AnchorTable)
    anchors = parts.to_float(source.anchors, source.anchor_scales)
    options: dict[str, Any] = {"num_anchors": source.num_anchors}
    if source.indices is None and source.masks is None:
      transform = parts.to_float(source.weights, source.weight_scales)
      options["num_nonzeros"] = None
      return Parts(options, {"anchors": anchors, "transform": transform})
    slots = parts.anchor_slots(source)
    options["num_nonzeros"] = slots.indices.shape[1]
    arrays = {
      "anchors": anchors,
      "indices": slots.indices.astype(np.int32),
      "weights": parts.to_float(slots.weights, slots.scales),
    }
    return Parts(options, arrays)


class FromFactors(FromTable):
  """Reads a table of low rank: dense rows and what they are multiplied with.

  That is an :class:`~anchor_codes.tables.AnchorTable` with dense rows, or a
  :class:`~anchor_codes.tables.ProjectedTable` without a bias.
  """

  @classmethod
  def _parts(cls, table: tables.Table) -> Parts:
    if isinstance(table, tables.ProjectedTable) and table.bias is None:
      factors = table.inner.to_dense()
      scales = table.projection_scales
      projection = parts.to_float(table.projection, scales)
    else:
      source = _checked(cls, table, tables.AnchorTable)
      if source.indices is not None or source.masks is not None:
        raise ValueError(
          "`table` must have dense rows, got sparse ones: load it by "
          "`AnchorEmbed.from_table`."
        )
      factors = parts.to_float(source.weights, source.weight_scales)
      projection = parts.to_float(source.anchors, source.anchor_scales)
    options = {"rank": len(projection)}
    return Parts(options, {"factors": factors, "projection": projection})


class FromGivenCodes(FromTable):
  """Reads the codes of a :class:`~anchor_codes.tables.CodeTable`."""

  @classmethod
  def _parts(cls, table: tables.Table) -> Parts:
    source = _checked(cls, table, tables.CodeTable)
    options = {**_code_options(source), "given_codes": source.codes}
    return Parts(options, _code_arrays(source))

  def _fill(self, arrays: dict[str, Any], dtype: base.Dtype) -> None:
    super()._fill(arrays, dtype)
    # A bias that the composition alone would not have is trained, too.
    self._names = tuple(dict.fromkeys((*self._names, *arrays)))

  _names: tuple[str, ...]


class FromCodes(FromTable):
  """Reads a :class:`~anchor_codes.tables.CodeTable` into logits."""

  @classmethod
  def from_table(
    cls,
    table: tables.Table,
    *,
    margin: float = 1.0,
    logit_norm: bool = False,
    rngs: nnx.Rngs | None = None,
    **options: Any,
  ) -> Self:
    """Returns a layer whose logits choose the codes of a table.

    Args:
      table: A :class:`~anchor_codes.tables.CodeTable`; see also
        :meth:`FromTable.from_table`.
      margin: How much larger the logit of a digit is than the others, which
        are 0. Training changes the codes of a small margin sooner.
      logit_norm: As in :class:`~anchor_codes.nn.KDEmbed`, but off: entries
        that all symbols or none choose could change their codes in training.
      rngs: Source of the randomness of training, seed 0 if None.
      **options: Other arguments of the layer.

    Returns:
      The layer.

    Raises:
      ValueError: If the table is of another kind, `margin` is not positive, or
        an output norm is asked for: tables have theirs folded in.
    """
    if not 0 < margin < float("inf"):
      raise ValueError(f"`margin` must be positive and finite, got {margin}.")
    if options.get("output_norm"):
      raise ValueError("`output_norm` must be False for a layer of a table.")
    options |= {"logit_norm": logit_norm, "rngs": rngs}
    layer = super().from_table(table, **options)
    layer.logits[...] *= jnp.asarray(margin, layer.logits[...].dtype)
    return layer

  @classmethod
  def _parts(cls, table: tables.Table) -> Parts:
    source = _checked(cls, table, tables.CodeTable)
    logits = jax.nn.one_hot(source.codes, source.codebook_size)
    arrays = {**_code_arrays(source), "logits": logits}
    return Parts(_code_options(source), arrays)

  logits: base.RowParam


def _checked(layer: type, table: tables.Table, kind: type[T]) -> T:
  if not isinstance(table, kind):
    raise ValueError(
      f"`table` must be of {kind.__name__} for {layer.__name__}, got "
      f"{type(table).__name__}."
    )
  return table


def _code_options(table: tables.CodeTable) -> dict[str, Any]:
  """Returns the options that all layers with codes have."""
  positions, _, width = table.codebooks.shape
  options: dict[str, Any] = {
    "code_length": table.code_length,
    "codebook_size": table.codebook_size,
    "composition": table.composition,
    "shared_codebook": positions < table.code_length,
  }
  if table.composition in ("linear", "lstm"):
    options["code_features"] = width
  if table.composition == "mlp" and table.biases is not None:
    options |= {"hidden": width, "num_layers": len(table.biases)}
  if table.states is not None:
    options["hidden"] = table.states.shape[1]
  return options


def _code_arrays(table: tables.CodeTable) -> dict[str, np.ndarray]:
  """Returns what the codes share, as float32."""
  arrays = {name: getattr(table, name) for name in _SHARED}
  floats = {
    name: parts.to_float(array, table.scales if name == "codebooks" else None)
    for name, array in arrays.items()
    if array is not None
  }
  return floats
