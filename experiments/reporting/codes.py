"""How a table uses its codes: collisions, balance, and who is next to whom."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from anchor_codes import typing as options
from experiments.reporting import code_plots, code_statistics
from experiments.reporting.files import write_atomically
from experiments.reporting.tables import format_table

NAME = "codes"
_DIGIT_COLUMNS = {
  "index": "Digit",
  "entropy": "Entropy (bits)",
  "num_used": "Values used",
  "largest": "Largest share",
}
_COLLISION_COLUMNS = {"size": "Number", "symbols": "Symbols of one code"}
_NEIGHBOR_COLUMNS = {
  "symbol": "Symbol",
  "nearest": "Nearest (digits that differ)",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class DigitUse:
  """How the symbols use the values of one digit.

  Attributes:
    index: Position of the digit.
    entropy: Entropy of its values in bits, at most ``log2(codebook_size)``.
    num_used: Number of values that some symbol has.
    largest_share: Part of the symbols that have the most common value.
  """

  index: int
  entropy: float
  num_used: int
  largest_share: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Collision:
  """Symbols that share a code, and with it a vector.

  Attributes:
    size: Number of these symbols.
    symbols: The first of them.
  """

  size: int
  symbols: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Neighbors:
  """What is next to a symbol in code space.

  Attributes:
    symbol: The symbol.
    nearest: Symbols, and in how many digits their code differs from its own.
  """

  symbol: str
  nearest: tuple[tuple[str, int], ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class CodeReport:
  """What :func:`code_report` finds.

  Attributes:
    num_embeddings: Number of symbols.
    code_length: Digits of a code.
    codebook_size: Values that a digit can take.
    unique_share: Number of different codes for each symbol, at most 1.
    num_collisions: Number of codes that several symbols share.
    num_colliding: Number of symbols that share their code.
    collisions: The largest groups of such symbols.
    digits: The use of each digit.
    entropy: Mean of their entropies in bits.
    dead_share: Part of the entries of the codebooks that no symbol uses.
    disagreement: Part of the digits in which two symbols differ, mean over all
      pairs; None for a single symbol.
    nearest_disagreement: The same for a symbol and the one nearest to it, mean
      over the first `num_compared` symbols, among which that one is, too.
    num_compared: Number of these symbols.
    neighbors: Some symbols, and what is next to them.
  """

  num_embeddings: int
  code_length: int
  codebook_size: int
  unique_share: float
  num_collisions: int
  num_colliding: int
  collisions: tuple[Collision, ...]
  digits: tuple[DigitUse, ...]
  entropy: float
  dead_share: float
  disagreement: float | None
  nearest_disagreement: float | None
  num_compared: int
  neighbors: tuple[Neighbors, ...]

  def to_dict(self) -> dict[str, Any]:
    """Returns the report in terms that JSON has."""
    return dataclasses.asdict(self)

  def to_text(self) -> str:
    """Returns the report as Markdown, tables of what there is none left out."""
    parts = [self._summary(), _table(self.digits, _DIGIT_COLUMNS)]
    if self.collisions:
      parts.append(_table(self.collisions, _COLLISION_COLUMNS))
    if self.neighbors:
      parts.append(_table(self.neighbors, _NEIGHBOR_COLUMNS))
    return "\n\n".join(parts) + "\n"

  def _summary(self) -> str:
    size = options.num_code_bits(self.codebook_size)
    sentences = [
      f"{self.num_embeddings:,} symbols with codes of {self.code_length} digits"
      f" of {self.codebook_size} values, {self.code_length * size} bits each.",
      f"{self.unique_share:.2%} as many codes as symbols:"
      f" {self.num_colliding:,} symbols share {self.num_collisions:,} codes.",
      f"Mean entropy {self.entropy:.3f} of {np.log2(self.codebook_size):.3f}"
      f" bits; {self.dead_share:.2%} of the entries are unused.",
    ]
    if self.disagreement is not None:
      sentences.append(
        f"Two symbols differ in {self.disagreement:.2%} of their digits, a"
        f" symbol and its nearest in {self.nearest_disagreement:.2%}"
        f" (of the first {self.num_compared:,})."
      )
    return "\n".join(sentences)


def code_report(
  codes: Any,
  *,
  codebook_size: int,
  symbols: Sequence[str] | None = None,
  counts: Any = None,
  chosen: Sequence[str] = (),
  shared_codebook: bool = False,
  num_compared: int = 2000,
  top: int = 10,
) -> CodeReport:
  r"""Describes the codes of a table.

  The entropy of a digit is :math:`-\sum_k f_k \log_2 f_k` and the disagreement
  of a pair :math:`1 - \sum_k n_k (n_k - 1) / (V (V - 1))`, exact from the
  number :math:`n_k = V f_k` of the symbols that have the value k.

  Args:
    codes: Integers [num_embeddings, code_length] in ``[0, codebook_size)``.
    codebook_size: Number of values that a digit can take.
    symbols: Name of each row, its number by default.
    counts: How often each symbol occurs; by default all are taken for equally
      frequent, so that the first ones go first.
    chosen: Names of the symbols whose neighbours are looked for, by default the
      `top` most frequent ones.
    shared_codebook: Whether all digits choose from one codebook, whose entries
      are dead only if no digit uses them.
    num_compared: Symbols among which each one's nearest is looked for, from the
      first one on. The cost grows with the square of it.
    top: Number of collisions that are listed, of symbols named for each, of
      neighbours, and of symbols with neighbours.

  Returns:
    The report.

  Raises:
    ValueError: If there is no symbol, a digit is out of range, something does
      not have one entry for each row, or a chosen symbol is unknown.

  >>> codes = [[0, 0], [0, 1], [2, 1], [0, 1]]
  >>> report = code_report(codes, codebook_size=4, symbols=list("abcd"))
  >>> report.unique_share, report.collisions
  (0.75, (Collision(size=2, symbols=('b', 'd')),))
  >>> report.digits[0]
  DigitUse(index=0, entropy=0.811..., num_used=2, largest_share=0.75)
  >>> report.dead_share, report.disagreement
  (0.5, 0.5)
  >>> report.neighbors[0]
  Neighbors(symbol='a', nearest=(('b', 1), ('d', 1), ('c', 2)))
  """
  options.check_at_least("top", top, 1)
  options.check_at_least("num_compared", num_compared, 1)
  codes = code_statistics.check_codes(codes, codebook_size)
  names = _names(symbols, len(codes))
  frequency = _frequency(counts, len(codes))
  usage = code_statistics.count_values(codes, codebook_size=codebook_size)
  digits = tuple(_digit_use(index, used) for index, used in enumerate(usage))
  groups = code_statistics.collisions(codes)
  rows = _rows_of(chosen, names)
  rows = rows or np.argsort(-frequency, kind="stable")[:top].tolist()
  return CodeReport(
    num_embeddings=len(codes),
    code_length=codes.shape[1],
    codebook_size=codebook_size,
    unique_share=code_statistics.unique_share(groups, len(codes)),
    num_collisions=len(groups),
    num_colliding=sum(map(len, groups)),
    collisions=tuple(
      Collision(size=len(group), symbols=_take(names, group[:top]))
      for group in groups[:top]
    ),
    digits=digits,
    entropy=float(np.mean([digit.entropy for digit in digits])),
    dead_share=code_statistics.dead_share(
      usage, shared_codebook=shared_codebook
    ),
    disagreement=code_statistics.pair_disagreement(usage),
    nearest_disagreement=code_statistics.nearest_disagreement(
      codes[:num_compared]
    ),
    num_compared=min(num_compared, len(codes)),
    neighbors=_neighbors(codes, names, rows, frequency, top=top),
  )


def write_report(
  report: CodeReport, usage: np.ndarray, workdir: str | os.PathLike[str]
) -> pathlib.Path:
  """Writes a report as `codes.md`, `codes.json` and `codes.png`.

  Args:
    report: What :func:`code_report` has found.
    usage: Counts of :func:`code_statistics.count_values
      <experiments.reporting.code_statistics.count_values>`, for the picture.
    workdir: The folder, made if missing.

  Returns:
    The path of the text.
  """
  path = pathlib.Path(workdir) / f"{NAME}.md"
  write_atomically(path, report.to_text())
  record = json.dumps(report.to_dict(), indent=2, allow_nan=False)
  write_atomically(path.with_suffix(".json"), record + "\n")
  entropies = [digit.entropy for digit in report.digits]
  code_plots.plot_use(usage, path.with_suffix(".png"), entropies=entropies)
  return path


def _digit_use(index: int, used: np.ndarray) -> DigitUse:
  shares = used[used > 0] / used.sum()
  return DigitUse(
    index=index,
    entropy=float(shares @ -np.log2(shares)) + 0.0,  # Never -0.
    num_used=len(shares),
    largest_share=float(shares.max()),
  )


def _neighbors(
  codes: np.ndarray,
  names: Sequence[str],
  rows: Sequence[int],
  frequency: np.ndarray,
  *,
  top: int,
) -> tuple[Neighbors, ...]:
  found = code_statistics.nearest_codes(codes, rows, counts=frequency, top=top)
  return tuple(
    Neighbors(
      symbol=names[row], nearest=tuple((names[i], n) for i, n in nearest)
    )
    for row, nearest in zip(rows, found, strict=True)
  )


def _names(symbols: Sequence[str] | None, number: int) -> Sequence[str]:
  if symbols is None:
    return [str(row) for row in range(number)]
  _check_length("symbols", symbols, number)
  return symbols


def _take(names: Sequence[str], rows: np.ndarray) -> tuple[str, ...]:
  return tuple(names[int(row)] for row in rows)


def _frequency(counts: Any, number: int) -> np.ndarray:
  if counts is None:
    return np.zeros(number, np.int8)
  _check_length("counts", counts, number)
  return np.asarray(counts)


def _check_length(name: str, values: Any, number: int) -> None:
  if len(values) != number:
    raise ValueError(
      f"`{name}` must have {number} entries, one for each row, got "
      f"{len(values)}."
    )


def _rows_of(chosen: Sequence[str], names: Sequence[str]) -> list[int]:
  rows = {name: row for row, name in enumerate(names)} if chosen else {}
  for name in chosen:
    if name not in rows:
      raise ValueError(
        f"`chosen` must name symbols of the table, got {name!r}."
      )
  return [rows[name] for name in chosen]


def _table(records: Sequence[Any], columns: dict[str, str]) -> str:
  rows = [dataclasses.asdict(record) for record in records]
  for row in rows:
    if "largest_share" in row:
      row["largest"] = f"{row['largest_share']:.1%}"
      row["entropy"] = f"{row['entropy']:.3f}"
    if "symbols" in row:
      rest = row["size"] - len(row["symbols"])
      more = [f"and {rest:,} more"] if rest else []
      row["symbols"] = ", ".join([*row["symbols"], *more])
    if "nearest" in row:
      row["nearest"] = ", ".join(f"{s} ({n})" for s, n in row["nearest"])
  return format_table(rows, columns, markdown=True)
