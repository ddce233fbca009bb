"""Codes: choosing them, turning them into vectors, scoring against them."""

import functools
import operator
from collections.abc import Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt

from anchor_codes.bits import pack_codes, unpack_codes
from anchor_codes.ops.compositions import (
  SUMMED,
  check_composition,
  combine,
  finish,
)
from anchor_codes.ops.reductions import as_floats, wide
from anchor_codes.ops.scores import position_scores
from anchor_codes.typing import check_integer_ids, code_dtype

__all__ = [
  "assign_codes",
  "attend_codes",
  "combine_codes",
  "decode_codes",
  "lookup_codes",
  "nonfinite_rows",
  "pack_codes",
  "unpack_codes",
]

_BLOCK = 4096  # Rows decoded at a time where all of them are scored.


def assign_codes(
  logits: Float[Array, "*batch code_length codebook_size"],
) -> UInt[Array, "*batch code_length"]:
  r"""Chooses the best entry at each position of the code.

  Definition: :math:`c_j = \arg\max_k z_{jk}`, compared in at least float32;
  the first one wins a tie, and a ``nan`` wins over everything.

  Args:
    logits: Scores of the entries of each codebook.

  Returns:
    Codes in the smallest unsigned type that holds them.

  Raises:
    ValueError: If ``codebook_size`` is not in ``[2, 65536]``.

  >>> codes = assign_codes(jnp.array([[1.0, 2.0, 0.5], [3.0, 0.0, 0.0]]))
  >>> print(codes, codes.dtype)
  [1 0] uint8
  """
  dtype = code_dtype(logits.shape[-1])
  return jnp.argmax(wide(logits), axis=-1).astype(dtype)


def lookup_codes(
  codes: Int[Array, "*batch code_length"],
  codebooks: Float[Array, "#code_length codebook_size code_features"],
) -> Float[Array, "*batch code_length code_features"]:
  r"""Looks up the code vectors of each position, :math:`w_j = W_{j c_j}`.

  Args:
    codes: Digits in ``[0, codebook_size)``; any other one gives ``nan``.
    codebooks: Code vectors; a leading axis of 1 shares one codebook among all
      positions.

  Returns:
    One vector for each digit, bit for bit a row of the codebook.

  >>> codebooks = jnp.array([[[1.0], [2.0]], [[3.0], [4.0]]])
  >>> print(lookup_codes(jnp.array([1, 0]), codebooks))
  [[2.]
   [3.]]
  """
  _check(codes, codebooks)
  positions, size, code_features = codebooks.shape
  digits = _digits(codes, size)
  starts = size * jnp.arange(positions, dtype=jnp.int32)
  rows = digits + jnp.broadcast_to(starts, digits.shape)
  # One gather from the stacked codebooks; a bad digit must not reach the
  # codebook of the next position.
  rows = jnp.where(digits < size, rows, positions * size)
  stacked = codebooks.reshape(positions * size, code_features)
  return jnp.take(stacked, rows, axis=0, mode="fill")


def nonfinite_rows(
  rows: Float[Array, " num_embeddings *shape"],
) -> Int[Array, ""]:
  """Counts the rows that have a value that is no finite number.

  An argmax picks a ``nan`` without a word, so count before codes are trusted;
  cheap enough for every few steps of a training.

  Args:
    rows: One record for each symbol: logits or queries.

  Returns:
    The number of rows with a ``nan`` or an infinity.

  >>> print(nonfinite_rows(jnp.array([[0.0, 1.0], [jnp.nan, jnp.inf]])))
  1
  """
  axes = tuple(range(1, rows.ndim))
  return jnp.sum(~jnp.all(jnp.isfinite(rows), axis=axes))


def combine_codes(
  codes: Int[Array, "*batch code_length"],
  codebooks: Float[Array, "#code_length codebook_size code_features"],
  composition: str,
) -> Float[Array, "*batch_and_width"]:
  """Looks code vectors up and combines them, before a network or projection.

  Equals :func:`~anchor_codes.ops.compositions.combine` of
  :func:`lookup_codes`. A sum is accumulated position by position, in at least
  float32, so that ``[..., code_length, code_features]`` is never stored.

  Args:
    codes: Digits in ``[0, codebook_size)``; any other one gives ``nan``.
    codebooks: Code vectors; a leading axis of 1 shares one codebook among all
      positions.
    composition: One of the five of
      :func:`~anchor_codes.ops.compositions.compose`.

  Returns:
    Sums, vectors side by side, or vectors in order, in the type of the
    codebooks.

  >>> codebooks = jnp.array([[[1.0], [2.0]], [[30.0], [40.0]]])
  >>> print(combine_codes(jnp.array([1, 0]), codebooks, "mlp"))
  [32.]
  """
  if composition not in SUMMED:
    return combine(lookup_codes(codes, codebooks), composition)
  _check(codes, codebooks)
  return _sum_taken(codebooks, codes, axis=-3).astype(codebooks.dtype)


