"""The state of training, and what a step is told about its batch."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from jax.sharding import PartitionSpec
from jaxtyping import Array


class Penalty(Protocol):
  """Factors of the penalty, for the rows of a batch."""

  def multipliers(self, ids: Array, transform: Array, /) -> Array:
    """Returns the factors of the weights of some rows."""
    ...


class TrainState(NamedTuple):
  """All that training changes.

  Attributes:
    step: Number of steps taken.
    rows: Variables with one record for each symbol; the trained ones are
      updated by row.
    params: All other parameters.
    stats: Moving moments, and all other variables.
    row_states: State of the optimiser of each table of `rows`.
    opt_state: State of the optimiser of `params`.
    carry: What a batch hands on to the next one, such as the state of an LSTM,
      split over the devices like the batch; usually empty.
  """

  step: Any
  rows: Any
  params: Any
  stats: Any
  row_states: Any
  opt_state: Any
  carry: Any


STATE_SPECS = TrainState(*[PartitionSpec()] * 6, carry=PartitionSpec("data"))
"""How the state lies on several devices that all have all rows."""


class Selection(NamedTuple):
  """What a step works on.

  Attributes:
    ids: The distinct ids of the rows in use, by the name of their table.
    model: The model, with only these rows in its tables.
    loss: From such a model to the number to minimise and a pair: the metrics,
      a mapping with a "loss", and the new `carry`.
  """

  ids: dict[str, Array]
  model: Any
  loss: Callable[[Any], tuple[Array, tuple[dict[str, Array], Any]]]
