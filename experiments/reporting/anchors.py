"""What the anchors of a trained table stand for, and whom they serve."""

import collections
import dataclasses
from collections.abc import Hashable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from anchor_codes import tables
from anchor_codes import typing as options
from experiments.reporting.tables import format_table

_ANCHOR_COLUMNS = {
  "index": "Anchor",
  "num_users": "Users",
  "label": "Label",
  "purity": "Purity",
  "weighted_purity": "Weighted",
  "top": "Symbols (share)",
}
_BUCKET_COLUMNS = {
  "name": "Count",
  "num_rows": "Rows",
  "zero_rows": "All-zero rows",
  "error": "Mean squared error",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Anchor:
  """How an anchor is used; the share of an anchor in a row is T_vk / sum T_v.

  Attributes:
    index: Its position.
    num_users: Rows in which its weight is not zero.
    top: The symbols of the rows in which it has the largest shares, and these.
    label: The most common label among its users, None without labels.
    purity: Part of the users with a label that have this one.
    weighted_purity: The largest part of one label, users weighted by share.
  """

  index: int
  num_users: int
  top: tuple[tuple[str, float], ...]
  label: Hashable = None
  purity: float | None = None
  weighted_purity: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bucket:
  """Rows whose symbols occur about equally often.

  Attributes:
    name: The range of counts.
    num_rows: Number of rows.
    zero_rows: Part of the rows that have no weight, from 0 to 1.
    error: Mean squared error, None if it is not known.
  """

  name: str
  num_rows: int
  zero_rows: float
  error: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnchorReport:
  """What :func:`anchor_report` finds.

  Attributes:
    num_embeddings: Number of rows.
    num_anchors: Number of anchors.
    num_nonzeros: Weights that are not zero.
    zero_rows: Part of the rows that have no weight, from 0 to 1.
    error: Mean squared error over all rows, None if it is not known.
    anchors: Each anchor, in order.
    buckets: Rows by frequency, the rarest first; none without counts.
  """

  num_embeddings: int
  num_anchors: int
  num_nonzeros: int
  zero_rows: float
  error: float | None
  anchors: tuple[Anchor, ...]
  buckets: tuple[Bucket, ...]

  def to_dict(self) -> dict[str, Any]:
    """Returns the report in terms that JSON has, but for labels as given."""
    return dataclasses.asdict(self)


class _Users(NamedTuple):
  """The rows that use an anchor, those with the largest shares first."""

  rows: np.ndarray
  shares: np.ndarray


def anchor_report(
  table: tables.AnchorTable,
  *,
  symbols: Sequence[str],
  labels: Sequence[Hashable] | None = None,
  counts: Any = None,
  errors: Any = None,
  top: int = 10,
) -> AnchorReport:
  """Describes the anchors of a table by the symbols that use them.

  Args:
    table: The table. Negative weights, as in a low-rank table, count by their
      absolute values.
    symbols: Name of each row.
    labels: A label of each row, such as a part of speech or a genre; None for
      a row without one.
    counts: How often the symbol of each row occurs in training; of symbols
      with equal shares the most frequent one goes first.
    errors: Mean squared error of each row; nan for rows that have none.
    top: Symbols that are named for each anchor.

  Returns:
    The report.

  Raises:
    ValueError: If something does not have one entry for each row.

  >>> table = tables.AnchorTable(
  ...   np.eye(2, dtype=np.float32),
  ...   weights=np.array([[2, 0], [1, 1], [0, 0]], np.float32),
  ... )
  >>> report = anchor_report(
  ...   table, symbols=["cat", "dog", "the"], labels=["noun", "noun", "other"]
  ... )
  >>> report.zero_rows == 1 / 3, report.anchors[0].purity
  (True, 1.0)
  >>> report.anchors[0].top
  (('cat', 1.0), ('dog', 0.5))
  """
  options.check_at_least("top", top, 1)
  rows = {"symbols": symbols, "labels": labels, "counts": counts}
  for name, values in {**rows, "errors": errors}.items():
    if values is not None and len(values) != table.num_embeddings:
      raise ValueError(
        f"`{name}` must have {table.num_embeddings} entries, one for each "
        f"row, got {len(values)}."
      )
  weights = np.abs(table.to_transform())
  is_zero = np.count_nonzero(weights, axis=1) == 0
  errors = None if errors is None else np.asarray(errors, float)
  everything = np.ones(len(weights), bool)
  whole = _bucket("all", everything, is_zero=is_zero, errors=errors)
  return AnchorReport(
    num_embeddings=table.num_embeddings,
    num_anchors=table.num_anchors,
    num_nonzeros=int(np.count_nonzero(weights)),
    zero_rows=whole.zero_rows,
    error=whole.error,
    anchors=tuple(
      _describe(index, users, symbols=symbols, labels=labels, top=top)
      for index, users in enumerate(_users_of(weights, counts))
    ),
    buckets=tuple(
      _bucket(name, chosen, is_zero=is_zero, errors=errors)
      for name, chosen in _frequency_buckets(counts)
    ),
  )


def _users_of(weights: np.ndarray, counts: Any) -> Iterator[_Users]:
  """Yields the users of each anchor."""
  frequency = np.zeros(len(weights)) if counts is None else np.asarray(counts)
  # In float64 the only anchor of a row has a share of exactly 1.
  totals = weights.sum(axis=1, dtype=np.float64)
  for column in weights.T:
    (rows,) = np.nonzero(column)
    shares = column[rows] / totals[rows]
    order = np.lexsort((rows, -frequency[rows], -shares))
    yield _Users(rows[order], shares[order])


def _describe(
  index: int,
  users: _Users,
  *,
  symbols: Sequence[str],
  labels: Sequence[Hashable] | None,
  top: int,
) -> Anchor:
  first = zip(users.rows[:top], users.shares[:top], strict=True)
  anchor = Anchor(
    index=index,
    num_users=len(users.rows),
    top=tuple((symbols[int(row)], float(share)) for row, share in first),
  )
  if labels is None:
    return anchor
  # The number and the sum of shares of the users with each label.
  numbers, sums = collections.Counter(), collections.Counter()
  for row, share in zip(users.rows, users.shares, strict=True):
    if labels[row] is not None:
      numbers[labels[row]] += 1
      sums[labels[row]] += share
  if not numbers:
    return anchor
  ((label, number),) = numbers.most_common(1)
  return dataclasses.replace(
    anchor,
    label=label,
    purity=number / numbers.total(),
    weighted_purity=float(max(sums.values()) / sum(sums.values())),
  )


def _frequency_buckets(counts: Any) -> Iterator[tuple[str, np.ndarray]]:
  """Yields which rows have no occurrence, 1 to 9, 10 to 99, and so on."""
  if counts is None:
    return
  counts = np.asarray(counts)
  low, high = 0, 1
  while low <= counts.max(initial=0):
    chosen = (counts >= low) & (counts < high)
    name = f"{low:,}" if high == low + 1 else f"{low:,} to {high - 1:,}"
    if chosen.any():
      yield name, chosen
    low, high = high, 10 * high


def _bucket(
  name: str,
  chosen: np.ndarray,
  *,
  is_zero: np.ndarray,
  errors: np.ndarray | None,
) -> Bucket:
  known = np.zeros(0) if errors is None else errors[chosen]
  known = known[~np.isnan(known)]
  return Bucket(
    name=name,
    num_rows=int(chosen.sum()),
    zero_rows=float(is_zero[chosen].mean()),
    error=float(known.mean()) if known.size else None,
  )


def format_report(report: AnchorReport) -> str:
  """Writes a report as Markdown.

  Args:
    report: What :func:`anchor_report` has found.

  Returns:
    A sentence on the table, a table of the frequencies if these are known, and
    a table of the anchors, the most used first; columns of what is not known
    are left out.
  """
  parts = [
    f"{report.num_embeddings:,} rows with {report.num_nonzeros:,} weights of "
    f"{report.num_anchors:,} anchors; {report.zero_rows:.1%} of the rows have "
    "none."
  ]
  if report.buckets:
    parts.append(_table(report.buckets, _BUCKET_COLUMNS))
  anchors = sorted(report.anchors, key=lambda anchor: -anchor.num_users)
  parts.append(_table(anchors, _ANCHOR_COLUMNS))
  return "\n\n".join(parts) + "\n"


def _table(records: Sequence[Any], columns: dict[str, str]) -> str:
  rows = [dataclasses.asdict(record) for record in records]
  for row in rows:
    if "top" in row:
      shares = (f"{symbol} ({share:.2f})" for symbol, share in row["top"])
      row["top"] = ", ".join(shares)
  known = {
    name: heading
    for name, heading in columns.items()
    if any(row[name] is not None for row in rows)
  }
  return format_table(rows, known, markdown=True)
