"""The end of a composition of code vectors, in NumPy: checks and values."""

from collections.abc import Mapping

import numpy as np

from anchor_codes.tables import checks
from anchor_codes.typing import network_shapes

PROJECTED = ("linear", "mlp", "lstm")
_NETWORK = ("kernels", "biases", "states")


def check_arrays(
  composition: str,
  arrays: Mapping[str, np.ndarray | None],
  *,
  code_features: int,
  code_length: int,
) -> dict[str, np.ndarray | None]:
  """Checks the arrays beside the codebooks.

  Args:
    composition: One of `anchor_codes.typing.COMPOSITIONS`.
    arrays: By name: `projection`, `bias`, `kernels`, `biases`, `states`; None
      for those that are not there.
    code_features: Width of the code vectors.
    code_length: Number of positions.

  Returns:
    Read-only views of the arrays that are there, None for the others.

  Raises:
    ValueError: If an array is missing, is one too many, or does not fit.
  """
  views = _check_network(composition, arrays, code_features)
  width = code_features
  if composition == "concat":
    width *= code_length
  if views["states"] is not None:
    width = views["states"].shape[1]
  projection = arrays.get("projection")
  if (composition in PROJECTED) != (projection is not None):
    raise ValueError(
      "`projection` must be given for the compositions 'linear', 'mlp' and "
      f"'lstm', and only for them, got composition {composition!r}."
    )
  if projection is not None:
    projection = checks.as_array("projection", projection, ndim=2)
    shape = (width, projection.shape[1])
    other = f"the composition {composition!r}"
    checks.check_shape("projection", projection, shape, other)
    width = shape[1]
  views["projection"] = projection
  bias = arrays.get("bias")
  if bias is not None:
    bias = checks.as_array("bias", bias, ndim=1)
    checks.check_shape("bias", bias, (width,), "the other arrays")
  views["bias"] = bias
  return views


def finish(
  combined: np.ndarray, composition: str, arrays: Mapping[str, np.ndarray]
) -> np.ndarray:
  """Applies what follows the codebooks: a network, a projection, a bias.

  Args:
    combined: float32 [size, code_features], sums of code vectors; all side by
      side for 'concat'; in order, [size, code_length, code_features], for
      'lstm'.
    composition: One of `anchor_codes.typing.COMPOSITIONS`.
    arrays: What :func:`check_arrays` returned, without the missing ones.

  Returns:
    float32 [size, features].
  """
  arrays = {n: a.astype(np.float32, copy=False) for n, a in arrays.items()}
  if composition == "mlp":
    combined = _residual_layers(combined, arrays)
  if composition == "lstm":
    combined = _mean_lstm(combined, arrays)
  if "projection" in arrays:
    combined = combined @ arrays["projection"]
  return combined + arrays["bias"] if "bias" in arrays else combined


def _check_network(
  composition: str, arrays: Mapping[str, np.ndarray | None], width: int
) -> dict[str, np.ndarray | None]:
  """Checks the arrays of hidden layers, whose sizes they tell themselves."""
  given = {n: arrays[n] for n in _NETWORK if arrays.get(n) is not None}
  num_layers, hidden = 1, width
  if composition == "mlp" and "kernels" in given:
    num_layers += len(checks.as_array("kernels", given["kernels"], ndim=3))
  if composition == "lstm" and "states" in given:
    states = checks.as_array("states", given["states"], ndim=2)
    hidden = states.shape[1]
  shapes = network_shapes(
    composition, code_features=width, hidden=hidden, num_layers=num_layers
  )
  if sorted(given) != sorted(shapes):
    raise ValueError(
      f"The composition {composition!r} must come with the arrays "
      f"{sorted(shapes)}, got {sorted(given)}."
    )
  views: dict[str, np.ndarray | None] = dict.fromkeys(_NETWORK)
  for name, shape in shapes.items():
    view = checks.as_array(name, given[name], ndim=len(shape))
    other = f"the composition {composition!r}"
    checks.check_shape(name, view, shape, other)
    views[name] = view
  return views


def _residual_layers(
  sums: np.ndarray, arrays: Mapping[str, np.ndarray]
) -> np.ndarray:
  first, *biases = arrays["biases"]
  hidden = np.maximum(sums + first, 0)
  for kernel, bias in zip(arrays.get("kernels", ()), biases, strict=True):
    hidden = hidden + np.maximum(hidden @ kernel + bias, 0)
  return hidden


def _mean_lstm(
  vectors: np.ndarray, arrays: Mapping[str, np.ndarray]
) -> np.ndarray:
  size, code_length, code_features = vectors.shape
  # Two products, because the inputs side by side would be a copy.
  of_input, of_hidden = np.split(arrays["kernels"], [code_features])
  hidden, cell = (np.tile(state, (size, 1)) for state in arrays["states"])
  total = np.zeros_like(hidden)
  for i in range(code_length):
    gates = vectors[:, i] @ of_input + hidden @ of_hidden + arrays["biases"]
    enter, forget, new, leave = np.split(gates, 4, axis=1)
    cell = _sigmoid(forget) * cell + _sigmoid(enter) * np.tanh(new)
    hidden = _sigmoid(leave) * np.tanh(cell)
    total += hidden
  return total / np.float32(code_length)


def _sigmoid(values: np.ndarray) -> np.ndarray:
  return 0.5 * np.tanh(0.5 * values) + 0.5  # Which cannot overflow.
