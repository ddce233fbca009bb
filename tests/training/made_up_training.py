"""Training that is made up, for the rules that decide on numbers of anchors.

Losses and prices are multiples of 1 / 64, so that all objectives are exact:
laws of comparisons then hold without a tolerance.
"""

import dataclasses

import numpy as np
from hypothesis import strategies as st

from anchor_codes.training import (
  AnchorStatistics,
  MarginalController,
  TrendController,
)


def statistics(loss, *, num_nonzeros=0, **importances):
  """Returns what is seen of a round; a number of anchors stands for itself."""
  arrays = {
    table: np.arange(float(some)) if isinstance(some, int) else np.array(some)
    for table, some in importances.items()
  }
  return AnchorStatistics(loss, num_nonzeros, arrays)


def trend(**options):
  return TrendController(**{"anchor_penalty": 0.0, "l1": 0.0, **options})


def marginal(**options):
  options = {"anchor_penalty": 0.0, "l1": 0.0, "growth_rounds": 1, **options}
  return MarginalController(**options)


def apply(plan):
  """Returns the numbers of anchors after a plan."""
  return {t: len(keep) + plan.num_new[t] for t, keep in plan.keep.items()}


@dataclasses.dataclass(frozen=True)
class World:
  """Training that is made up: what each round measures.

  Attributes:
    losses: In units of 1 / 64, of each round, from the start again at the end.
    seed: Decides on the importances and the non-zeros of each round.
  """

  losses: tuple[int, ...]
  seed: int = 0

  def measure(self, number, sizes):
    draw = np.random.default_rng([self.seed, number])
    importances = {table: draw.normal(size=n) for table, n in sizes.items()}
    loss = self.losses[number % len(self.losses)] / 64
    return AnchorStatistics(loss, int(draw.integers(1000)), importances)


@dataclasses.dataclass(frozen=True)
class Run:
  """What came of a controller.

  Attributes:
    controllers: After each round.
    plans: After each round.
    sizes: Of each round, before the plan.
  """

  controllers: list
  plans: list
  sizes: list

  @property
  def final(self):
    """The number of all anchors in the end."""
    return sum(apply(self.plans[-1]).values())


def simulate(controller, world, sizes, *, max_rounds=100):
  """Trains until a plan is final, or for some rounds."""
  run = Run([], [], [])
  for number in range(max_rounds):
    run.sizes.append(sizes)
    controller, plan = controller.update(world.measure(number, sizes))
    run.controllers.append(controller)
    run.plans.append(plan)
    sizes = apply(plan)
    if plan.done:
      break
  return run


WORLDS = st.builds(
  World,
  st.lists(st.integers(0, 256), min_size=1, max_size=40).map(tuple),
  st.integers(0, 2**31 - 1),
)
SIZES = st.fixed_dictionaries(
  {"users": st.integers(1, 12), "items": st.integers(1, 12)}
)
PRICES = st.tuples(st.integers(0, 4), st.integers(0, 40)).map(
  lambda pair: {"l1": pair[0] / 64, "anchor_penalty": sum(pair) / 64}
)
OPTIONS = st.fixed_dictionaries(
  {
    "growth_rounds": st.integers(1, 4),
    "drop_share": st.sampled_from([0.0, 0.2, 0.5, 1.0]),
    "patience": st.integers(1, 4),
    "max_anchors": st.sampled_from([1, 8, 30]),
  }
)
