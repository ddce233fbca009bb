"""What the theory of shared embeddings says of a few runs, as a table."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp

from anchor_codes import ops
from anchor_codes import typing as options
from anchor_codes.ops import transitions
from anchor_codes.ops.graphs import AnyGraph
from experiments.reporting.tables import format_table

COLUMNS = {
  "name": "Setting",
  "rate": "Rate",
  "neighbor_ratio": "Ratio",
  "second_eigenvalue": "2nd eigenvalue",
  "complexity": "Complexity",
  "complexity_error": "+-",
  "bias": "Bias",
  "spread": "Spread of rows",
  "train": "Train",
  "test": "Test",
  "gap": "Gap",
}
"""Heading of each column of :func:`sharing_report`."""

# Settings differ in their rate, for which nothing is compiled anew.
_second_eigenvalue = jax.jit(
  ops.second_eigenvalue, static_argnames="num_embeddings"
)
_complexity = jax.jit(ops.empirical_complexity, static_argnames="num_signs")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
  """A way to replace ids, and what training with it has come to.

  Attributes:
    name: How it is called.
    rate: Probability of replacement, between 0 and 1.
    graph: Neighbours of each id, for SSE-Graph.
    neighbor_ratio: How many times as likely as another id a neighbour is.
    table: The trained rows [num_embeddings, features], if they are at hand.
    train: The error on training data, with no ids replaced.
    test: The same error on other data.

  Raises:
    ValueError: If the rate or the ratio is out of range.
  """

  name: str
  rate: float
  graph: AnyGraph | None = None
  neighbor_ratio: float = 1.0
  table: Any = None
  train: float | None = None
  test: float | None = None

  def __post_init__(self) -> None:
    options.check_rate("rate", self.rate)
    transitions.check_ratio(self.neighbor_ratio)


def sharing_report(
  settings: Sequence[Setting],
  *,
  num_embeddings: int,
  losses: Any = None,
  ids: Any = None,
  num_signs: int = 1000,
  seed: int = 0,
) -> list[dict[str, Any]]:
  """Computes the diagnostics of each setting, in one row of a table each.

  Args:
    settings: What to compare; a rate of 0 is what to compare with.
    num_embeddings: Number of ids of the table.
    losses: Losses [num_models, num_embeddings] of a few models for each
      embedding, the same ones for all settings. Without them there is no
      complexity and no bias.
    ids: The id of each sample; by default each id has one.
    num_signs: Draws for the complexity.
    seed: Seed of those draws, which all settings share.

  Returns:
    Cells by the names of `COLUMNS`: the bias is the largest of all models, the
    gap is that of `test` over `train`. What is not known is missing.

  Raises:
    ValueError: If a graph or the losses are of another size.

  >>> rows = sharing_report([Setting(name="SE", rate=0.2)], num_embeddings=5)
  >>> print(rows[0]["name"], round(rows[0]["second_eigenvalue"], 4))
  SE 0.75
  """
  keys = jax.random.split(jax.random.key(seed))
  losses = _check_losses(losses, num_embeddings)
  ids = None if ids is None else jnp.asarray(ids)
  rows = []
  for setting in settings:
    law = _law(setting)
    row: dict[str, Any] = {"name": setting.name, "rate": setting.rate}
    if setting.graph is not None:
      row["neighbor_ratio"] = setting.neighbor_ratio
    row["second_eigenvalue"] = _second_eigenvalue(
      keys[0], num_embeddings=num_embeddings, **law
    )
    if losses is not None:
      complexity = _complexity(
        keys[1], losses, ids=ids, num_signs=num_signs, **law
      )
      row["complexity"], row["complexity_error"] = complexity
      row["bias"] = _largest_bias(losses, ids, law)
    rows.append(_plain(row) | _trained(setting))
  return rows


def format_sharing(
  rows: Sequence[dict[str, Any]], *, markdown: bool = False
) -> str:
  """Lays out the rows of :func:`sharing_report`.

  Args:
    rows: The rows.
    markdown: Whether to write a Markdown table.

  Returns:
    The table, of those columns that have something in them.

  >>> print(format_sharing([{"name": "SE", "rate": 0.2, "gap": None}]))
  Setting    Rate
  -------  ------
  SE       0.2000
  """
  known = {name for row in rows for name in row if row[name] is not None}
  columns = {name: head for name, head in COLUMNS.items() if name in known}
  return format_table(rows, columns or COLUMNS, markdown=markdown)


def _check_losses(losses: Any, num_embeddings: int) -> jax.Array | None:
  if losses is None:
    return None
  if np.shape(losses)[1:] != (num_embeddings,):
    raise ValueError(
      f"`losses` must have {num_embeddings} columns, got "
      f"{np.shape(losses)[-1]}."
    )
  return jnp.asarray(losses)


def _law(setting: Setting) -> dict[str, Any]:
  return {
    "rate": setting.rate,
    "graph": setting.graph,
    "neighbor_ratio": setting.neighbor_ratio,
  }


@jax.jit
def _largest_bias(
  losses: jax.Array, ids: jax.Array | None, law: dict[str, Any]
) -> jax.Array:
  bias = jax.vmap(lambda row: ops.expected_bias(row, ids=ids, **law))
  return jnp.max(jnp.abs(bias(losses)))


def _trained(setting: Setting) -> dict[str, float]:
  """Returns what only a trained model has."""
  row = {}
  if setting.table is not None:
    table = jnp.asarray(setting.table)
    row["spread"] = float(ops.mean_squared_distance(table))
  if setting.train is not None:
    row["train"] = setting.train
  if setting.test is not None:
    row["test"] = setting.test
  if len(row.keys() & {"train", "test"}) == 2:
    row["gap"] = row["test"] - row["train"]
  return row


def _plain(row: dict[str, Any]) -> dict[str, Any]:
  """Turns arrays into numbers, which tables and JSON files can show."""
  return {
    name: float(value) if isinstance(value, jax.Array) else value
    for name, value in row.items()
  }
