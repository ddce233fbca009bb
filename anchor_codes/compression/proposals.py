"""Which sizes of a recipe are worth a try under a byte budget."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np

from anchor_codes import accounting
from anchor_codes.compression import recipes
from anchor_codes.compression.points import Points
from anchor_codes.compression.recipes import Recipe
from anchor_codes.compression.scaling import Magnitude

CODEBOOK_SIZES = (16, 64, 256)
# Of each of these two widths are tried: those which the spectrum speaks for, of
# all components and of a part of them.
_ROTATED_SIZES = (16, 32, 64, 128, 256)
_ADDITIVE_SIZES = (16, 32, 64, 256)
_NARROW = 0.55  # Share of the components that a narrow code keeps.
_LEAST_USE = 0.6  # Share of the budget below which sizes are not tried.


_RecipeT = TypeVar("_RecipeT", bound=Recipe)


def candidates(
  recipe: str,
  points: Points,
  *,
  num_embeddings: int,
  budget: int,
  magnitude: Magnitude | None = None,
) -> list[Recipe]:
  """Lists what to try of what was asked for.

  Args:
    recipe: 'auto', one of :data:`FAMILIES`, or a recipe with sizes.
    points: Rows of the matrix, whose spectrum tells which sizes are good.
    num_embeddings: Rows of the whole matrix.
    budget: Bytes of the table.
    magnitude: How large its values are, if that matters.

  Raises:
    ValueError: If the recipe is unknown or does not suit the matrix, or nothing
      fits the budget.
  """
  room = _Room(
    num_embeddings, points.features, budget, magnitude or Magnitude(1)
  )
  if recipe == "auto":
    found = [r for family in AUTO for r in _fitting(family, room, points)]
  elif recipe in FAMILIES:
    found = _fitting(recipe, room, points)
    # Sizes that leave most of a large budget over are not proposed.
    budget = min(budget, accounting.dense_bytes(num_embeddings, room.features))
    while not found and budget:
      found = _fitting(recipe, room.of(budget), points)
      budget //= 2
  else:
    parsed = recipes.parse(recipe)
    room.magnitude.check(parsed)
    found = [r for r in [parsed] if room.holds(r)]
  if not found:
    raise ValueError(_why_nothing(recipe, room, points))
  return found


def propose(
  family: str, points: Points, *, num_embeddings: int, budget: int
) -> list[Recipe]:
  """Lists sizes of a family that fit into a budget.

  Args:
    family: One of :data:`FAMILIES`.
    points: Rows of the matrix, whose spectrum tells which sizes are good.
    num_embeddings: Rows of the whole matrix.
    budget: Bytes of the table.

  Returns:
    Recipes of at most `budget` bytes; empty if none is.
  """
  room = _Room(num_embeddings, points.features, budget, Magnitude(1))
  return _fitting(family, room, points)


def _fitting(family: str, room: "_Room", points: Points) -> list[Recipe]:
  return [r for r in FAMILIES[family](room, points) if room.holds(r)]


def _why_nothing(recipe: str, room: "_Room", points: Points) -> str:
  """Returns the message for a recipe of which nothing can be made."""
  sizes = f"{room.num_embeddings} x {room.features}"
  is_family = recipe in FAMILIES
  if is_family and not any(
    _fitting(recipe, room.of(2**k), points) for k in range(60)
  ):
    return (
      f"`recipe` must suit the matrix, got {recipe!r}, which proposes no sizes "
      f"for {sizes}: there are too few rows to learn from. Name the sizes, "
      "such as 'pq:2x4' or 'anchors:5x2', or take 'scalars'."
    )
  least = recipes.parse("int2" if is_family or recipe == "auto" else recipe)
  return (
    f"`budget` must be larger: no recipe of {recipe!r} makes a table of "
    f"{sizes} in {room.budget} bytes; '{least}' takes {room.nbytes(least)}."
  )


@dataclasses.dataclass(frozen=True)
class _Room:
  """What there is room for."""

  num_embeddings: int
  features: int
  budget: int
  magnitude: Magnitude

  def of(self, budget: int) -> "_Room":
    return dataclasses.replace(self, budget=budget)

  def for_units(self) -> "_Room":
    """Returns what norms in uint8 leave over, for vectors of length 1."""
    budget = self.budget - self.num_embeddings - 8
    return dataclasses.replace(self, budget=budget, magnitude=Magnitude(1))

  def nbytes(self, recipe: Recipe) -> int:
    return self.magnitude.nbytes(recipe, self.num_embeddings, self.features)

  def holds(self, recipe: Recipe) -> bool:
    fits = self.nbytes(recipe) <= self.budget
    return fits and self.magnitude.holds(recipe)

  def largest(
    self, make: Callable[[int], _RecipeT], most: int
  ) -> Iterator[_RecipeT]:
    """Yields the recipe of the largest size that fits, if there is one."""
    low, high = 0, most
    while low < high:  # The bytes of a recipe rise with its size.
      middle = (low + high + 1) // 2
      low, high = (
        (middle, high) if self.holds(make(middle)) else (low, middle - 1)
      )
    if low:
      yield make(low)


def _scalars(room: _Room, points: Points) -> list[Recipe]:
  del points
  found: list[Recipe] = [
    recipes.Scalars(dtype) for dtype in ("float16", "int8", "int4", "int2")
  ]
  return [recipe for recipe in found if room.holds(recipe)][:1]


def _low_rank(room: _Room, points: Points) -> Iterator[Recipe]:
  for dtype in ("int8", "int4"):
    make = lambda rank, dtype=dtype: recipes.LowRank(rank, dtype)
    yield from room.largest(make, points.features)


def _product(room: _Room, points: Points) -> list[Recipe]:
  features = points.features
  parts = [n for n in range(1, features + 1) if features % n == 0]
  found = [
    [recipes.ProductCodes(length, size) for length in parts]
    for size in _codebook_sizes(room)
  ]
  fitting = [[r for r in row if room.holds(r)][-1:] for row in found]
  return [recipe for row in fitting for recipe in row]


def _rotated(room: _Room, points: Points) -> list[recipes.RotatedCodes]:
  features = points.features
  expected = functools.partial(expected_error, points=points)
  wide, narrow = [], []
  for size in _codebook_sizes(room, _ROTATED_SIZES):
    wide.extend(sorted(_widths(room, size, features), key=expected)[:1])
    # Near neighbours are told apart by the first components, precisely kept.
    found = _widths(room, size, int(_NARROW * features))
    narrow.extend(sorted(found, key=expected)[:1])
  more = [r for r in narrow if r not in wide and _is_used(room, r)]
  return sorted(wide, key=expected) + sorted(more, key=expected)


def _widths(
  room: _Room, size: int, features: int
) -> Iterator[recipes.RotatedCodes]:
  """Yields the longest code of each width, of so many components at most."""
  for width in range(1, min(features, 12) + 1):
    make = lambda length, width=width: recipes.RotatedCodes(length, size, width)
    yield from room.largest(make, -(-features // width))


def _additive(room: _Room, points: Points) -> Iterator[Recipe]:
  features = points.features
  yield from _sums(room, features, _ADDITIVE_SIZES, rank=features)
  half = features // 2
  # Fewer components leave room for longer codes, for near neighbours again;
  # but not where all of them can be kept much better.
  rotated = [expected_error(r, points) for r in _rotated(room, points)]
  if half and points.components[0][half:].sum() <= 2 * min(rotated, default=0):
    yield from _sums(room, features, _ADDITIVE_SIZES[:1], rank=half)


def _sums(
  room: _Room, features: int, sizes: Sequence[int], *, rank: int
) -> Iterator[recipes.AdditiveCodes]:
  for size in _codebook_sizes(room, sizes):
    make = lambda length, size=size: recipes.AdditiveCodes(length, size, rank)
    for recipe in room.largest(make, 128):
      # More codebook than codes does not pay.
      shared = recipe.nbytes(0, features)
      if 2 * shared <= room.budget and _is_used(room, recipe):
        yield recipe


def _anchors(
  room: _Room, points: Points, *, kind: type[recipes.Anchors] = recipes.Anchors
) -> Iterator[Recipe]:
  num_found = 0
  for number in (1024, 256, 128, 64, 32, 16, 8, 4, 2, 1):
    if num_found == 2 or (num_found and number == 128):
      return  # Fewer anchors are for tables that hold no others.
    if number <= max(1, room.num_embeddings // 4):
      make = lambda count, number=number: kind(number, count)
      most = min(points.features, 32, number)
      for recipe in room.largest(make, most):
        num_found += 1
        yield recipe


def _normed(room: _Room, points: Points) -> list[Recipe]:
  found = _rotated(room.for_units(), points)[:1]
  return [recipes.Normed(recipe) for recipe in found]


def _normed_product(room: _Room, points: Points) -> list[Recipe]:
  found = _product(room.for_units(), points)[-1:]
  return [recipes.Normed(recipe) for recipe in found]


def _anchors_and_codes(room: _Room, points: Points) -> Iterator[Recipe]:
  for number in (256, 64, 16, 4):
    first = recipes.Anchors(number, 1)
    if number <= room.num_embeddings // 4 and room.holds(first):
      rest = room.of(room.budget - room.nbytes(first))
      for second in _rotated(rest, points)[:1]:
        yield recipes.Summed(first, second)
        return


FAMILIES: dict[str, Callable[..., Iterable[Recipe]]] = {
  "scalars": _scalars,
  "low_rank": _low_rank,
  "pq": _product,
  "opq": _rotated,
  "rq": _additive,
  "anchors": _anchors,
  "norm+pq": _normed_product,
  "norm+opq": _normed,
  "anchors+opq": _anchors_and_codes,
  "nonnegative_anchors": functools.partial(
    _anchors, kind=recipes.NonNegativeAnchors
  ),
}
"""Sizes to try, for each family of recipes by its name."""

AUTO = tuple(name for name in FAMILIES if name != "nonnegative_anchors")
"""Families that 'auto' tries: without those that others contain."""


def expected_error(recipe: recipes.RotatedCodes, points: Points) -> float:
  r"""Estimates the squared error of rotated codes from the spectrum.

  Of normal parts with equal products of variances, a part of width w and b bits
  has the error :math:`w\,(\prod_i \lambda_i)^{1/w}\,2^{-2b/w}`, by the bound of
  the rate-distortion theory, times what quantisers of w dimensions lose to it
  (Gersho and Gray, 1992); components that are left out count whole.

  Args:
    recipe: Sizes.
    points: Whose components they are.

  Returns:
    An error to compare with others, not a forecast.
  """
  variances = points.components[0]
  width = recipe.code_features
  count = min(recipe.code_length * width, len(variances))
  floor = 1e-9 * variances[0] + 1e-30
  logs = np.log(np.maximum(variances[:count], floor))
  bits = np.log2(recipe.codebook_size) * recipe.code_length / count
  # From 2.72 for scalars to 1 for many dimensions.
  loss = 1 + 1.72 / width
  within = count * np.exp(logs.mean()) * 2 ** (-2 * bits) * loss
  kept = variances[:count].sum()
  return float(min(within, kept) + variances[count:].sum())


def _codebook_sizes(
  room: _Room, sizes: Sequence[int] = CODEBOOK_SIZES
) -> list[int]:
  return [size for size in sizes if 4 * size <= room.num_embeddings]


def _is_used(room: _Room, recipe: Recipe) -> bool:
  return room.nbytes(recipe) >= _LEAST_USE * room.budget
