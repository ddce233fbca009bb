"""All that a page shows of a table, computed with NumPy alone."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from anchor_codes import tables
from anchor_codes.report import facts
from anchor_codes.report.anchor_use import AnchorUse, measure_anchors
from anchor_codes.report.code_use import CodeUse, measure_codes
from anchor_codes.report.components import Component, find_components
from anchor_codes.report.neighbors import (
  Neighbors,
  find_neighbors,
  kept_share,
)
from anchor_codes.report.scope import Scope, pack, word_of


@dataclasses.dataclass(frozen=True)
class Section:
  """What a page shows of a table.

  Attributes:
    name: The headline.
    facts: Names and values at the head.
    note: Which symbols are shown.
    parts: Its tensors, as :func:`facts.part_rows` lists them.
    norms: Histogram of the lengths of its vectors.
    uses: How symbols use its anchors or codes.
    histograms: For each of these, of the non-zeros of a row, or of the symbols
      of an entry.
    words: The symbols that are shown, or are neighbours of such, by id.
    curve: What a compression has tried, or None.
    data: What the script of the page needs, as JSON.
  """

  name: str
  facts: list[facts.Fact]
  note: str
  parts: list[dict[str, Any]]
  norms: list[dict[str, Any]]
  uses: list[AnchorUse | CodeUse]
  histograms: list[list[dict[str, Any]]]
  words: Mapping[int, str]
  curve: Mapping[str, Any] | None
  data: dict[str, Any]


def make_section(
  table: tables.Table,
  *,
  name: str,
  max_symbols: int,
  original: np.ndarray | None = None,
  curve: Mapping[str, Any] | None = None,
) -> Section:
  """Computes what a page shows of a table.

  Args:
    table: A table of any kind.
    name: The headline.
    max_symbols: Symbols to show at most, the first ones.
    original: The vectors that it was made of, or None.
    curve: What a compression has tried, or None.

  Raises:
    ValueError: If `original` is of another shape, or `max_symbols` is not
      positive.
  """
  scope = Scope.of(table, max_symbols=max_symbols)
  if original is not None:
    check_original(original, table)
  uses = [_measure(found, scope) for found in _named_components(table)]
  after = find_neighbors(table.lookup(np.arange(scope.searched)), scope)
  before, more = None, []
  if original is not None:
    some = np.asarray(original[: scope.searched], np.float32)
    before = find_neighbors(some, scope)
    kept = f"{kept_share(before, after):.0%}"
    more.append(facts.Fact("neighbours kept", kept))
  words = _words(table, scope, uses, [after] + ([before] if before else []))
  return Section(
    name=name,
    facts=[*facts.table_facts(table), *_use_facts(uses), *more],
    note=scope.note(),
    parts=facts.part_rows(table),
    norms=facts.histogram(facts.row_norms(table)),
    uses=uses,
    histograms=[facts.histogram(_counts(use)) for use in uses],
    words=words,
    curve=curve,
    data=_data(scope, uses, after, before, words),
  )


def check_original(original: np.ndarray, table: tables.Table) -> None:
  """Checks that vectors can be those that a table was made of.

  Raises:
    ValueError: If their shape is another one.
  """
  shape = (table.num_embeddings, table.features)
  if original.shape != shape:
    raise ValueError(
      f"`original` must have the shape {shape} of the table, got "
      f"{original.shape}."
    )


def _named_components(table: tables.Table) -> list[Component]:
  """Returns the components; one alone needs no name."""
  found = find_components(table)
  return found if len(found) > 1 else [c._replace(name="") for c in found]


def _measure(component: Component, scope: Scope) -> AnchorUse | CodeUse:
  if isinstance(component.table, tables.AnchorTable):
    return measure_anchors(component, scope)
  return measure_codes(component, scope)


def _counts(use: AnchorUse | CodeUse) -> np.ndarray:
  return use.num_nonzeros if isinstance(use, AnchorUse) else use.entry_uses


def _use_facts(uses: Sequence[AnchorUse | CodeUse]) -> Iterator[facts.Fact]:
  for use in uses:
    where = f", {use.name}" if use.name else ""
    for name, value in _sizes(use).items():
      yield facts.Fact(name + where, value)


def _sizes(use: AnchorUse | CodeUse) -> dict[str, str]:
  if isinstance(use, AnchorUse):
    return {
      "anchors": f"{len(use.uses):,}",
      "anchors for each row": f"{use.num_nonzeros.mean():.1f}",
    }
  return {
    "digits x values": f"{use.code_length:,} x {use.codebook_size:,}",
    "different codes": f"{use.num_codes:,}",
    "unused entries": f"{use.unused:,}",
  }


def _words(
  table: tables.Table,
  scope: Scope,
  uses: Sequence[AnchorUse | CodeUse],
  neighbors: Sequence[Neighbors],
) -> dict[int, str]:
  """Returns the symbols shown, and those that are named beside them."""
  members = [use.members for use in uses if isinstance(use, AnchorUse)]
  named = [found.ids for found in neighbors]
  ids = [array.reshape(-1) for array in (*members, *named)]
  known = np.unique(np.concatenate([np.arange(scope.shown), *ids]))
  return {i: word_of(table, i) for i in known.tolist()}


def _data(
  scope: Scope,
  uses: Sequence[AnchorUse | CodeUse],
  after: Neighbors,
  before: Neighbors | None,
  words: Mapping[int, str],
) -> dict[str, Any]:
  others = {str(i): word for i, word in words.items() if i >= scope.shown}
  return {
    "words": [words[i] for i in range(scope.shown)],
    "others": others,
    "components": [use.to_json() for use in uses],
    "after": _pack(after),
    "before": None if before is None else _pack(before),
  }


def _pack(neighbors: Neighbors) -> dict[str, Any]:
  thousandths = np.rint(1000 * neighbors.scores).astype(np.int16)
  return {"ids": pack(neighbors.ids), "scores": pack(thousandths)}
