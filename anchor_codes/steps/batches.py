"""The ids in a batch: which fields hold those of which table."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jax import core
from jax import numpy as jnp
from jaxtyping import Array

from anchor_codes import typing
from anchor_codes.steps import row_steps


@dataclasses.dataclass(frozen=True, kw_only=True)
class RowOptions:
  """How the rows of one table are trained.

  Attributes:
    fields: Names of the fields of a batch that hold ids of the table, of any
      shape each; dots lead into nested mappings, as in "user.id".
    optimizer: The optimiser of the rows: any that treats all rows alike and by
      themselves.
    padding_id: What stands for no symbol in these fields: 0, a row that is
      there but that the loss masks, or a negative number. It stays as it is,
      so that a loss may compare ids with it. None if there is no such id, or
      if weights in another field tell what counts.

  Raises:
    ValueError: If there are no fields, or `padding_id` is positive.

  >>> import optax
  >>> RowOptions(fields=("item", "history"), optimizer=optax.sgd(0.1)).fields
  ('item', 'history')
  """

  fields: Sequence[str]
  optimizer: row_steps.RowOptimizer
  padding_id: int | None = None

  def __post_init__(self) -> None:
    if isinstance(self.fields, str) or not self.fields:
      raise ValueError(
        "`fields` must be a sequence of at least one name, got "
        f"{self.fields!r}."
      )
    if self.padding_id is not None and self.padding_id > 0:
      raise ValueError(
        "`padding_id` must be 0 or negative, since other rows change their "
        f"positions, got {self.padding_id}."
      )


def read_field(batch: Any, field: str) -> Any:
  """Returns a field of a batch.

  Args:
    batch: A mapping of arrays and mappings.
    field: The keys that lead to the field, joined by dots.

  Raises:
    ValueError: If the batch has no such field.

  >>> read_field({"user": {"id": 7}}, "user.id")
  7
  """
  found = batch
  for key in field.split("."):
    if not isinstance(found, Mapping) or key not in found:
      raise ValueError(
        f"the batch must have the field {field!r}, got {_describe(batch)}."
      )
    found = found[key]
  return found


def with_fields(batch: Any, values: Mapping[str, Any]) -> Any:
  """Returns a batch with other values in some of its fields.

  Args:
    batch: A mapping of arrays and mappings, which stays as it is.
    values: The new values by name of the field.

  >>> with_fields({"user": {"id": 7}, "y": 1}, {"user.id": 0})
  {'user': {'id': 0}, 'y': 1}
  """
  for field, value in values.items():
    batch = _with_field(batch, field.split("."), value)
  return batch


def check_ids(batch: Any, options: RowOptions, *, num_embeddings: int) -> None:
  """Checks the ids of one table, as far as their values are known.

  Args:
    batch: The batch.
    options: Which fields hold the ids, and what stands for none.
    num_embeddings: Number of rows of the table.

  Raises:
    ValueError: If a field is not there, or holds no integers.
    IndexError: If an id is outside the table.
  """
  for field in options.fields:
    ids = read_field(batch, field)
    try:
      if isinstance(ids, core.Tracer):
        typing.check_integer_ids(ids)
      else:
        ids, padding = np.asarray(ids), options.padding_id
        # Row 0 stands in for padding, which may be outside.
        known = ids if padding is None else np.where(ids == padding, 0, ids)
        typing.check_ids(known.astype(ids.dtype), num_embeddings)
    except (ValueError, IndexError) as error:
      raise type(error)(f"field {field!r}: {error}") from None


def join_ids(batch: Any, options: RowOptions) -> Array:
  """Returns all ids of a table in a batch, in one axis.

  Args:
    batch: The batch.
    options: Which fields hold the ids.

  Returns:
    The ids of the fields one after the other, as int32; one that this cannot
    hold becomes the largest int32, which is the id of no row. Where 0 stands
    for padding it comes first: then its position is 0, too.
  """
  parts = [_int32_ids(read_field(batch, f)).ravel() for f in options.fields]
  first = [jnp.zeros(1, jnp.int32)] if options.padding_id == 0 else []
  return jnp.concatenate([*first, *parts])


def split_positions(
  positions: Array, batch: Any, options: RowOptions
) -> dict[str, Array]:
  """Gives each field its positions, in the order of :func:`join_ids`.

  Args:
    positions: Positions of the joined ids in a small table.
    batch: The batch with the ids.
    options: Which fields hold the ids, and what stands for none.

  Returns:
    For each field an array of its shape; padding is as in the batch.
  """
  begin, found = int(options.padding_id == 0), {}
  for field in options.fields:
    ids = _int32_ids(read_field(batch, field))
    part = positions[begin : begin + ids.size].reshape(ids.shape)
    begin += ids.size
    if options.padding_id is not None:
      part = jnp.where(ids == options.padding_id, options.padding_id, part)
    found[field] = part
  return found


def num_ids(batch: Any, options: RowOptions) -> int:
  """Returns how many ids of a table a batch looks up."""
  shapes = [np.shape(read_field(batch, field)) for field in options.fields]
  return sum(int(np.prod(shape)) for shape in shapes)


def _int32_ids(ids: Any) -> Array:
  """Casts ids; one that int32 cannot hold is no other one, nor padding."""
  if not isinstance(ids, Array):
    ids = np.asarray(ids)  # As they are: JAX would have cut 64 bits down to 32.
  limits = np.iinfo(np.int32)
  if not np.can_cast(ids.dtype, np.int32):
    xp: Any = np if isinstance(ids, np.ndarray) else jnp
    # From above alone where no id is negative: JAX compares with no number that
    # is outside of the type.
    ids = xp.minimum(ids, limits.max)
    if ids.dtype.kind == "i":
      ids = xp.where(ids < limits.min, limits.max, ids)
  return jnp.asarray(ids, jnp.int32)


def _with_field(batch: Any, keys: Sequence[str], value: Any) -> Any:
  key, *rest = keys
  new = _with_field(batch[key], rest, value) if rest else value
  return {**batch, key: new}


def _describe(batch: Any) -> str:
  if not isinstance(batch, Mapping):
    return f"a {type(batch).__name__}"
  return f"{list(batch)}"
