"""Ids of symbols: their line in a vocabulary, or a hash.

Ids are int32, whatever the symbols are: JAX would cut 64-bit numbers silently.
"""

import math
import os
import pathlib
from collections import Counter
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from anchor_codes import bits, tables
from anchor_codes import typing as options
from experiments.datasets import files
from experiments.datasets import interactions_columns as columns
from experiments.reporting.files import write_atomically

UNKNOWN = "<unknown>"
"""The name of the last row, which stands for symbols outside a vocabulary."""

_FACTORS = np.array([0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53], np.uint64)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2 ** 64 / golden ratio.


class Encoder(Protocol):
  """What gives ids to symbols."""

  @property
  def num_embeddings(self) -> int:
    """The number of ids."""
    ...

  @property
  def unknown(self) -> int | None:
    """The id of symbols that have none of their own; None without one."""
    ...

  def encode(self, symbols: columns.Symbols) -> np.ndarray:
    """Returns int32 ids of the distinct symbols; -1 for an error."""
    ...


class Vocabulary:
  """Ids by the place of a symbol in a list.

  It holds each symbol in memory, some 150 bytes for one.

  Args:
    symbols: The symbols, all different.
    refuse_unknown: Whether a symbol outside is an error. Otherwise it gets the
      last id, and so does `UNKNOWN` if it is among the symbols.

  Raises:
    ValueError: If a symbol is repeated, or there is none.

  >>> import pyarrow as pa
  >>> found = columns.Symbols(pa.array(["tea", "gin"]), np.zeros(0, np.int32))
  >>> vocabulary = Vocabulary(["rum", "tea"])
  >>> vocabulary.num_embeddings, vocabulary.encode(found)
  (3, array([1, 2], dtype=int32))
  """

  def __init__(self, symbols: Sequence[str], *, refuse_unknown: bool = False):
    repeated = [text for text, n in Counter(symbols).items() if n > 1]
    if repeated:
      raise ValueError(
        f"`symbols` must be different, got {repeated[0]!r} again."
      )
    left_out = () if refuse_unknown else (UNKNOWN,)
    self.symbols = tuple(text for text in symbols if text not in left_out)
    options.check_at_least("number of symbols", len(self.symbols), 1)
    self.unknown = None if refuse_unknown else len(self.symbols)
    self._ids = {symbol: row for row, symbol in enumerate(self.symbols)}

  @property
  def num_embeddings(self) -> int:
    """The number of ids, that of unknown symbols included."""
    return len(self.symbols) + (self.unknown is not None)

  @property
  def names(self) -> tuple[str, ...]:
    """The name of each row."""
    extra = () if self.unknown is None else (UNKNOWN,)
    return self.symbols + extra

  def encode(self, symbols: columns.Symbols) -> np.ndarray:
    """Returns int32 ids of the distinct symbols; -1 for an error."""
    unknown = -1 if self.unknown is None else self.unknown
    ids = (self._ids.get(text, unknown) for text in symbols.texts())
    return np.fromiter(ids, np.int32, len(symbols.names))


class Buckets:
  """Ids by a 64-bit hash of the symbol, some of which share one.

  Args:
    num_buckets: Number of ids, 1 to 2 ** 31.
    seed: Chooses the hash function, 0 to 2 ** 32 - 1.

  >>> import pyarrow as pa
  >>> found = columns.Symbols(pa.array(["tea", "rum"]), np.zeros(0, np.int32))
  >>> Buckets(1000).encode(found)
  array([146, 184], dtype=int32)
  """

  unknown = None

  def __init__(self, num_buckets: int, *, seed: int = 0):
    options.check_at_least("num_buckets", num_buckets, 1)
    self.num_embeddings = num_buckets
    self.seed = seed

  def encode(self, symbols: columns.Symbols) -> np.ndarray:
    """Returns int32 ids of the distinct symbols."""
    return bits.hash_ids(
      symbol_hashes(symbols), num_buckets=self.num_embeddings, seed=self.seed
    )


