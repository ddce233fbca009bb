"""Other ways to make a matrix small, at a given number of bytes.

All that is needed to get the vectors back is counted: codes, in whole bytes for
each row, codebooks, rotations, means and scales. Codebooks, rotations and means
count two bytes for a number, as float16, but are used as they were fitted, in
float32, which favours these ways.
"""

import dataclasses
import functools
import importlib
import importlib.util
from collections.abc import Iterator
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np

_NUM_BITS = (4, 6, 8)
_MOST_DIGITS = 128  # Of additive codes, as `compress` tries.
_OPQ_SHARES = (1.0, 0.5, 0.25)  # Of the features, that a rotation keeps.
_HALF = 2  # Bytes of a float16.

_TIME_LIMIT = 450.0  # Seconds of one core, as estimated.
# Operations a second, as measured for sizes of this benchmark.
_RATES = {"OPQ": 2.2e8, "RQ": 8e10, "LSQ": 4e9}


class Peer(Protocol):
  """A way to make a matrix small; `str` of it is its name with its sizes."""

  family: ClassVar[str]

  def nbytes(self, num_embeddings: int, features: int) -> int:
    """Returns the bytes of all that is needed to get the vectors back."""
    ...

  def fit(self, matrix: np.ndarray) -> "Fitted":
    """Makes float32 [num_embeddings, features] small, and large again."""
    ...


class Fitted(NamedTuple):
  """What a way has left of a matrix.

  Attributes:
    vectors: float32 [num_embeddings, features].
    note: Options that were lowered for the time limit, with their values.
  """

  vectors: np.ndarray
  note: str = ""


