r"""NBANT: the number of anchors is learned, between chunks of training.

A controller is a frozen record on the host. After each round of training it
sees the validation loss and how much worse it were without each anchor, and
answers with a plan: which anchors stay, how many come, whether an earlier round
was better. It minimises the objective of
:func:`anchor_codes.ops.small_variance_objective`.

>>> controller = MarginalController(
...   anchor_penalty=0.1, l1=0.0, growth_rounds=1, drop_share=0.5)
>>> losses = {4: 0.5, 2: 0.55, 1: 0.9}  # of models with 4, 2 and 1 anchors
>>> num_anchors, done = 4, False
>>> while not done:
...   importances = {"words": np.arange(float(num_anchors))}
...   controller, plan = controller.update(
...     AnchorStatistics(losses[num_anchors], 100, importances))
...   print(num_anchors, plan.keep["words"], plan.restore)
...   num_anchors, done = len(plan.keep["words"]), plan.done
4 (2, 3) None
2 (1,) None
1 (0, 1) 1
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np

from anchor_codes import typing
from anchor_codes.ops import nonparametric


class AnchorStatistics(NamedTuple):
  """What a controller sees of a round of training.

  Attributes:
    loss: The loss on validation data.
    num_nonzeros: Non-zero weights of all tables.
    importances: For each table, of each of its anchors, how much the validation
      loss rises when the anchor is taken out.
  """

  loss: float
  num_nonzeros: int
  importances: Mapping[str, np.ndarray]


class AnchorPlan(NamedTuple):
  """What a controller decides.

  Attributes:
    keep: For each table the positions of the anchors that stay, ascending.
    num_new: For each table the number of fresh anchors.
    restore: The round whose state is to be taken up again, if not the last.
    done: Whether the numbers of anchors are final.
  """

  keep: Mapping[str, tuple[int, ...]]
  num_new: Mapping[str, int]
  restore: int | None = None
  done: bool = False


class AnchorRound(NamedTuple):
  """The record of a round.

  Attributes:
    num_anchors: Number of anchors of each table.
    loss: The loss on validation data.
    num_nonzeros: Non-zero weights of all tables.
  """

  num_anchors: Mapping[str, int]
  loss: float
  num_nonzeros: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnchorController:
  """What the rules share: the prices, and the record of all rounds.

  Attributes:
    anchor_penalty: Price of one more anchor, in units of the validation loss.
    l1: Price of one more non-zero weight, at most `anchor_penalty`.
    max_anchors: The most anchors that a table may have.
    rounds: The rounds so far.

  Raises:
    ValueError: If a price or a size is outside its range.
  """

  anchor_penalty: float
  l1: float
  max_anchors: int = 40
  rounds: tuple[AnchorRound, ...] = ()

  def __post_init__(self):
    nonparametric.check_prices(l1=self.l1, anchor_penalty=self.anchor_penalty)
    typing.check_at_least("max_anchors", self.max_anchors, 1)

  def update(self, statistics: AnchorStatistics) -> tuple[Self, AnchorPlan]:
    """Takes in a round of training.

    Args:
      statistics: What was measured after it.

    Returns:
      The controller to go on with, and the plan for the next round.
    """
    raise NotImplementedError

  def objectives(self) -> np.ndarray:
    """Returns the objective after each round."""
    return np.array([self._objective(r.loss, r) for r in self.rounds])

  def to_metadata(self) -> dict[str, Any]:
    """Returns what changes in the record, as JSON can hold it."""
    rounds = [
      [dict(r.num_anchors), r.loss, r.num_nonzeros] for r in self.rounds
    ]
    return {"rounds": rounds}

  def from_metadata(self, metadata: Mapping[str, Any]) -> Self:
    """Returns the controller with the record from :meth:`to_metadata`."""
    rounds = tuple(AnchorRound(*r) for r in metadata["rounds"])
    return dataclasses.replace(self, rounds=rounds)

  def _record(self, statistics: AnchorStatistics) -> Self:
    sizes = {t: len(i) for t, i in statistics.importances.items()}
    # Python's numbers: JSON does not know those of NumPy.
    new = AnchorRound(
      sizes, float(statistics.loss), int(statistics.num_nonzeros)
    )
    return dataclasses.replace(self, rounds=(*self.rounds, new))

  def _objective(self, loss: float, at: AnchorRound) -> float:
    return float(
      nonparametric.small_variance_objective(
        loss,
        at.num_nonzeros,
        sum(at.num_anchors.values()),
        l1=self.l1,
        anchor_penalty=self.anchor_penalty,
      )
    )

  def _grow(self, num_new: Mapping[str, int]) -> AnchorPlan:
    """Keeps all anchors, and adds some as far as there is room."""
    sizes = self.rounds[-1].num_anchors
    return AnchorPlan(
      keep={t: tuple(range(n)) for t, n in sizes.items()},
      num_new={
        t: min(num_new[t], max(self.max_anchors - n, 0))
        for t, n in sizes.items()
      },
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrendController(AnchorController):
  r"""Follows the trend of the objective, as Liang et al. (2021) do.

  While the last three objectives do not rise, or there are fewer, `delta`
  anchors come; while they do not fall, the last `delta` go. The rule does not
  ask what its own last step has changed, so that the number hardly depends on
  `anchor_penalty`; it is here for comparison.

  Attributes:
    delta: Anchors that come or go at once.

  >>> controller = TrendController(anchor_penalty=0.01, l1=1e-4, delta=1)
  >>> for loss in (0.7, 0.8, 0.9):
  ...   usefulness = {"items": np.array([0.3, 0.0])}
  ...   round = AnchorStatistics(loss, 50, usefulness)
  ...   controller, plan = controller.update(round)
  >>> plan.keep["items"], plan.num_new["items"]
  ((0,), 0)
  """

  max_anchors: int = 100
  delta: int = 2

  def __post_init__(self):
    super().__post_init__()
    typing.check_at_least("delta", self.delta, 1)

  def update(self, statistics: AnchorStatistics) -> tuple[Self, AnchorPlan]:
    """Takes in a round of training; the plan is never final."""
    new = self._record(statistics)
    sizes = new.rounds[-1].num_anchors
    steps = np.diff(new.objectives()[-3:])
    if len(steps) < 2 or (steps <= 0).all():
      return new, new._grow(dict.fromkeys(sizes, self.delta))
    if not (steps >= 0).all():
      return new, new._grow(dict.fromkeys(sizes, 0))
    keep = {t: tuple(range(max(n - self.delta, 1))) for t, n in sizes.items()}
    return new, AnchorPlan(keep, dict.fromkeys(sizes, 0))


@dataclasses.dataclass(frozen=True, kw_only=True)
class MarginalController(AnchorController):
  r"""Grows while the model is young, then prunes along a path by trial.

  *Growth.* In the first rounds the number of anchors doubles, up to
  `max_anchors`: anchors that come late barely take.

  *Pruning.* Then each round takes out the least useful anchors of each table,
  those without which the validation loss rises least, and training goes on, so
  that others can take over. The path ends when `patience` rounds in a row were
  no better than the best, or each table is left with one anchor, and the state
  of the best round is taken up again. One trial is one draw: losses are
  smoothed along the path by the weights 1/4, 1/2, 1/4 before they are compared.

  The path does not depend on `anchor_penalty`, only where it ends. A larger
  price therefore never gives more anchors: if a round is better than all before
  it, it is so at any larger price, since it has fewer anchors than they.

  Attributes:
    growth_rounds: Rounds of growth.
    drop_share: Share of a table's anchors that a round of pruning takes out, at
      least one anchor.
    patience: Rounds without improvement that end the path.
    pruning_from: The first round of the path, None in growth.

  >>> controller = MarginalController(
  ...   anchor_penalty=0.01, l1=1e-4, growth_rounds=1
  ... )
  >>> usefulness = {"items": np.array([0.3, 0.0, 0.2])}
  >>> round = AnchorStatistics(0.7, 50, usefulness)
  >>> controller, plan = controller.update(round)
  >>> plan.keep["items"]  # The second one is of no use.
  (0, 2)
  """

  growth_rounds: int = 8
  drop_share: float = 0.2
  patience: int = 3
  pruning_from: int | None = None

  def __post_init__(self):
    super().__post_init__()
    typing.check_at_least("growth_rounds", self.growth_rounds, 1)
    typing.check_at_least("patience", self.patience, 1)
    typing.check_rate("drop_share", self.drop_share)

  def update(self, statistics: AnchorStatistics) -> tuple[Self, AnchorPlan]:
    """Takes in a round of training."""
    new = self._record(statistics)
    if len(new.rounds) < self.growth_rounds:
      return new, new._grow(new.rounds[-1].num_anchors)
    if new.pruning_from is None:
      new = dataclasses.replace(new, pruning_from=len(new.rounds) - 1)
    at_end = max(new.rounds[-1].num_anchors.values()) == 1
    trials = new._trials(at_end=at_end)
    # The first loss of the path is not known before the second.
    best = int(np.argmin(trials)) if len(trials) else 0
    if at_end or len(trials) - 1 - best >= self.patience:
      return new, new._finish(best)
    return new, _drop(statistics.importances, self.drop_share)

  def reopen(self, *, growth_rounds: int) -> Self:
    """Returns a controller that may grow again, because there are new data.

    Args:
      growth_rounds: Rounds of growth before it prunes.
    """
    return dataclasses.replace(
      self, rounds=(), pruning_from=None, growth_rounds=growth_rounds
    )

  @property
  def oldest_needed(self) -> int:
    """The oldest round whose state a later plan may restore."""
    # In growth no earlier round is taken up again.
    if self.pruning_from is None:
      return len(self.rounds)
    trials = self._trials(at_end=False)
    best = int(np.argmin(trials)) if len(trials) else 0
    return self.pruning_from + best

  def to_metadata(self) -> dict[str, Any]:
    """Returns what changes in the record, as JSON can hold it."""
    return super().to_metadata() | {
      "pruning_from": self.pruning_from,
      "growth_rounds": self.growth_rounds,
    }

  def from_metadata(self, metadata: Mapping[str, Any]) -> Self:
    """Returns the controller with the record from :meth:`to_metadata`."""
    names = ("pruning_from", "growth_rounds")
    return dataclasses.replace(
      super().from_metadata(metadata), **{n: metadata[n] for n in names}
    )

  def _trials(self, *, at_end: bool) -> np.ndarray:
    """Returns the objectives of the path as far as they are known.

    A loss is known once it has been smoothed: the last one waits for the next
    round, unless the path has come to its end.
    """
    path = self.rounds[self.pruning_from :]
    losses = _smooth([r.loss for r in path])
    known = len(path) if at_end else len(path) - 1
    return np.array([self._objective(losses[i], path[i]) for i in range(known)])

  def _finish(self, best: int) -> AnchorPlan:
    restore = (self.pruning_from or 0) + best
    sizes = self.rounds[restore].num_anchors
    return AnchorPlan(
      keep={t: tuple(range(n)) for t, n in sizes.items()},
      num_new=dict.fromkeys(sizes, 0),
      restore=restore,
      done=True,
    )


def _smooth(losses: Sequence[float]) -> np.ndarray:
  """Averages each loss with its neighbours; the two ends stay."""
  # A round that has diverged is the worst: `argmin` would take it for the best.
  smooth = np.array([np.inf if np.isnan(loss) else loss for loss in losses])
  smooth[1:-1] = (smooth[:-2] + 2 * smooth[1:-1] + smooth[2:]) / 4
  return smooth


def _drop(importances: Mapping[str, np.ndarray], share: float) -> AnchorPlan:
  """Plans to take out the least useful anchors of each table."""
  keep = {}
  for table, values in importances.items():
    number = min(max(int(share * len(values)), 1), len(values) - 1)
    # Stable: of equal anchors the later ones go, in every process alike.
    order = np.argsort(-np.asarray(values), kind="stable")
    staying = np.sort(order[: len(values) - number])
    keep[table] = tuple(int(k) for k in staying)
  return AnchorPlan(keep, dict.fromkeys(keep, 0))