def decode_codes(
  codes: Int[Array, "*batch code_length"],
  codebooks: Float[Array, "#code_length codebook_size code_features"],
  composition: str,
  *,
  projection: Float[Array, "width features"] | None = None,
  bias: Float[Array, " features"] | None = None,
  network: Mapping[str, Float[Array, "..."]] | None = None,
) -> Float[Array, "*batch features"]:
  r"""Turns codes into embeddings.

  Definition: :math:`e = f(W_{1 c_1}, \dots, W_{D c_D})` (KD codes; Chen et
  al., ICML 2018) with the composition :math:`f` of
  :func:`~anchor_codes.ops.compositions.compose`.

  Args:
    codes: Digits in ``[0, codebook_size)``; any other one gives ``nan``.
    codebooks: Code vectors; a leading axis of 1 shares one codebook among all
      positions.
    composition: ``"sum"``, ``"concat"``, ``"linear"``, ``"mlp"`` or
      ``"lstm"``.
    projection: Matrix of the last three.
    bias: Added to every embedding.
    network: Arrays of the last two.

  Returns:
    One embedding for each code, in the type of the codebooks.

  Raises:
    ValueError: For codes that are not integers, an unknown composition, or
      unless the arrays are exactly those of the composition.

  >>> codebooks = jnp.array([[[1.0], [2.0]], [[30.0], [40.0]]])
  >>> codes = jnp.array([[0, 0], [1, 0]])
  >>> print(decode_codes(codes, codebooks, "concat"))
  [[ 1. 30.]
   [ 2. 30.]]
  >>> print(decode_codes(codes, codebooks, "sum"))
  [[31.]
   [32.]]
  """
  check_composition(composition, projection, network)
  return finish(
    combine_codes(codes, codebooks, composition),
    composition,
    projection=projection,
    bias=bias,
    network=network,
  )


def attend_codes(
  query: Float[Array, "*batch features"],
  codes: Int[Array, "num_embeddings code_length"],
  codebooks: Float[Array, "#code_length codebook_size code_features"],
  composition: str,
  *,
  projection: Float[Array, "width features"] | None = None,
  bias: Float[Array, " features"] | None = None,
  network: Mapping[str, Float[Array, "..."]] | None = None,
) -> Float[Array, "*batch num_embeddings"]:
  r"""Scores a query against all embeddings, without the full table.

  Definition: :math:`\langle q, e_i \rangle = \sum_j S_{j c_{ij}} +
  \langle q, b \rangle` with one small table :math:`S_j` of scores for each
  position ("asymmetric distance computation"; Jegou et al., TPAMI 2011). The
  compositions with a network are not linear: their embeddings are decoded in
  blocks, and once more for a gradient.

  Args:
    query: Vectors of the width of the embeddings.
    codes: The code of each embedding; a digit out of range gives ``nan``.
    codebooks: Code vectors; a leading axis of 1 shares one codebook among all
      positions.
    composition: As for :func:`decode_codes`.
    projection: As for :func:`decode_codes`.
    bias: The bias of the embeddings.
    network: As for :func:`decode_codes`.

  Returns:
    The inner products with :func:`decode_codes` of all codes, in the type of
    the query; integers count as floats of the type of the codebooks.

  Raises:
    ValueError: As :func:`decode_codes`.

  >>> codebooks = jnp.array([[[1.0], [2.0]], [[30.0], [40.0]]])
  >>> codes = jnp.array([[0, 0], [1, 0]])
  >>> print(attend_codes(jnp.array([1.0, 0.1]), codes, codebooks, "concat"))
  [4. 5.]
  """
  check_composition(composition, projection, network)
  _check(codes, codebooks)
  query = as_floats(query, codebooks)
  if network:
    arrays = {"projection": projection, "bias": bias, "network": network}
    return _attend_blocks(query, codes, codebooks, composition, arrays)
  tables = position_scores(
    query,
    codebooks,
    composition,
    code_length=codes.shape[-1],
    projection=projection,
  )
  scores = _sum_taken(tables, codes, axis=-2)
  if bias is not None:
    scores = scores + jnp.expand_dims(wide(query) @ wide(bias), -1)
  return scores.astype(query.dtype)


def _attend_blocks(
  query: Array,
  codes: Array,
  codebooks: Array,
  composition: str,
  arrays: dict[str, Any],
) -> Array:
  @jax.checkpoint  # Or a gradient would need the vectors of all blocks.
  def score(code: Array) -> Array:
    vector = decode_codes(code, codebooks, composition, **arrays)
    return wide(query) @ wide(vector)

  scores = jax.lax.map(score, codes, batch_size=_BLOCK)
  return jnp.moveaxis(scores, 0, -1).astype(query.dtype)


def _sum_taken(
  tables: Float[Array, "..."],
  codes: Int[Array, "*batch code_length"],
  axis: int,
) -> Float[Array, "..."]:
  """Adds up what each digit takes from the table of its position.

  Position by position, because the vectors of all positions side by side would
  take `code_length` times the memory, and much longer.
  """
  digits = jnp.unstack(_digits(codes, tables.shape[axis + 1]), axis=-1)
  by_position = jnp.unstack(tables, axis=axis)
  if len(by_position) == 1:
    by_position = by_position * len(digits)
  taken = (
    # Not `clip`: a digit out of range has to show, as `nan`.
    wide(jnp.take(table, digit, axis=axis + 1, mode="fill"))
    for table, digit in zip(by_position, digits, strict=True)
  )
  return functools.reduce(operator.add, taken)


def _check(
  codes: Int[Array, "*batch code_length"],
  codebooks: Float[Array, "#code_length codebook_size code_features"],
) -> None:
  check_integer_ids(codes)
  chex.assert_shape(codebooks, ({1, codes.shape[-1]}, None, None))


def _digits(
  codes: Int[Array, "*batch code_length"], codebook_size: int
) -> Int[Array, "*batch code_length"]:
  # A negative index would count from the end.
  digits = codes.astype(jnp.int32)
  return jnp.where(digits < 0, codebook_size, digits)
