"""Matrices of very small or large values: fitted at another power of two.

The scales and means of most recipes are float16. Beside a matrix of values that
these do not hold well, its multiple by a power of two is fitted, and the power
goes back into the parts of the table, of which some are float32 then.
"""

import dataclasses
from typing import Any

import numpy as np

from anchor_codes import tables
from anchor_codes.compression import recipes

# Between these values float16 keeps scales of int8 and means well enough.
_LEAST, _MOST = 2.0**-8, 2.0**12


@dataclasses.dataclass(frozen=True)
class Magnitude:
  """How large the values of a matrix are.

  Attributes:
    largest: The largest absolute value.

  >>> Magnitude(1.5).exponent, Magnitude(1.5 * 2**40).exponent
  (0, 41)
  """

  largest: float

  @property
  def exponent(self) -> int:
    """The power of two that is taken out, 0 where float16 does as it is."""
    if not self.largest or _LEAST <= self.largest < _MOST:
      return 0
    return int(np.frexp(self.largest)[1])

  def check(self, recipe: Any) -> None:
    """Refuses a recipe whose values have no scale that could be float32.

    Raises:
      ValueError: If the matrix is too small or too large for it.
    """
    if isinstance(recipe, recipes.Summed):
      self.check(recipe.first)
      self.check(recipe.second)
    limits = np.finfo(np.float16)
    least, most = float(limits.smallest_normal), float(limits.max)
    is_held = not self.largest or least <= self.largest <= most
    if recipe == recipes.Scalars("float16") and not is_held:
      raise ValueError(
        f"`matrix` must have a largest value between {least:.1e} and {most:g} "
        f"for the recipe 'float16', got {self.largest:.1e}: multiply it by a "
        f"power of two, such as 2.0**{-np.frexp(self.largest)[1]}, or take "
        "'int8', which has scales of its own."
      )

  def holds(self, recipe: Any) -> bool:
    """Whether :meth:`check` has nothing to say."""
    try:
      self.check(recipe)
    except ValueError:
      return False
    return True

  def nbytes(self, recipe: Any, num_embeddings: int, features: int) -> int:
    """Returns the bytes of the table of a recipe, at this scale."""
    nbytes = recipe.nbytes(num_embeddings, features)
    if self.exponent:
      nbytes += _wide_bytes(recipe, num_embeddings, features)
    return nbytes

  def reduce(self, vectors: np.ndarray) -> np.ndarray:
    """Returns vectors without the power of two, float32."""
    vectors = np.asarray(vectors).astype(np.float32, copy=False)
    return np.ldexp(vectors, -self.exponent) if self.exponent else vectors

  def restore(self, table: tables.Table) -> tables.Table:
    """Returns a table times the power of two."""
    return _times(table, self.exponent) if self.exponent else table


def _times(table: tables.Table, exponent: int) -> tables.Table:
  power = lambda array: _power(array, exponent)
  replace = dataclasses.replace
  match table:
    case tables.DenseTable(scales=None):
      return replace(table, rows=power(table.rows).astype(table.rows.dtype))
    case tables.DenseTable():
      return replace(table, scales=power(table.scales))
    case tables.AnchorTable():
      return replace(table, anchor_scales=power(table.anchor_scales))
    case tables.CodeTable():
      bias = power(table.bias)
      return replace(table, scales=power(table.scales), bias=bias)
    case tables.ProjectedTable():
      scales, bias = power(table.projection_scales), power(table.bias)
      return replace(table, projection_scales=scales, bias=bias)
    case tables.ScaledTable():
      # Its range is of logarithms.
      more = np.array([exponent * np.log(2), 0], np.float32)
      norm_range = np.add(table.tensors["norm_range"], more)
      return replace(table, norm_range=norm_range)
    case tables.SumTable():
      parts = _times(table.first, exponent), _times(table.second, exponent)
      return tables.SumTable(*parts)
  raise TypeError(f"No recipe makes a {type(table).__name__}.")


def _power(array: np.ndarray | None, exponent: int) -> Any:
  """Returns an array times a power of two, float32."""
  if array is None:
    return None
  return np.ldexp(array.astype(np.float32), exponent)


def _wide_bytes(recipe: Any, num_embeddings: int, features: int) -> int:
  """Returns what float32 takes more than float16, in the parts it is put in."""
  match recipe:
    case recipes.Summed():
      both = (recipe.first, recipe.second)
      return sum(_wide_bytes(r, num_embeddings, features) for r in both)
    case recipes.Scalars():
      return 0 if recipe.dtype == "float16" else 2 * num_embeddings
    case recipes.LowRank() | recipes.RotatedCodes() | recipes.AdditiveCodes():
      return 2 * features  # The mean.
  return 0  # These have scales in float32, or norms.
