"""Codes that are given, not learned."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, UInt

from anchor_codes import typing
from anchor_codes.ops import drawing


def random_codes(
  key: PRNGKeyArray,
  *,
  num_embeddings: int,
  code_length: int,
  codebook_size: int,
) -> UInt[Array, "num_embeddings code_length"]:
  """Draws independent uniform digits.

  Args:
    key: Random key.
    num_embeddings: Number of symbols.
    code_length: Digits of a code.
    codebook_size: Values of a digit, 2 to 65536.

  Returns:
    Codes in the smallest unsigned type.

  Raises:
    ValueError: If a size is out of range.

  >>> codes = random_codes(
  ...   jax.random.key(0), num_embeddings=3, code_length=2, codebook_size=16
  ... )
  >>> codes.shape, codes.dtype
  ((3, 2), dtype('uint8'))
  """
  dtype = typing.code_dtype(codebook_size)
  typing.check_at_least("num_embeddings", num_embeddings, 1)
  typing.check_at_least("code_length", code_length, 1)

  def draw(key: PRNGKeyArray, number: int) -> UInt[Array, "number _"]:
    # Draws of the narrow type itself would not be quite uniform.
    shape = (number, code_length)
    digits = jax.random.randint(key, shape, 0, codebook_size, jnp.int32)
    return digits.astype(dtype)

  return drawing.draw_rows(key, num_embeddings, draw)


def as_codes(
  name: str,
  codes: Any,
  *,
  num_embeddings: int,
  code_length: int,
  codebook_size: int,
) -> UInt[np.ndarray, "num_embeddings code_length"]:
  """Returns given codes in the smallest unsigned type, checked on the host.

  Args:
    name: The argument that an error names.
    codes: Integers that NumPy takes for an array.
    num_embeddings: Number of symbols.
    code_length: Digits of a code.
    codebook_size: Values of a digit, 2 to 65536.

  Returns:
    A NumPy array.

  Raises:
    ValueError: If they are not integers, have another shape, or a digit is out
      of range; it names the first such digit.

  >>> options = {"num_embeddings": 2, "code_length": 1, "codebook_size": 4}
  >>> as_codes("codes", [[3], [4]], **options)
  Traceback (most recent call last):
  ...
  ValueError: `codes` must lie in [0, 4), got 4 at position (1, 0).
  """
  dtype, codes = typing.code_dtype(codebook_size), np.asarray(codes)
  if not np.issubdtype(codes.dtype, np.integer):
    raise ValueError(f"`{name}` must be integers, got {codes.dtype}.")
  shape = (num_embeddings, code_length)
  if codes.shape != shape:
    raise ValueError(f"`{name}` must have shape {shape}, got {codes.shape}.")
  bad = (codes < 0) | (codes >= codebook_size)
  if bad.any():
    position = tuple(int(i) for i in np.argwhere(bad)[0])
    raise ValueError(
      f"`{name}` must lie in [0, {codebook_size}), got {codes[position]} at "
      f"position {position}."
    )
  return codes.astype(dtype)


def composition_arguments(
  composition: str, parameters: Mapping[str, Float[Array, "..."]]
) -> dict[str, Any]:
  """Sorts the arrays of a composition into arguments by name.

  Args:
    composition: One of the five of
      :func:`~anchor_codes.ops.compositions.compose`.
    parameters: The arrays that
      :func:`~anchor_codes.ops.compositions.code_parameters` names.

  Returns:
    The arguments of :func:`~anchor_codes.ops.codes.decode_codes` after the
    codes; None for what the composition does not have.

  >>> sorted(composition_arguments("sum", {"codebooks": jnp.ones((1, 2, 3))}))
  ['bias', 'codebooks', 'composition', 'network', 'projection']
  """
  network = dict(parameters)
  names = ("codebooks", "projection", "bias")
  arguments = {name: network.pop(name, None) for name in names}
  return {
    **arguments,
    "composition": composition,
    "network": network or None,
  }
