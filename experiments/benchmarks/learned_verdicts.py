"""What the runs of :mod:`.learned_anchors` say, a line for each question.

Runs are cells by name: `part`, `seed`, `start`, `price` as text, the anchors of
`users` and of `items`, `objective`, `seconds` and `epochs`.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Cells = Mapping[str, Any]

TABLES = ("users", "items")
_TOLERANCE = 0.01  # Of objectives that count as equal.


def verdicts(cells: Sequence[Cells]) -> list[str]:
  """Returns a line for each question that the runs so far can answer."""
  starts, prices, fixed, trend = (
    [row for row in cells if row["part"] == part]
    for part in ("starts", "prices", "fixed", "trend")
  )
  lines = [numbers_agree(starts), objectives_agree(starts)] if starts else []
  if prices:
    same = {(row["seed"], row["start"]) for row in prices}
    # The price of the starts is one more point of the line of prices.
    shared = [row for row in starts if (row["seed"], row["start"]) in same]
    lines.append(never_rises([*prices, *shared]))
  if starts and fixed:
    lines += [no_worse_than_grid(starts, fixed), cost(starts, fixed)]
  if trend:
    lines.append(trend_follows(trend))
  return lines


def numbers_agree(starts: Sequence[Cells]) -> str:
  """Tells whether a seed ends with nearly the same numbers from all starts.

  >>> learned = {2: 4, 10: 5, 20: 6}
  >>> numbers_agree([
  ...   {"seed": 0, "start": start, "users": number, "items": 5}
  ...   for start, number in learned.items()
  ... ])
  'numbers within ±1: yes (users 4 to 6, items 5 to 5)'
  """
  near = all(
    max(row[table] for row in runs) - min(row[table] for row in runs) <= 2
    for runs in _by_seed(starts)
    for table in TABLES
  )
  ranges = (
    f"{table} {min(row[table] for row in starts)} to "
    f"{max(row[table] for row in starts)}"
    for table in TABLES
  )
  return f"numbers within ±1: {_yes(near)} ({', '.join(ranges)})"


def objectives_agree(starts: Sequence[Cells]) -> str:
  """Tells whether a seed ends with nearly the same objective from all starts.

  >>> objectives_agree([
  ...   {"seed": 0, "objective": 0.8}, {"seed": 0, "objective": 0.82}
  ... ])
  'objectives within 1 %: no (2.50 % apart at most)'
  """
  apart = 0.0
  for runs in _by_seed(starts):
    values = [row["objective"] for row in runs]
    apart = max(apart, max(values) / min(values) - 1)
  answer = _yes(apart <= _TOLERANCE)
  return f"objectives within 1 %: {answer} ({100 * apart:.2f} % apart at most)"


def never_rises(prices: Sequence[Cells]) -> str:
  """Tells whether a higher price of an anchor never gives more anchors.

  >>> never_rises([
  ...   {"price": "0.01", "users": 4, "items": 3},
  ...   {"price": "0.001", "users": 6, "items": 3},
  ... ])
  'never rises: yes (price: users + items; 0.001: 6 + 3, 0.01: 4 + 3)'
  """
  rows = sorted(prices, key=lambda row: float(row["price"]))
  falls = all(
    more[table] >= fewer[table]
    for more, fewer in itertools.pairwise(rows)
    for table in TABLES
  )
  course = ", ".join(
    f"{row['price']}: {row['users']} + {row['items']}" for row in rows
  )
  return f"never rises: {_yes(falls)} (price: users + items; {course})"


def no_worse_than_grid(starts: Sequence[Cells], fixed: Sequence[Cells]) -> str:
  """Tells whether each run is as good as the best fixed number of its seed.

  >>> no_worse_than_grid(
  ...   [{"seed": 0, "objective": 0.79}, {"seed": 0, "objective": 0.808}],
  ...   [{"seed": 0, "start": 4, "objective": 0.8}],
  ... )
  'no worse than the best of the grid: no (1 of 2 runs; on average -0.12 %, at
  worst +1.00 %; the best: 4)'
  """
  best = {
    runs[0]["seed"]: min(runs, key=lambda row: row["objective"])
    for runs in _by_seed(fixed)
  }
  ratios = np.array(
    [
      row["objective"] / best[row["seed"]]["objective"] - 1
      for row in starts
      if row["seed"] in best
    ]
  )
  numbers = ", ".join(str(row["start"]) for row in best.values())
  return (
    f"no worse than the best of the grid: {_yes(bool((ratios <= 0).all()))} "
    f"({int((ratios <= 0).sum())} of {len(ratios)} runs; on average "
    f"{100 * ratios.mean():+.2f} %, at worst {100 * ratios.max():+.2f} %; "
    f"the best: {numbers})"
  )


def cost(starts: Sequence[Cells], fixed: Sequence[Cells]) -> str:
  """Compares the seconds of runs, with all that they compile.

  >>> cost([{"seconds": 30.0, "epochs": 20}], [{"seconds": 20.0, "epochs": 20}])
  'cost: learned / plain seconds 1.50 (30 s in 20 epochs / 20 s in 20 epochs)'
  """
  means = [
    (
      float(np.mean([row["seconds"] for row in runs])),
      float(np.mean([row["epochs"] for row in runs])),
    )
    for runs in (starts, fixed)
  ]
  ratio = means[0][0] / means[1][0]
  parts = (
    f"{seconds:.0f} s in {epochs:.0f} epochs" for seconds, epochs in means
  )
  return f"cost: learned / plain seconds {ratio:.2f} ({' / '.join(parts)})"


def trend_follows(trend: Sequence[Cells]) -> str:
  """Tells what the rule 'trend' has learned from each start, at each price.

  >>> trend_follows([{"start": 10, "price": "0.1", "users": 38, "items": 38}])
  'trend: 10 at price 0.1 ends with 38 + 38'
  """
  ends = (
    f"{row['start']} at price {row['price']} ends with "
    f"{row['users']} + {row['items']}"
    for row in trend
  )
  return f"trend: {', '.join(ends)}"


def _by_seed(cells: Sequence[Cells]) -> list[list[Cells]]:
  seeds = dict.fromkeys(row["seed"] for row in cells)
  return [[row for row in cells if row["seed"] == seed] for seed in seeds]


def _yes(answer: bool) -> str:
  return "yes" if answer else "no"
