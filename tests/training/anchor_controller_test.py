"""What both rules for numbers of anchors share, and the rule of the trend."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up_training import (
  OPTIONS,
  PRICES,
  SIZES,
  WORLDS,
  apply,
  marginal,
  simulate,
  statistics,
  trend,
)

from anchor_codes import training
from anchor_codes.training import (
  AnchorStatistics,
  MarginalController,
  TrendController,
)

# The objective and the record.


def test_objectives_by_hand():
  controller = trend(anchor_penalty=0.5, l1=0.25)
  controller, _ = controller.update(
    statistics(1.0, num_nonzeros=8, users=3, items=2)
  )
  controller, _ = controller.update(
    statistics(0.5, num_nonzeros=0, users=1, items=1)
  )
  assert controller.objectives().tolist() == [
    1.0 + 0.25 * 8 + 0.25 * 5,
    0.5 + 0.25 * 2,
  ]
  first, second = controller.rounds
  assert first == ({"users": 3, "items": 2}, 1.0, 8)
  assert second.num_anchors == {"users": 1, "items": 1}


def test_a_controller_is_a_record_that_does_not_change():
  before = marginal()
  after, _ = before.update(statistics(1.0, words=3))
  assert before.rounds == ()
  assert before.pruning_from is None
  assert len(after.rounds) == 1
  with pytest.raises(dataclasses.FrozenInstanceError):
    after.l1 = 1.0


@given(WORLDS, SIZES, PRICES, OPTIONS)
def test_the_same_rounds_give_the_same_plans(world, sizes, prices, options):
  first, second = (
    simulate(marginal(**prices, **options), world, sizes) for _ in range(2)
  )
  assert first == second


def test_the_base_has_no_rule():
  controller = training.AnchorController(anchor_penalty=1.0, l1=0.0)
  assert controller.objectives().size == 0
  with pytest.raises(NotImplementedError):
    controller.update(statistics(1.0, words=2))


def test_numbers_of_other_types_are_recorded_as_plain_ones():
  measured = AnchorStatistics(
    np.float32(0.5), np.int64(7), {"words": np.ones(2, np.float32)}
  )
  controller, plan = marginal().update(measured)
  assert json.loads(json.dumps(controller.to_metadata()))["rounds"] == [
    [{"words": 2}, 0.5, 7]
  ]
  assert json.loads(json.dumps(plan)) == [{"words": [0]}, {"words": 0}, None, 0]


# The trend.


def test_the_trend_grows_in_the_first_two_rounds_whatever_they_bring():
  for losses in ([1.0, 9.0], [9.0, 1.0], [1.0, 1.0]):
    controller, number = trend(delta=3), 10
    for loss in losses:
      controller, plan = controller.update(statistics(loss, words=number))
      assert plan.keep == {"words": tuple(range(number))}
      assert plan.num_new == {"words": 3}
      number += 3


@pytest.mark.parametrize(
  ("losses", "expected"),
  [
    ([3, 2, 1], 7),  # Falls.
    ([1, 1, 1], 7),
    ([2, 2, 1], 7),
    ([1, 2, 3], 3),  # Rises.
    ([1, 1, 2], 3),
    ([1, 3, 2], 5),  # Neither.
    ([3, 1, 2], 5),
    ([9, 1, 2, 3], 3),  # The last three alone.
    ([0, 3, 2, 1], 7),
  ],
)
def test_the_trend_of_three_objectives(losses, expected):
  controller = trend()
  for loss in losses:
    controller, plan = controller.update(statistics(loss, words=5, users=5))
  assert apply(plan) == {"words": expected, "users": expected}
  assert plan.restore is None
  assert not plan.done


def test_the_trend_is_that_of_objectives_not_of_losses():
  # The loss falls, but each round has two anchors more.
  controller, number = trend(anchor_penalty=1.0), 2
  for loss in (3.0, 2.0, 1.0):
    controller, plan = controller.update(statistics(loss, words=number))
    number += 2
  assert controller.objectives().tolist() == [5.0, 6.0, 7.0]
  assert apply(plan) == {"words": 4}


@pytest.mark.parametrize(("number", "left"), [(1, 1), (2, 1), (3, 1), (4, 2)])
def test_the_trend_drops_the_last_anchors_but_one(number, left):
  controller = trend()
  for loss in (1, 2, 3):
    # However useful they are.
    controller, plan = controller.update(
      statistics(loss, words=np.arange(number))
    )
  assert plan.keep == {"words": tuple(range(left))}
  assert plan.num_new == {"words": 0}


@pytest.mark.parametrize(("number", "new"), [(5, 2), (7, 1), (8, 0), (9, 0)])
def test_the_trend_grows_while_there_is_room(number, new):
  _, plan = trend(max_anchors=8).update(statistics(1.0, words=number, users=2))
  assert plan.num_new == {"words": new, "users": 2}
  assert len(plan.keep["words"]) == number


def released_rule(objectives, num_anchors, delta=2):
  """The rule as Liang et al. (2021) released it, for one table."""
  last = objectives[-3:]
  if len(last) < 3 or (last[0] >= last[1] and last[1] >= last[2]):
    return min(num_anchors + delta, max(num_anchors, 100))
  if last[0] <= last[1] and last[1] <= last[2]:
    return max(num_anchors - delta, 1)
  return num_anchors


@given(WORLDS, st.integers(1, 100), PRICES)
def test_the_trend_is_the_released_rule(world, number, prices):
  run = simulate(trend(**prices), world, {"words": number}, max_rounds=30)
  for i, plan in enumerate(run.plans):
    objectives = run.controllers[i].objectives().tolist()
    expected = released_rule(objectives, run.sizes[i]["words"])
    assert apply(plan) == {"words": expected}
    assert not plan.done


# Metadata.


def through_json(controller, fresh):
  text = json.dumps(controller.to_metadata())
  return fresh.from_metadata(json.loads(text))


@pytest.mark.parametrize("make", [trend, marginal])
@given(WORLDS, SIZES, PRICES, st.integers(1, 4))
def test_a_restored_controller_goes_on_alike(
  make, world, sizes, prices, growth_rounds
):
  options = dict(prices)
  if make is marginal:
    options["growth_rounds"] = growth_rounds
  fresh = make(**options)
  run = simulate(fresh, world, sizes, max_rounds=12)
  for number, controller in enumerate(run.controllers[:-1], 1):
    restored = through_json(controller, fresh)
    assert restored == controller
    _, plan = restored.update(world.measure(number, run.sizes[number]))
    assert plan == run.plans[number]


def test_losses_survive_json_to_the_bit():
  controller = trend()
  for loss in (0.1, 1 / 3, 1e-300, np.pi):
    controller, _ = controller.update(statistics(loss, words=2))
  restored = through_json(controller, trend())
  assert [r.loss for r in restored.rounds] == [0.1, 1 / 3, 1e-300, np.pi]


def test_metadata_hold_what_changes_and_no_options():
  reopened = marginal(growth_rounds=5).reopen(growth_rounds=2)
  assert reopened.to_metadata() == {
    "rounds": [],
    "pruning_from": None,
    "growth_rounds": 2,
  }
  # The prices are those of the program that goes on.
  fresh = marginal(anchor_penalty=3.0, growth_rounds=5)
  restored = through_json(reopened, fresh)
  assert restored.anchor_penalty == 3.0
  assert restored.growth_rounds == 2


# New data.


@given(WORLDS, WORLDS, SIZES, PRICES, OPTIONS)
def test_a_reopened_controller_is_a_new_one(old, new, sizes, prices, options):
  run = simulate(marginal(**prices, **options), old, sizes)
  reopened = run.controllers[-1].reopen(growth_rounds=2)
  assert reopened.oldest_needed == 0
  sizes = apply(run.plans[-1])
  again = simulate(reopened, new, sizes)
  fresh = marginal(**prices, **{**options, "growth_rounds": 2})
  assert again == simulate(fresh, new, sizes)
  assert run.controllers[-1].rounds  # Not changed by it.


def test_a_reopened_controller_grows_again():
  controller, _ = marginal().update(statistics(1.0, words=1))
  controller = controller.reopen(growth_rounds=3)
  _, plan = controller.update(statistics(1.0, words=5))
  assert apply(plan) == {"words": 10}


# Options.


@pytest.mark.parametrize("kind", [TrendController, MarginalController])
@pytest.mark.parametrize(
  ("options", "text"),
  [
    ({"l1": -0.5}, r"`l1` must be non-negative, got -0\.5\."),
    (
      {"l1": 2.0},
      r"`anchor_penalty` must be at least `l1`, the price of one weight, got "
      r"1\.0 and 2\.0\.",
    ),
    ({"anchor_penalty": -1.0}, "`anchor_penalty` must be at least `l1`"),
    ({"max_anchors": 0}, r"`max_anchors` must be at least 1, got 0\."),
    ({"max_anchors": 2.5}, r"`max_anchors` must be an integer, got 2\.5\."),
  ],
)
def test_options_of_both_rules(kind, options, text):
  with pytest.raises(ValueError, match=text):
    kind(**{"anchor_penalty": 1.0, "l1": 0.0, **options})


@pytest.mark.parametrize(
  ("make", "options", "text"),
  [
    (trend, {"delta": 0}, r"`delta` must be at least 1, got 0\."),
    (trend, {"delta": 1.5}, r"`delta` must be an integer, got 1\.5\."),
    (
      marginal,
      {"growth_rounds": 0},
      r"`growth_rounds` must be at least 1, got 0\.",
    ),
    (marginal, {"patience": 0}, r"`patience` must be at least 1, got 0\."),
    (
      marginal,
      {"drop_share": 1.5},
      r"`drop_share` must be between 0 and 1, got 1\.5\.",
    ),
    (
      marginal,
      {"drop_share": -0.1},
      r"`drop_share` must be between 0 and 1, got -0\.1\.",
    ),
  ],
)
def test_options_of_one_rule(make, options, text):
  with pytest.raises(ValueError, match=text):
    make(**options)


def test_a_controller_is_not_reopened_without_growth():
  with pytest.raises(ValueError, match="`growth_rounds` must be at least 1"):
    marginal().reopen(growth_rounds=0)
