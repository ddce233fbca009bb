"""What a table is: its sizes, its parts and the lengths of its vectors."""

import json
import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from anchor_codes import tables
from anchor_codes.accounting import human_bytes
from anchor_codes.tables import vocabulary

_BLOCK = 16384  # Rows that are dense at a time.
_BINS = 40
_ACRONYMS = {"auc", "bleu", "mse", "ndcg", "rmse"}


class Fact(NamedTuple):
  """A line at the head of a page: a name, and a value as it is shown."""

  name: str
  value: str


def table_facts(table: tables.Table) -> list[Fact]:
  """Lists the sizes of a table, and its quality as it was stored.

  >>> table = tables.DenseTable(np.eye(3, dtype=np.float32), quality='{"a": 1}')
  >>> for fact in table_facts(table): print(fact)
  Fact(name='kind', value='dense')
  Fact(name='rows x features', value='3 x 3')
  Fact(name='bytes', value='36 B')
  Fact(name='times smaller', value='1.0')
  Fact(name='bits for each row', value='96')
  Fact(name='a, as stored', value='1')
  """
  return [
    Fact("kind", table.kind),
    Fact("rows x features", f"{table.num_embeddings:,} x {table.features:,}"),
    Fact("bytes", human_bytes(table.nbytes)),
    Fact("times smaller", f"{table.compression_ratio:.1f}"),
    Fact("bits for each row", f"{table.bits_per_row:,}"),
    *_quality_facts(table.quality),
  ]


def _quality_facts(quality: str | None) -> Iterator[Fact]:
  if quality is None:
    return
  try:
    found = json.loads(quality)
  except ValueError:  # Whatever another program wrote there.
    found = quality
  if isinstance(found, Mapping):
    for name, value in named_facts(found):
      yield Fact(f"{name}, as stored", value)
  else:
    yield Fact("quality, as stored", str(found))


def named_facts(values: Mapping[str, Any]) -> Iterator[Fact]:
  """Yields values by name in words: floats with four digits.

  >>> list(named_facts({"test_mse": 0.123456}))
  [Fact(name='test MSE', value='0.1235')]
  """
  for name, value in values.items():
    shown = f"{value:.4g}" if isinstance(value, float) else str(value)
    yield Fact(in_words(str(name)), shown)


def in_words(name: str) -> str:
  """Returns the name of a metric as it stands in a sentence.

  >>> in_words("test_ndcg_at_10")
  'test NDCG at 10'
  """
  words = name.split("_")
  shown = (word.upper() if word in _ACRONYMS else word for word in words)
  return " ".join(shown).strip()


def part_rows(table: tables.Table) -> list[dict[str, Any]]:
  """Lists the tensors of the file of a table, the largest first.

  >>> part_rows(tables.DenseTable(np.eye(3, dtype=np.float32)))
  [{'part': 'rows', 'type': 'float32', 'shape': '3 x 3', 'bytes': 36,
    'size': '36 B', 'share': 1.0}]
  """
  arrays = table.tensors
  if table.vocabulary is not None:
    arrays["vocabulary"] = vocabulary.encode(table.vocabulary)
  total = sum(array.nbytes for array in arrays.values())
  rows = [
    {
      "part": _short(name, arrays),
      "type": array.dtype.name,
      "shape": " x ".join(f"{length:,}" for length in array.shape),
      "bytes": array.nbytes,
      "size": human_bytes(array.nbytes),
      "share": array.nbytes / total,
    }
    for name, array in arrays.items()
  ]
  return sorted(rows, key=lambda row: -row["bytes"])


def _short(name: str, names: Collection[str]) -> str:
  """Leaves the tables around a part out of its name, if it stays clear.

  >>> _short("inner.inner.packed", ["inner.inner.packed", "norms"])
  'packed'
  >>> _short("left.rows", ["left.rows", "right.rows"])
  'left.rows'
  """
  last = name.rpartition(".")[2]
  same = [other for other in names if other.rpartition(".")[2] == last]
  return last if len(same) == 1 else name


def row_norms(table: tables.Table) -> np.ndarray:
  """Returns the lengths of all vectors, float32, block by block.

  >>> print(row_norms(tables.DenseTable(np.float32([[3, 4], [0, 1]]))))
  [5. 1.]
  """
  norms = np.empty(table.num_embeddings, np.float32)
  for start in range(0, table.num_embeddings, _BLOCK):
    ids = np.arange(start, min(start + _BLOCK, table.num_embeddings))
    norms[ids] = np.linalg.norm(table.lookup(ids), axis=1)
  return norms


def histogram(values: np.ndarray) -> list[dict[str, Any]]:
  """Counts values in bins of one width; integers in bins of whole numbers.

  Args:
    values: Finite numbers, at least one.

  Returns:
    Where each bin begins and ends, what to call it, and how many are in it.

  >>> for row in histogram(np.array([1, 2, 2])): print(row)
  {'begin': 0.5, 'end': 1.5, 'bin': '1', 'count': 1}
  {'begin': 1.5, 'end': 2.5, 'bin': '2', 'count': 2}
  """
  low, high = values.min(), values.max()
  whole = values.dtype.kind in "iu"
  if whole:
    width = math.ceil((int(high) - int(low) + 1) / _BINS)
    edges = np.arange(int(low), int(high) + width + 1, width) - 0.5
  else:
    # In float64: between lengths that differ in their last bit there is no room
    # for edges of their own type.
    edges = np.histogram_bin_edges(values.astype(np.float64), _BINS)
  counts, edges = np.histogram(values, edges)
  return [
    {
      "begin": begin,
      "end": end,
      "bin": _bin_name(begin, end, whole=whole),
      "count": count,
    }
    for begin, end, count in zip(
      edges[:-1].tolist(), edges[1:].tolist(), counts.tolist(), strict=True
    )
  ]


def _bin_name(begin: float, end: float, *, whole: bool) -> str:
  if not whole:
    return f"{begin:.4g} to {end:.4g}"
  first, last = round(begin + 0.5), round(end - 0.5)
  return f"{first}" if first == last else f"{first} to {last}"