def symbol_hashes(symbols: columns.Symbols) -> np.ndarray:
  r"""Hashes distinct symbols to 64 bits, eight bytes of UTF-8 at a time.

  With F the 64-bit finaliser of MurmurHash3 (Appleby, 2011, public domain) and
  :math:`w_1 \dots w_n` the words of a symbol, little-endian and filled up with
  zeros, the hash is :math:`h_n` where :math:`h_0 = F(c + length)` and
  :math:`h_i = F(h_{i-1} \oplus w_i) + c`.

  Args:
    symbols: The symbols.

  Returns:
    uint64, one for each distinct symbol.

  >>> import pyarrow as pa
  >>> found = columns.Symbols(pa.array(["tea", "rum"]), np.zeros(0, np.int32))
  >>> [hex(value) for value in symbol_hashes(found)]
  ['0xbfd617edc5a2a7b2', '0x5b962ead5fd76cb3']
  """
  offsets = columns.text_offsets(symbols.names).astype(np.int64)
  starts, lengths = offsets[:-1], np.diff(offsets)
  # A margin, for the last word may reach beyond the last symbol.
  data = np.pad(columns.text_bytes(symbols.names), (0, 8))
  hashes = mix(_GOLDEN + lengths.astype(np.uint64))
  active = np.arange(len(starts))
  for begin in range(0, int(lengths.max(initial=0)), 8):
    # Fewer and fewer symbols are so long.
    active = active[lengths[active] > begin]
    places = starts[active, None] + np.arange(begin, begin + 8)
    letters = data[places]
    letters[np.arange(begin, begin + 8) >= lengths[active, None]] = 0
    words = letters.view("<u8")[:, 0].astype(np.uint64)
    hashes[active] = mix(hashes[active] ^ words) + _GOLDEN
  return hashes


def mix(words: np.ndarray) -> np.ndarray:
  """Mixes uint64 words one to one (fmix64 of MurmurHash3)."""
  for factor in _FACTORS:
    words = (words ^ (words >> np.uint64(33))) * factor
  return words ^ (words >> np.uint64(33))


def estimate_collisions(num_used: int, num_buckets: int) -> float:
  r"""Estimates how many symbols lost a bucket of their own, from those in use.

  With k of m buckets in use there are about :math:`-m \ln(1 - k / m)` symbols
  (linear counting; Whang et al., 1990), of which k could have been alone.

  Args:
    num_used: Number of buckets that a symbol has.
    num_buckets: Number of buckets.

  Returns:
    The estimate. If all are in use, it is a lower bound: that of half a bucket
    that is free.

  >>> f"{estimate_collisions(632, 1000):.0f}"
  '368'
  """
  options.check_at_least("num_buckets", num_buckets, 1)
  free = max(num_buckets - num_used, 0.5)
  return num_buckets * math.log(num_buckets / free) - num_used


def load_vocabulary(path: str | os.PathLike[str]) -> list[str]:
  """Loads a vocabulary: a text file, or that of a table.

  Args:
    path: A UTF-8 file with one symbol in each line, or a ``.safetensors`` file
      of a table of this package with a vocabulary.

  Returns:
    The symbols.

  Raises:
    FileNotFoundError: If there is no such file.
    ValueError: If a line is empty or repeated, or the file is damaged; it
      names the line.
  """
  path = pathlib.Path(path).expanduser()
  if path.suffix == ".safetensors":
    found = tables.load(path).vocabulary
    if found is None:
      raise ValueError(f"the table {path} must have a vocabulary, got none.")
    return list(found)
  lines = [line.removesuffix("\r") for line in files.read_lines(path)]
  seen: dict[str, int] = {}
  for number, line in enumerate(lines, start=1):
    if not line:
      raise ValueError(f"{path}, line {number}: a symbol must not be empty.")
    if line in seen:
      raise ValueError(
        f"{path}, line {number}: {line!r} stands in line {seen[line]} already."
      )
    seen[line] = number
  return lines


def save_vocabulary(
  symbols: Sequence[str], path: str | os.PathLike[str]
) -> None:
  r"""Writes one symbol in each line, the whole file or nothing.

  Raises:
    ValueError: If a symbol holds ``\n`` or ends in ``\r``.
  """
  for symbol in symbols:
    if "\n" in symbol or symbol.endswith("\r"):
      raise ValueError(
        f"a symbol in a vocabulary file must not hold a line end, got "
        f"{symbol!r}. Hash the symbols instead, or change this one."
      )
  write_atomically(path, "".join(f"{symbol}\n" for symbol in symbols))


def rank_symbols(
  counts: dict[str, int], *, min_count: int = 1, max_size: int = 0
) -> list[str]:
  """Returns symbols by falling counts; equal ones by their text.

  Args:
    counts: How often each symbol occurs.
    min_count: Rarer symbols are left out.
    max_size: The most symbols to keep; 0 for all.

  >>> rank_symbols({"a": 1, "c": 2, "b": 2, "d": 3}, min_count=2, max_size=2)
  ['d', 'b']
  """
  options.check_at_least("min_count", min_count, 1)
  options.check_at_least("max_size", max_size, 0)
  kept = [symbol for symbol, count in counts.items() if count >= min_count]
  ranked = sorted(kept, key=lambda symbol: (-counts[symbol], symbol))
  return ranked[: max_size or None]
