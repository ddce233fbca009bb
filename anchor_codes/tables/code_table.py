"""Rows that are short codes (Chen et al., ICML 2018 and ICML 2020)."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np

from anchor_codes import bits
from anchor_codes.accounting import code_row_bits
from anchor_codes.tables import base, checks, code_search, compositions
from anchor_codes.typing import COMPOSITIONS, check_choice, num_code_bits

_MANY_QUERIES = 16
_AFTER_CODEBOOKS = ("projection", "bias", "kernels", "biases", "states")


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class CodeTable(base.Table):
  r"""A table whose rows are codes: each digit chooses a vector of a codebook.

  Definition (Chen et al., "Learning K-way D-dimensional Discrete Codes", ICML
  2018; "Differentiable Product Quantization", ICML 2020), with
  :math:`w_j = W_j[c_{ij}]` for digit j of code i:

  * 'concat': :math:`e_i = [w_1, \dots, w_D] + b`, code_length * code_features
    wide;
  * 'sum': :math:`e_i = \sum_j w_j + b`, code_features wide;
  * 'linear': :math:`e_i = (\sum_j w_j) P + b`;
  * 'mlp': :math:`e_i = h_L P + b` after residual layers :math:`h_1 =
    r(\sum_j w_j + b_1)`, :math:`h_l = h_{l-1} + r(h_{l-1} W_l + b_l)` with
    :math:`r(x) = \max(x, 0)`;
  * 'lstm': :math:`e_i = (\frac{1}{D} \sum_j h_j) P + b` with :math:`[i, f, g,
    o] = [w_j, h_{j-1}] W + b_1`, :math:`c_j = \sigma(f) c_{j-1} + \sigma(i)
    \tanh(g)` and :math:`h_j = \sigma(o) \tanh(c_j)`.

  Attributes:
    codebooks: Vectors [code_length, codebook_size, code_features], float32,
      float16 or int8; [1, codebook_size, code_features] if all digits share
      them.
    scales: For int8 codebooks, float32 [code_length], or [1] if they are
      shared: the values of codebook j are :math:`s_j` times its integers.
    packed: The codes as :func:`anchor_codes.bits.pack_codes` packs them, uint8
      [num_embeddings, ceil(code_length * ceil(log2(codebook_size)) / 8)].
    code_length: Number of digits.
    codebook_size: Number of values that a digit can take, 2 to 65536.
    composition: 'concat', 'sum', 'linear', 'mlp' or 'lstm'.
    projection: P [code_features, features], or for 'lstm' [hidden, features];
      for the last three only.
    bias: b [features], or None for zeros.
    kernels: For 'mlp' with more than one layer, W_2 to W_L [num_layers - 1,
      code_features, code_features]; for 'lstm' W [code_features + hidden,
      4 * hidden].
    biases: For 'mlp', b_1 to b_L [num_layers, code_features]; for 'lstm' b_1
      [4 * hidden].
    states: For 'lstm', where h and c start [2, hidden].
    vocabulary: One different string for each row, or None.

  Raises:
    ValueError: If an option or an array is not like that.

  >>> codebooks = np.arange(8, dtype=np.float32).reshape(2, 2, 2)
  >>> table = CodeTable.from_codes(
  ...     np.array([[0, 1], [1, 1], [0, 0]]), codebooks, composition="concat"
  ... )
  >>> print(table.lookup([0, 2]))
  [[0. 1. 6. 7.]
   [0. 1. 4. 5.]]
  >>> table.bits_per_row, table.num_params, table.nbytes
  (8, 8, 35)
  """

  kind: ClassVar[str] = "codes"
  _ROWS: ClassVar = ("packed",)
  _SHARED: ClassVar = (
    "codebooks",
    "scales",
    "projection",
    "bias",
    "kernels",
    "biases",
    "states",
  )
  _OPTIONS: ClassVar = {
    "code_length": int,
    "codebook_size": int,
    "composition": str,
  }

  codebooks: np.ndarray
  _: dataclasses.KW_ONLY
  packed: np.ndarray
  code_length: int
  codebook_size: int
  composition: str
  scales: np.ndarray | None = None
  projection: np.ndarray | None = None
  bias: np.ndarray | None = None
  kernels: np.ndarray | None = None
  biases: np.ndarray | None = None
  states: np.ndarray | None = None

  @classmethod
  def from_codes(
    cls,
    codes: Any,
    codebooks: Any,
    *,
    composition: str,
    vocabulary: Sequence[str] | None = None,
    **arrays: Any,
  ) -> Self:
    """Packs codes into a table.

    Args:
      codes: Integers [num_embeddings, code_length].
      codebooks: Vectors [code_length or 1, codebook_size, code_features].
      composition: 'concat', 'sum', 'linear', 'mlp' or 'lstm'.
      vocabulary: One different string for each row, or None.
      **arrays: `scales`, `projection`, `bias`, `kernels`, `biases` and
        `states` of the table, as far as it has them.

    Raises:
      ValueError: If a digit is out of range, or something does not fit.
    """
    codes = np.asarray(codes)
    codebooks = _as_codebooks(codebooks)
    if codes.ndim != 2:
      raise ValueError(f"`codes` must have 2 axes, got shape {codes.shape}.")
    codebook_size = codebooks.shape[1]
    return cls(
      codebooks,
      packed=bits.pack_codes(codes, codebook_size=codebook_size),
      code_length=codes.shape[1],
      codebook_size=codebook_size,
      composition=composition,
      vocabulary=vocabulary,
      **arrays,
    )

  @property
  def codes(self) -> np.ndarray:
    """The codes [num_embeddings, code_length], in the smallest type."""
    return self._codes_of(slice(None))

  @property
  def num_params(self) -> int:
    """Numbers in the codebooks and what follows them."""
    arrays = [self.codebooks, *self._after_codebooks.values()]
    return sum(array.size for array in arrays)

  def _validate(self, verify: bool) -> None:
    check_choice("composition", self.composition, COMPOSITIONS)
    codebooks = _as_codebooks(self.codebooks)
    scales = checks.as_scales("scales", self.scales, codebooks, of="codebooks")
    packed = checks.as_array("packed", self.packed, ndim=2, dtypes=("uint8",))
    self._set(codebooks=codebooks, scales=scales, packed=packed)
    self._set(num_embeddings=len(packed))
    self._check_codes()
    self._check_arrays()
    if verify:
      self._check_digits()

  def _check_codes(self) -> None:
    length, size = self.code_length, self.codebook_size
    width = code_row_bits(length, size) // 8
    other = f"code_length {length} and codebook_size {size}"
    checks.check_shape("packed", self.packed, (len(self.packed), width), other)
    positions, _, code_features = self.codebooks.shape
    shape = (1 if positions == 1 else length, size, code_features)
    checks.check_shape("codebooks", self.codebooks, shape, other)

  def _check_arrays(self) -> None:
    """Checks what follows the codebooks; sets the width of the vectors."""
    given = {name: getattr(self, name) for name in _AFTER_CODEBOOKS}
    width = self.codebooks.shape[2]
    arrays = compositions.check_arrays(
      self.composition,
      given,
      code_features=width,
      code_length=self.code_length,
    )
    if arrays["projection"] is not None:
      width = arrays["projection"].shape[1]
    elif self.composition == "concat":
      width *= self.code_length
    self._set(**arrays, features=width)

  def _check_digits(self) -> None:
    if self._all_digits_fit:
      return
    blocks = base.blocks(self.num_embeddings)
    largest = max(self._codes_of(block).max() for block in blocks)
    if largest >= self.codebook_size:
      raise ValueError(
        f"`packed` must hold digits below codebook_size "
        f"{self.codebook_size}, got {largest}."
      )

  def _compose(self, ids: np.ndarray) -> np.ndarray:
    vectors = self._vectors
    # These need the vectors of all digits; a sum is built up without them.
    if self.composition in ("concat", "lstm"):
      combined = vectors.take(self._addresses(ids, vectors), axis=0)
    else:
      combined = self._sum(ids, vectors)
    if self.composition == "concat":
      combined = combined.reshape(len(ids), self.features)
    return compositions.finish(
      combined, self.composition, self._after_codebooks
    )

  def _compose_into(self, ids: np.ndarray, vectors: np.ndarray) -> None:
    if self.composition != "concat":
      super()._compose_into(ids, vectors)
      return
    codebooks = self._vectors
    shape = (len(ids), self.code_length, codebooks.shape[1])
    parts = vectors.reshape(shape)  # A view, since rows are contiguous.
    # Addresses are in range; `clip` only spares NumPy a buffer.
    addresses = self._addresses(ids, codebooks)
    codebooks.take(addresses, axis=0, out=parts, mode="clip")
    if self.bias is not None:
      vectors += self.bias

  @functools.cached_property
  def _vectors(self) -> np.ndarray:
    """The vectors of all codebooks, float32 [positions * size, width]."""
    codebooks = self.codebooks.astype(np.float32, copy=False)
    if self.scales is not None:
      codebooks = codebooks * self.scales[:, None, None]
    return codebooks.reshape(-1, codebooks.shape[2])

  def _score_shared(self, queries: np.ndarray) -> np.ndarray:
    """Returns the score of each codebook vector, one position after another.

    A network is not linear: its vectors are composed, then scored.
    """
    if self._composes_to_score(queries.shape[1]):
      return super()._score_shared(queries)
    size, parts = queries.shape[1], queries
    if self.projection is not None:
      # Projected are the few queries, not all the vectors of the codebooks.
      parts = self.projection.astype(np.float32) @ queries
    if self.composition == "concat":
      parts = queries.reshape(self.code_length, self.codebooks.shape[2], size)
    scores = self._vectors.reshape(self.codebooks.shape) @ parts
    if self.bias is not None:
      # Spread evenly, since the positions may share one table of scores.
      scores += self.bias.astype(np.float32) @ queries / self.code_length
    return scores.reshape(len(scores) * self.codebook_size, size)

  def _score_rows(self, ids: np.ndarray, shared: np.ndarray) -> np.ndarray:
    if self._composes_to_score(shared.shape[1]):
      return super()._score_rows(ids, shared)
    return self._sum(ids, shared)

  def _composes_to_score(self, num_queries: int) -> bool:
    """Whether vectors are composed, not the scores of their parts summed.

    For many queries that is faster, if a vector has each part in one place.
    """
    is_many = self.composition == "concat" and num_queries >= _MANY_QUERIES
    return self.biases is not None or is_many

  @property
  def _after_codebooks(self) -> dict[str, np.ndarray]:
    """The arrays of the composition that are there, by name."""
    arrays = {name: getattr(self, name) for name in _AFTER_CODEBOOKS}
    return {n: array for n, array in arrays.items() if array is not None}

  @property
  def _all_digits_fit(self) -> bool:
    """Whether no packed code can have a digit that is out of range."""
    return self.codebook_size == 2 ** num_code_bits(self.codebook_size)

  def _sum(self, ids: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Sums one vector for each digit: of the codebooks, or their scores."""
    addresses = self._addresses(ids, vectors)
    total = np.zeros((len(ids), vectors.shape[1]), np.float32)
    for i in range(self.code_length):
      total += vectors.take(addresses[:, i], axis=0)
    return total

  def _addresses(self, ids: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Finds the vector of each digit, of one codebook or one for each digit."""
    positions = len(vectors) // self.codebook_size
    # Modulo 1 every digit starts at the one codebook that there is.
    first = np.arange(self.code_length) % positions * self.codebook_size
    codes = self._codes_of(ids)
    # Of a file that was not verified. The next codebook would be read for it.
    if not self._all_digits_fit and (codes >= self.codebook_size).any():
      raise IndexError(
        f"digit {codes.max()} is out of range for codebook_size "
        f"{self.codebook_size}: the table is damaged."
      )
    return codes + first

  def _codes_of(self, ids: Any) -> np.ndarray:
    return bits.unpack_codes(
      self.packed[ids]
      if isinstance(ids, slice)
      else self.packed.take(ids, axis=0),
      code_length=self.code_length,
      codebook_size=self.codebook_size,
    )

  def _encode(self, vectors: np.ndarray) -> Self:
    if self.biases is not None:
      raise ValueError(
        "Codes cannot be chosen for the composition "
        f"{self.composition!r}: its network cannot be inverted."
      )
    if self.bias is not None:
      vectors = vectors - self.bias
    codebooks = self._vectors
    if self.projection is not None:
      codebooks = codebooks @ self.projection.astype(np.float32)
    codebooks = codebooks.reshape(-1, self.codebook_size, codebooks.shape[1])
    shape = (self.code_length, *codebooks.shape[1:])
    codebooks = np.broadcast_to(codebooks, shape)  # If they share one.
    is_concat = self.composition == "concat"
    search = (
      code_search.nearest_parts if is_concat else code_search.nearest_sums
    )
    codes = search(vectors, codebooks)
    packed = bits.pack_codes(codes, codebook_size=self.codebook_size)
    return self._replace(packed=packed)


def _as_codebooks(codebooks: Any) -> np.ndarray:
  dtypes = (*checks.FLOATS, "int8")
  return checks.as_array("codebooks", codebooks, ndim=3, dtypes=dtypes)
