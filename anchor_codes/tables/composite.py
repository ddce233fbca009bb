"""Tables that are made out of other tables."""

import abc
import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np

from anchor_codes.tables import base

MAX_DEPTH = 4  # Composites around a table that is none.


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Composite(base.Table):
  """A table that computes its vectors from those of other tables.

  Each of them is a table of any kind, without a vocabulary, since the symbols
  are those of the table around it. In the file the names of its tensors and
  options follow its own name and a point, as in ``inner.rows``.
  """

  _CHILDREN: ClassVar[tuple[str, ...]] = ()

  @property
  def children(self) -> dict[str, base.Table]:
    """The tables that this one is made of, by name."""
    return {name: getattr(self, name) for name in self._CHILDREN}

  @property
  def depth(self) -> int:
    """How many composites are nested, this one included."""
    depths = [
      child.depth
      for child in self.children.values()
      if isinstance(child, Composite)
    ]
    return 1 + max(depths, default=0)

  @property
  def tensors(self) -> dict[str, np.ndarray]:
    """The arrays of the file by name, without the vocabulary."""
    arrays = super().tensors
    for name, child in self.children.items():
      arrays |= {f"{name}.{n}": array for n, array in child.tensors.items()}
    return arrays

  @property
  def metadata(self) -> dict[str, str]:
    """What the file tells beside the tensors and the checksums."""
    metadata = super().metadata
    for name, child in self.children.items():
      for key, value in child.metadata.items():
        if key not in ("format", "format_version"):  # Those of the file.
          metadata[f"{name}.{key}"] = value
    return metadata

  @property
  def row_names(self) -> tuple[str, ...]:
    """The names of the tensors that hold rows; the others are shared."""
    names = [
      f"{name}.{row_name}"
      for name, child in self.children.items()
      for row_name in child.row_names
    ]
    return (*super().row_names, *names)

  @property
  def num_params(self) -> int:
    """Trained numbers of the tables, and those that are added to them."""
    own = [getattr(self, name) for name in (*self._ROWS, *self._SHARED)]
    return sum(child.num_params for child in self.children.values()) + sum(
      array.size for array in own if array is not None
    )

  @classmethod
  def from_tensors(
    cls,
    tensors: Mapping[str, np.ndarray],
    metadata: Mapping[str, str],
    **options: Any,
  ) -> Self:
    """Builds the table, as :meth:`Table.from_tensors` does."""
    # Imported here: that module knows all kinds, this one among them.
    from anchor_codes.tables import loading

    # All levels at once, before the first one is built.
    kinds = (key for key in metadata if key.endswith(".kind"))
    _check_depth(max((key.count(".") for key in kinds), default=0))
    verify, own = options.get("verify", True), dict(tensors)
    children = {}
    for name in cls._CHILDREN:
      prefix = f"{name}."
      parts = {n: own.pop(n) for n in list(own) if n.startswith(prefix)}
      with _naming(name):
        children[name] = loading.build(
          _stripped(parts, prefix), _stripped(metadata, prefix), verify=verify
        )
    return super().from_tensors(own, metadata, **children, **options)

  def _validate(self, verify: bool) -> None:
    for name, child in self.children.items():
      if not isinstance(child, base.Table):
        raise ValueError(f"`{name}` must be a table, got {type(child)}.")
      if child.vocabulary is not None:
        raise ValueError(
          f"`{name}` must have no vocabulary: give it to the table around it."
        )
    _check_depth(self.depth)
    self._validate_composite(verify)

  @abc.abstractmethod
  def _validate_composite(self, verify: bool) -> None:
    """Checks the fields beside the tables, as `_validate` does."""

  def _joined_rows(self, others: Sequence[Any]) -> dict[str, Any]:
    children = {
      name: child._join([other.children[name] for other in others])
      for name, child in self.children.items()
    }
    return super()._joined_rows(others) | children


@contextlib.contextmanager
def _naming(name: str) -> Iterator[None]:
  """Says in which of several tables something is wrong."""
  try:
    yield
  except ValueError as error:
    raise type(error)(f"In {name!r}: {error}") from None


def _stripped(values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
  return {
    name.removeprefix(prefix): value
    for name, value in values.items()
    if name.startswith(prefix)
  }


def _check_depth(depth: int) -> None:
  if depth > MAX_DEPTH:
    raise ValueError(
      f"Tables must be nested at most {MAX_DEPTH} deep, got {depth}."
    )
