"""Packs codes into bytes, and hashes ids into buckets.

The functions take NumPy and JAX arrays alike, under `jax.jit` too: they call
what the `array's own namespace
<https://data-apis.org/array-api/latest/>`_ offers. This module imports NumPy
only.
"""

import operator
from typing import Any

import numpy as np

from anchor_codes.accounting import code_row_bits
from anchor_codes.typing import (
  check_at_least,
  check_integer_ids,
  code_dtype,
  num_code_bits,
)

_GOLDEN = 0x9E3779B9  # 2 ** 32 / golden ratio: no seed hashes 0 to 0.
# As rows of one: strict JAX wants arrays of equal rank and an exact type.
_FACTORS = np.asarray([[0x85EBCA6B], [0xC2B2AE35]], np.uint32)


def pack_codes(codes: Any, *, codebook_size: int) -> Any:
  """Packs each code into as few whole bytes as its digits need.

  A digit takes ``b = ceil(log2(codebook_size))`` bits. Digit i fills the bits
  from ``i * b`` on, the lowest bit of a byte first; the last byte is padded
  with zeros, so every code starts at a byte of its own.

  Args:
    codes: Integers [..., code_length] in ``[0, codebook_size)``. The values of
      NumPy arrays are checked. Those of JAX arrays are not, and count modulo
      ``2 ** b``.
    codebook_size: Number of values that a digit can take, 2 to 65536.

  Returns:
    uint8 [..., ceil(code_length * b / 8)].

  Raises:
    ValueError: If the digits are not integers or out of range.

  >>> packed = pack_codes(np.array([[1, 2, 3], [31, 0, 31]]), codebook_size=32)
  >>> print(packed)
  [[ 65  12]
   [ 31 124]]
  >>> print(unpack_codes(packed, code_length=3, codebook_size=32))
  [[ 1  2  3]
   [31  0 31]]
  """
  codes = _as_array(codes)
  xp, bits = codes.__array_namespace__(), num_code_bits(codebook_size)
  _check_codes(codes, codebook_size)
  if bits == 8:
    return codes.astype(xp.uint8)
  word, code_length = _word(bits), codes.shape[-1]
  margin = 8 * word.itemsize - 8  # The top byte of a word becomes a byte.
  # In NumPy for JAX arrays, too: places depend on sizes alone, so that they are
  # constants of a compiled program.
  byte = np.arange(code_row_bits(code_length, codebook_size) // 8)
  packed: Any = 0
  # At most so many digits share a byte; each adds what falls into it.
  for step in range((bits + 6) // bits + 1):
    digit = 8 * byte // bits + step
    start = digit * bits - 8 * byte
    present = (digit < code_length) & (start < 8)
    # A digit may begin before its byte: the margin keeps the shift to the left
    # from being negative. An absent digit is not shifted, and all of it falls
    # below the margin.
    shift = np.where(present, start + margin, 0).astype(word)
    values = xp.take(codes, digit, axis=-1, mode="clip").astype(word)
    values = (values & (2**bits - 1)) << _row(shift, codes.ndim)
    packed = packed | (values >> margin)
  return packed.astype(xp.uint8)


def unpack_codes(packed: Any, *, code_length: int, codebook_size: int) -> Any:
  """Unpacks what :func:`pack_codes` packed.

  Args:
    packed: uint8 [..., ceil(code_length * b / 8)], where ``b =
      ceil(log2(codebook_size))``.
    code_length: Number of digits of a code.
    codebook_size: Number of values that a digit can take, 2 to 65536.

  Returns:
    Codes [..., code_length] in the smallest unsigned type for the digits.

  Raises:
    ValueError: If the array is not uint8, or not as wide as such codes are.

  >>> packed = np.array([[65, 12]], np.uint8)
  >>> print(unpack_codes(packed, code_length=3, codebook_size=32))
  [[1 2 3]]
  """
  packed = _as_array(packed)
  _check_packed(packed, code_length, codebook_size)
  dtype, bits = code_dtype(codebook_size), num_code_bits(codebook_size)
  if bits == 8:
    return packed.astype(dtype)
  xp, word = packed.__array_namespace__(), _word(bits)
  first_bit = np.arange(code_length) * bits
  window: Any = 0
  # As many bytes as a digit touches that begins at the last bit of one.
  for step in range((bits + 6) // 8 + 1):
    # Past the last byte the clip repeats it, above the bits that are kept.
    byte = first_bit // 8 + step
    values = xp.take(packed, byte, axis=-1, mode="clip").astype(word)
    window = window | (values << (8 * step))
  shift = (first_bit % 8).astype(word)
  digits = window >> _row(shift, packed.ndim)
  return (digits & (2**bits - 1)).astype(dtype)


def hash_ids(ids: Any, *, num_buckets: int, seed: int) -> Any:
  r"""Hashes ids into buckets, to the same ones in NumPy and in JAX.

  With F the 32-bit finaliser of MurmurHash3 (Appleby, 2011, public domain),
  the bucket of an id of two words is

  .. math:: F(low \oplus F(high \oplus F(seed + c))) \bmod num\_buckets.

  Args:
    ids: Non-negative integers of any shape and width. An id keeps its bucket
      in every integer type that holds it.
    num_buckets: Number of buckets, 1 to 2 ** 31.
    seed: Chooses the hash function, 0 to 2 ** 32 - 1.

  Returns:
    int32 buckets, in the shape of the ids.

  Raises:
    ValueError: If the ids are not integers or an option is out of range.

  >>> print(hash_ids(np.arange(8), num_buckets=100, seed=0))
  [ 4 67 80  4 77 60 47 24]
  """
  ids = _as_array(ids)
  check_integer_ids(ids)
  _check_range("num_buckets", num_buckets, 1, 2**31)
  _check_range("seed", seed, 0, 2**32 - 1)
  xp, flat = ids.__array_namespace__(), ids.reshape(-1)
  key = _mix(np.asarray([(seed + _GOLDEN) % 2**32], np.uint32))
  # A narrow id has a high word of 0, and xor with 0 changes nothing: that is
  # why an id keeps its bucket in every type.
  if flat.dtype.itemsize == 8:
    key = key ^ (flat >> 32).astype(xp.uint32)
  mixed = _mix(flat.astype(xp.uint32) ^ _mix(key))
  # The remainder favours low buckets by a share of num_buckets / 2 ** 32 at
  # most, and costs no 64-bit product, which JAX has only on demand.
  buckets = mixed % np.asarray([num_buckets], np.uint32)
  return buckets.astype(xp.int32).reshape(ids.shape)


def _mix(words: Any) -> Any:
  """Mixes uint32 words one to one (fmix32 of MurmurHash3)."""
  words = (words ^ (words >> 16)) * _FACTORS[0]
  words = (words ^ (words >> 13)) * _FACTORS[1]
  return words ^ (words >> 16)


def _as_array(array: Any) -> Any:
  if hasattr(array, "__array_namespace__"):
    return array
  return np.asarray(array)


def _word(bits: int) -> np.dtype:
  """Returns the type in which a digit is shifted by up to one byte."""
  return np.dtype(np.uint16 if bits <= 8 else np.uint32)


def _row(values: np.ndarray, ndim: int) -> np.ndarray:
  """Gives a row its leading axes: strict JAX does not add them itself."""
  return values.reshape((1,) * (ndim - 1) + (-1,))


def _check_codes(codes: Any, codebook_size: int) -> None:
  if codes.ndim < 1 or not np.issubdtype(codes.dtype, np.integer):
    raise ValueError(
      "`codes` must be integers [..., code_length], got "
      f"{codes.dtype} of shape {codes.shape}."
    )
  # Under `jit` there are no values yet; on a device a look would cost a copy.
  if not isinstance(codes, np.ndarray):
    return
  bad = (codes < 0) | (codes >= codebook_size)
  if bad.any():
    position = tuple(int(i) for i in np.argwhere(bad)[0])
    raise ValueError(
      f"digit {codes[position]} at position {position} is out of range for "
      f"codebook_size {codebook_size}."
    )


def _check_packed(packed: Any, code_length: int, codebook_size: int) -> None:
  width = code_row_bits(code_length, codebook_size) // 8
  if packed.dtype != np.uint8:
    raise ValueError(f"`packed` must be uint8, got {packed.dtype}.")
  if packed.shape[-1:] != (width,):
    raise ValueError(
      f"`packed` must be {width} bytes wide for code_length {code_length} "
      f"and codebook_size {codebook_size}, got shape {packed.shape}."
    )


def _check_range(name: str, value: int, minimum: int, maximum: int) -> None:
  check_at_least(name, value, minimum)
  if operator.index(value) > maximum:
    raise ValueError(f"`{name}` must be at most {maximum}, got {value}.")