@dataclasses.dataclass(frozen=True)
class Int4Rows:
  """Rows of integers from -7 to 7, with a float16 scale each."""

  family: ClassVar[str] = "int4 rows"

  def __str__(self) -> str:
    return self.family

  def nbytes(self, num_embeddings: int, features: int) -> int:
    """Returns the bytes of rows and scales."""
    return num_embeddings * (-(-features // 2) + _HALF)

  def fit(self, matrix: np.ndarray) -> Fitted:
    """Rounds the rows."""
    scales = np.abs(matrix).max(axis=1, keepdims=True) / 7
    scales = scales.astype(np.float16).astype(np.float32)
    divisors = np.where(scales > 0, scales, np.float32(1))
    return Fitted(np.rint(matrix / divisors).clip(-7, 7) * scales)


@dataclasses.dataclass(frozen=True)
class Components:
  """Principal components in int8, with a scale for each component."""

  family: ClassVar[str] = "PCA + int8"
  rank: int

  def __str__(self) -> str:
    return f"{self.family}, {self.rank}"

  def nbytes(self, num_embeddings: int, features: int) -> int:
    """Returns the bytes of rows, directions, scales and the mean."""
    shared = self.rank * (features + 1) + features
    return num_embeddings * self.rank + _HALF * shared

  def fit(self, matrix: np.ndarray) -> Fitted:
    """Projects the rows, and rounds them."""
    mean = matrix.mean(axis=0)
    centred = matrix - mean
    _, directions = np.linalg.eigh(centred.T @ centred)
    basis = directions[:, ::-1][:, : self.rank].astype(np.float16)
    basis = basis.astype(np.float32)
    rows = centred @ basis
    scales = np.abs(rows).max(axis=0) / 127
    divisors = np.where(scales > 0, scales, np.float32(1))
    rounded = np.rint(rows / divisors) * scales
    return Fitted(rounded @ basis.T + mean)


@dataclasses.dataclass(frozen=True)
class Product:
  """Product codes of faiss (Jegou et al., 2011)."""

  family: ClassVar[str] = "PQ"
  code_length: int
  num_bits: int

  def __str__(self) -> str:
    return f"{self.family} {self.code_length}x{self.num_bits}"

  def nbytes(self, num_embeddings: int, features: int) -> int:
    """Returns the bytes of codes and codebooks."""
    codebooks = 2**self.num_bits * features
    return _code_bytes(self, num_embeddings) + _HALF * codebooks

  def fit(self, matrix: np.ndarray) -> Fitted:
    """Fits the codebooks."""
    return Fitted(self.quantize(matrix))

  def quantize(self, matrix: np.ndarray) -> np.ndarray:
    """Returns the nearest vectors that codes can give."""
    pq = _faiss().ProductQuantizer(
      matrix.shape[1], self.code_length, self.num_bits
    )
    pq.cp.min_points_per_centroid = 1
    pq.train(matrix)
    return pq.decode(pq.compute_codes(matrix))


@dataclasses.dataclass(frozen=True)
class Rotated:
  """Product codes of faiss after a rotation (Ge et al., 2013).

  With a `width` below that of the matrix the rotation drops the rest.
  """

  family: ClassVar[str] = "OPQ"
  code_length: int
  num_bits: int
  width: int

  def __str__(self) -> str:
    sizes = self.code_length, self.num_bits, self.width
    return f"{self.family} {sizes[0]}x{sizes[1]} of {sizes[2]}"

  def nbytes(self, num_embeddings: int, features: int) -> int:
    """Returns the bytes of codes, codebooks, the rotation and the mean."""
    shared = (2**self.num_bits + features) * self.width + features
    return _code_bytes(self, num_embeddings) + _HALF * shared

  def fit(self, matrix: np.ndarray) -> Fitted:
    """Fits rotation and codebooks."""
    mean = matrix.mean(axis=0)
    centred = matrix - mean
    features = matrix.shape[1]
    opq = _faiss().OPQMatrix(features, self.code_length, self.width)
    # Distances of the few features of a part take the same time as of one.
    assign = len(matrix) * 2**self.num_bits * self.code_length
    level, note = _affordable(
      tuple({"niter": niter} for niter in (150, 50, 20)),
      lambda niter: assign * (opq.niter_pq_0 + opq.niter_pq * niter),
      _RATES[self.family],
    )
    _set(opq, level)
    pq = _faiss().ProductQuantizer(self.width, self.code_length, self.num_bits)
    pq.cp.min_points_per_centroid = 1
    opq.pq = pq  # It trains this one, which is not there by default.
    opq.train(centred)
    codes = Product(self.code_length, self.num_bits)
    rows = codes.quantize(opq.apply(centred))
    return Fitted(opq.reverse_transform(rows) + mean, note)


@dataclasses.dataclass(frozen=True)
class _Additive:
  """Codes of faiss whose entries add up."""

  family: ClassVar[str]
  code_length: int
  num_bits: int

  def __str__(self) -> str:
    return f"{self.family} {self.code_length}x{self.num_bits}"

  def nbytes(self, num_embeddings: int, features: int) -> int:
    """Returns the bytes of codes and codebooks."""
    codebooks = self.code_length * 2**self.num_bits * features
    return _code_bytes(self, num_embeddings) + _HALF * codebooks


@dataclasses.dataclass(frozen=True)
class Residual(_Additive):
  """Residual codes of faiss with a beam search (Chen et al., 2010).

  The codebooks are fitted together at last.
  """

  family: ClassVar[str] = "RQ"

  def fit(self, matrix: np.ndarray) -> Fitted:
    """Fits the codebooks one after the other."""
    size, features = matrix.shape
    rq = _faiss().ResidualQuantizer(features, self.code_length, self.num_bits)
    entries = 2**self.num_bits
    rounds = rq.cp.niter * rq.cp.progressive_dim_steps / 2
    rq.niter_codebook_refine = 20

    def work(max_beam_size: int) -> float:
      points = min(size * max_beam_size, 256 * entries)
      encode = size * max_beam_size * (1 + rq.niter_codebook_refine)
      learn = points * rounds + encode
      return 2.0 * self.code_length * learn * entries * features

    level, note = _affordable(
      tuple({"max_beam_size": beam} for beam in (16, 5, 2, 1)),
      work,
      _RATES[self.family],
    )
    _set(rq, level)
    rq.train_type |= rq.Train_refine_codebook
    rq.cp.min_points_per_centroid = 1
    rq.train(matrix)
    return Fitted(rq.decode(rq.compute_codes(matrix)), note)


@dataclasses.dataclass(frozen=True)
class LocalSearch(_Additive):
  """Additive codes of faiss by local search (Martinez et al., 2018)."""

  family: ClassVar[str] = "LSQ"

  def fit(self, matrix: np.ndarray) -> Fitted:
    """Fits all codebooks in turns with the codes."""
    size, features = matrix.shape
    lsq = _faiss().LocalSearchQuantizer(
      features, self.code_length, self.num_bits
    )
    sweep = size * self.code_length**2 * 2**self.num_bits * lsq.icm_iters
    names = "train_iters", "train_ils_iters", "encode_ils_iters"
    level, note = _affordable(
      tuple(
        dict(zip(names, values, strict=True))
        for values in (
          (100, 8, 64),
          (50, 8, 32),
          (25, 8, 16),
          (10, 8, 16),
          (10, 4, 8),
          (5, 4, 8),
        )
      ),
      lambda train_iters, train_ils_iters, encode_ils_iters: (
        sweep * (train_iters * train_ils_iters + encode_ils_iters)
      ),
      _RATES[self.family],
    )
    _set(lsq, level)
    lsq.train(matrix)
    return Fitted(lsq.decode(lsq.compute_codes(matrix)), note)


@dataclasses.dataclass(frozen=True)
class CompressFasttext:
  """Product codes of compress-fasttext, a byte for each digit."""

  family: ClassVar[str] = "compress-fasttext"
  code_length: int
  codebook_size: int

  def __str__(self) -> str:
    return f"{self.family} {self.code_length}x{self.codebook_size}"

  def nbytes(self, num_embeddings: int, features: int) -> int:
    """Returns the bytes of codes and codebooks."""
    codebooks = self.codebook_size * features
    return num_embeddings * self.code_length + _HALF * codebooks

  def fit(self, matrix: np.ndarray) -> Fitted:
    """Fits the codebooks."""
    library: Any = importlib.import_module("compress_fasttext.quantization")
    small = library.quantize(
      matrix, qdim=self.code_length, centroids=self.codebook_size
    )
    return Fitted(np.asarray(small.unpack(), np.float32))


FAMILIES: dict[str, tuple[str, ...]] = {
  "PQ": ("faiss",),
  "OPQ": ("faiss",),
  "RQ": ("faiss",),
  "LSQ": ("faiss",),
  "int4 rows": (),
  "PCA + int8": (),
  # Its codebooks are clusters of the other, which it does not install.
  "compress-fasttext": ("compress_fasttext", "sklearn"),
}
"""The libraries that each family needs."""


def is_installed(family: str) -> bool:
  """Tells whether the libraries that a family needs are installed."""
  return all(map(importlib.util.find_spec, FAMILIES[family]))


def propose(
  family: str, *, num_embeddings: int, features: int, budget: int
) -> list[Peer]:
  """Lists the sizes of a family to try: the largest ones that fit.

  Args:
    family: One of `FAMILIES`.
    num_embeddings: Rows of the matrix.
    features: Width of its vectors.
    budget: The most bytes.

  Returns:
    Codes of faiss for 4, 6 and 8 bits each, of the largest length; other ways
    once at most. Empty if nothing fits.

  >>> found = propose("PQ", num_embeddings=10_000, features=100, budget=133_333)
  >>> print(*found, sep=", ")
  PQ 25x4, PQ 10x6, PQ 5x8
  """
  fits = lambda peer: peer.nbytes(num_embeddings, features) <= budget
  found: dict[Peer, None] = {}
  for candidates in _candidates(family, num_embeddings, features):
    # They come with the largest first.
    found.update(dict.fromkeys([p for p in candidates if fits(p)][:1]))
  return list(found)


def _candidates(
  family: str, num_embeddings: int, features: int
) -> Iterator[list[Peer]]:
  """Yields sizes of which one is to be taken, the largest first."""
  divisors = [n for n in range(features, 0, -1) if features % n == 0]
  if family == "int4 rows":
    yield [Int4Rows()]
  elif family == "PCA + int8":
    yield [Components(rank) for rank in range(features, 0, -1)]
  elif family == "compress-fasttext":
    for size in (16, 64, 255):
      if size <= num_embeddings:
        yield [CompressFasttext(length, size) for length in divisors]
  else:
    for bits in _NUM_BITS:
      if 2**bits <= num_embeddings:
        yield from _codes(family, bits, features, divisors)


def _codes(
  family: str, bits: int, features: int, divisors: list[int]
) -> Iterator[list[Peer]]:
  if family == "PQ":
    yield [Product(length, bits) for length in divisors]
  elif family == "OPQ":
    for share in _OPQ_SHARES:
      width = max(1, round(share * features))
      sizes = [(n, width // n * n) for n in range(width, 0, -1)]
      # A length that divides the width badly would drop what it could keep.
      yield [
        Rotated(length, bits, kept)
        for length, kept in sizes
        if kept >= 0.8 * width
      ]
  else:
    kind = {"RQ": Residual, "LSQ": LocalSearch}[family]
    yield [kind(length, bits) for length in range(_MOST_DIGITS, 0, -1)]


def _code_bytes(codes: Any, num_embeddings: int) -> int:
  return num_embeddings * -(-codes.code_length * codes.num_bits // 8)


def _affordable(
  levels: tuple[dict[str, int], ...], work: Any, rate: float
) -> tuple[dict[str, int], str]:
  """Returns the first options whose work is done in time, and a note.

  Estimated, not measured: the result must not depend on the load.
  """
  for level in levels:
    if work(**level) <= _TIME_LIMIT * rate:
      break
  else:
    level = levels[-1]
  lowered = ", ".join(f"{name} {value}" for name, value in level.items())
  return level, "" if level == levels[0] else lowered


def _set(target: Any, options: dict[str, int]) -> None:
  for name, value in options.items():
    setattr(target, name, value)


@functools.cache
def _faiss() -> Any:
  faiss: Any = importlib.import_module("faiss")
  # Its threads wait for each other where other processes run too.
  faiss.omp_set_num_threads(1)
  return faiss
