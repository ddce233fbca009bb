"""Closed sets of options, and the checks of arguments that all layers share.

NumPy only: the artefacts in :mod:`anchor_codes.tables` use this module too.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any, Literal, get_args

import numpy as np

Relaxation = Literal["softmax", "gumbel", "nearest"]
"""How hard codes let a gradient through."""

Composition = Literal["sum", "concat", "linear", "mlp", "lstm"]
"""How the vectors that a code chooses become one vector."""

Penalty = Literal["plain", "frequency", "keep_one"]
"""How the l1 penalty treats the rows: all alike, by how often they occur, or
sparing the largest weight of each."""

Start = Literal["random", "antipodal"]
"""How anchors start: by themselves, or in pairs of opposite sign."""

Ties = Literal["mean", "best", "worst"]
"""Which place an item takes among others of the same score."""

Schedule = Callable[[Any], Any]
"""From a number of training lookups, an int32 scalar, to a temperature."""

COMPOSITIONS: tuple[str, ...] = get_args(Composition)
BUCKET_COMPOSITIONS: tuple[str, ...] = ("sum", "product")
PENALTIES: tuple[str, ...] = get_args(Penalty)
STARTS: tuple[str, ...] = get_args(Start)
TIES: tuple[str, ...] = get_args(Ties)


def check_choice(name: str, value: str, allowed: Collection[str]) -> None:
  """Raises `ValueError` unless `value` is one of `allowed`.

  >>> check_choice("composition", "mean", BUCKET_COMPOSITIONS)
  Traceback (most recent call last):
  ...
  ValueError: `composition` must be one of 'sum', 'product', got 'mean'.
  """
  if value not in allowed:
    options = ", ".join(repr(option) for option in allowed)
    raise ValueError(f"`{name}` must be one of {options}, got {value!r}.")


def check_at_least(name: str, value: int, minimum: int) -> None:
  """Raises `ValueError` unless `value` is an integer of at least `minimum`.

  >>> check_at_least("rank", 0, 1)
  Traceback (most recent call last):
  ...
  ValueError: `rank` must be at least 1, got 0.
  """
  # True is an integer in Python, but hardly meant as a size.
  if isinstance(value, bool) or not isinstance(value, int | np.integer):
    raise ValueError(f"`{name}` must be an integer, got {value!r}.")
  if value < minimum:
    raise ValueError(f"`{name}` must be at least {minimum}, got {value}.")


def check_rate(name: str, value: float) -> None:
  """Raises `ValueError` unless `value` is a probability.

  >>> check_rate("rate", 1.5)
  Traceback (most recent call last):
  ...
  ValueError: `rate` must be between 0 and 1, got 1.5.
  """
  # In this form `nan` is refused, too.
  if not 0 <= value <= 1:
    raise ValueError(f"`{name}` must be between 0 and 1, got {value}.")


def check_divisible(name: str, value: int, by: str, divisor: int) -> None:
  """Raises `ValueError` unless `divisor` divides `value`.

  >>> check_divisible("features", 10, "code_length", 4)
  Traceback (most recent call last):
  ...
  ValueError: `features` must be divisible by `code_length`, got 10 and 4.
  """
  if value % divisor:
    raise ValueError(
      f"`{name}` must be divisible by `{by}`, got {value} and {divisor}."
    )


def check_integer_ids(ids: Any) -> None:
  """Raises `ValueError` unless `ids` has an integer type.

  >>> check_integer_ids(np.array([1.0]))
  Traceback (most recent call last):
  ...
  ValueError: ids must be integers, got float64; cast them on purpose if they...
  """
  if np.dtype(ids.dtype).kind in "SU":
    raise ValueError(
      f"ids must be integers, got {ids.dtype}; a table finds those of words by "
      "`ids_of`, and looks words up by `lookup_words`."
    )
  if not np.issubdtype(ids.dtype, np.integer):
    raise ValueError(
      f"ids must be integers, got {ids.dtype}; cast them on purpose if they "
      "are whole numbers."
    )


def check_query(shape: Sequence[int], features: int) -> None:
  """Raises `ValueError` unless queries are as wide as the embeddings.

  >>> check_query((3, 5), 4)
  Traceback (most recent call last):
  ...
  ValueError: `query` must be [..., 4], one value for each feature, got (3, 5).
  """
  if not shape or shape[-1] != features:
    raise ValueError(
      f"`query` must be [..., {features}], one value for each feature, got "
      f"{tuple(shape)}."
    )


def check_ids(ids: np.ndarray, num_embeddings: int) -> None:
  """Checks ids on the host.

  Args:
    ids: NumPy array of any shape.
    num_embeddings: Number of rows of the table.

  Raises:
    ValueError: If the ids are not integers.
    IndexError: If an id is negative or past the end; it names the first such
      id, its position and the size of the table.

  >>> check_ids(np.array([[0, 7]]), 5)
  Traceback (most recent call last):
  ...
  IndexError: id 7 at position (0, 1) is out of range for a table of 5 rows...
  """
  check_integer_ids(ids)
  bad = (ids < 0) | (ids >= num_embeddings)
  if bad.any():
    position = tuple(int(i) for i in np.argwhere(bad)[0])
    raise IndexError(
      f"id {ids[position]} at position {position} is out of range for a "
      f"table of {num_embeddings} rows: ids must lie in "
      f"[0, {num_embeddings})."
    )


def code_dtype(codebook_size: int) -> np.dtype:
  """Returns the smallest unsigned type that holds a digit of a code.

  Args:
    codebook_size: Number of values that a digit can take, 2 to 65536.

  Returns:
    ``uint8`` or ``uint16``.

  Raises:
    ValueError: If the size is not an integer from 2 to 65536.

  >>> code_dtype(256), code_dtype(257)
  (dtype('uint8'), dtype('uint16'))
  """
  check_codebook_size(codebook_size)
  # Unsigned: a byte with a sign would hold half as many values.
  return np.dtype(np.uint8 if codebook_size <= 256 else np.uint16)


def check_codebook_size(codebook_size: int) -> None:
  """Raises `ValueError` unless the size is an integer from 2 to 65536.

  >>> check_codebook_size(1)
  Traceback (most recent call last):
  ...
  ValueError: `codebook_size` must be at least 2, got 1.
  """
  check_at_least("codebook_size", codebook_size, 2)
  if codebook_size > 65536:
    raise ValueError(
      "`codebook_size` must be at most 65536 (two bytes for each digit), "
      f"got {codebook_size}."
    )


def num_code_bits(codebook_size: int) -> int:
  """Returns the bits of one packed digit, ``ceil(log2(codebook_size))``.

  Args:
    codebook_size: Number of values that a digit can take, 2 to 65536.

  Returns:
    From 1 to 16.

  Raises:
    ValueError: If the size is not an integer from 2 to 65536.

  >>> num_code_bits(32), num_code_bits(33)
  (5, 6)
  """
  check_codebook_size(codebook_size)
  return int(codebook_size - 1).bit_length()


def code_width(
  composition: str,
  features: int,
  code_length: int,
  *,
  code_features: int | None = None,
  hidden: int | None = None,
) -> int:
  """Returns the width of the vectors that a code chooses.

  Args:
    composition: One of `COMPOSITIONS`.
    features: Width of the composed vector.
    code_length: Digits of a code, at least 1; for 'concat' it must divide
      `features`.
    code_features: Width for 'linear' and 'lstm', `features` by default; the
      other compositions leave no choice.
    hidden: Width of the layers of 'mlp', which is that of its code vectors;
      `features` by default.

  Returns:
    The width: ``features / code_length`` for 'concat', `hidden` for 'mlp',
    `features` for 'sum'.

  Raises:
    ValueError: If the composition is unknown or the sizes do not fit it.

  >>> code_width("concat", 12, 4), code_width("sum", 12, 4)
  (3, 12)
  """
  check_choice("composition", composition, COMPOSITIONS)
  if composition in ("linear", "lstm"):
    width = features if code_features is None else code_features
    check_at_least("code_features", width, 1)
    return width
  width = features
  if composition == "concat":
    check_divisible("features", features, "code_length", code_length)
    width = features // code_length
  if composition == "mlp":
    width = hidden_width(composition, features, hidden=hidden)
  if code_features not in (None, width):
    raise ValueError(
      f"`code_features` must be {width} for the composition {composition!r}, "
      f"got {code_features}; only 'linear' and 'lstm' take another width."
    )
  return width


def hidden_width(
  composition: str,
  features: int,
  *,
  hidden: int | None = None,
  num_layers: int = 1,
) -> int:
  """Returns the width of the hidden layers of a composition.

  Args:
    composition: One of `COMPOSITIONS`.
    features: Width of the composed vector.
    hidden: Width for 'mlp' and 'lstm', `features` by default; the other
      compositions have no hidden layers.
    num_layers: Number of hidden layers; more than one for 'mlp' alone.

  Returns:
    The width, 0 without hidden layers.

  Raises:
    ValueError: If the composition has no such layers, or a size is not
      positive.

  >>> hidden_width("mlp", 12, hidden=5), hidden_width("sum", 12)
  (5, 0)
  """
  check_at_least("num_layers", num_layers, 1)
  if num_layers > 1 and composition != "mlp":
    raise ValueError(
      f"`num_layers` must be 1 for the composition {composition!r}, got "
      f"{num_layers}; only 'mlp' takes more."
    )
  if composition in ("mlp", "lstm"):
    width = features if hidden is None else hidden
    check_at_least("hidden", width, 1)
    return width
  if hidden is not None:
    raise ValueError(
      f"`hidden` must be None for the composition {composition!r}, got "
      f"{hidden}; only 'mlp' and 'lstm' have hidden layers."
    )
  return 0


def network_shapes(
  composition: str, *, code_features: int, hidden: int, num_layers: int = 1
) -> dict[str, tuple[int, ...]]:
  """Returns the arrays of the hidden layers of a composition.

  Args:
    composition: One of `COMPOSITIONS`.
    code_features: Width of the vectors that a code chooses.
    hidden: Width of the hidden layers.
    num_layers: Number of hidden layers of 'mlp'.

  Returns:
    Shapes by name. 'mlp': `biases`, one for each layer, and `kernels`, for all
    but the first, which is the sum of the code vectors. 'lstm': `kernels` and
    `biases` of the input gate, forget gate, candidate and output gate, side by
    side, for the input above the hidden vector, and `states`, where the hidden
    vector and the cell start. Nothing for the other compositions.

  >>> network_shapes("mlp", code_features=5, hidden=5, num_layers=3)
  {'kernels': (2, 5, 5), 'biases': (3, 5)}
  >>> network_shapes("lstm", code_features=4, hidden=5)
  {'kernels': (9, 20), 'biases': (20,), 'states': (2, 5)}
  """
  if composition == "lstm":
    return {
      "kernels": (code_features + hidden, 4 * hidden),
      "biases": (4 * hidden,),
      "states": (2, hidden),
    }
  if composition != "mlp":
    return {}
  shapes = {
    "kernels": (num_layers - 1, hidden, hidden),
    "biases": (num_layers, hidden),
  }
  if num_layers == 1:
    del shapes["kernels"]  # An array without entries could not be stored.
  return shapes
