"""The rule that grows and prunes: its path, its end, and the price."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_training import (
  OPTIONS,
  PRICES,
  SIZES,
  WORLDS,
  World,
  apply,
  marginal,
  simulate,
  statistics,
)

# Growth.


def test_the_number_doubles_to_the_most_there_may_be():
  controller = marginal(growth_rounds=6, max_anchors=20)
  run = simulate(controller, World((64,)), {"users": 3, "items": 1})
  assert run.sizes[:6] == [
    {"users": 3, "items": 1},
    {"users": 6, "items": 2},
    {"users": 12, "items": 4},
    {"users": 20, "items": 8},
    {"users": 20, "items": 16},
    {"users": 20, "items": 20},
  ]
  for plan, sizes in zip(run.plans[:5], run.sizes[:5], strict=True):
    assert plan.keep == {t: tuple(range(n)) for t, n in sizes.items()}
    assert plan.restore is None
    assert not plan.done
  assert run.controllers[4].pruning_from is None
  assert run.controllers[5].pruning_from == 5


def test_more_anchors_than_there_may_be_stay():
  controller = marginal(growth_rounds=2, max_anchors=4)
  _, plan = controller.update(statistics(1.0, words=9))
  assert apply(plan) == {"words": 9}


def test_one_round_of_growth_prunes_at_once():
  controller, plan = marginal().update(statistics(1.0, words=10))
  assert controller.pruning_from == 0
  assert apply(plan) == {"words": 8}


# Pruning.


def test_the_least_useful_anchors_go():
  importances = [0.3, -0.1, 0.9, 0.0, 0.2]
  _, plan = marginal(drop_share=0.4).update(
    statistics(1.0, words=importances, users=[0.0, 1.0])
  )
  assert plan.keep == {"words": (0, 2, 4), "users": (1,)}
  assert plan.num_new == {"words": 0, "users": 0}


def test_of_equals_the_last_go():
  _, plan = marginal(drop_share=0.5).update(statistics(1.0, words=[1.0] * 4))
  assert plan.keep == {"words": (0, 1)}


def test_of_many_equals_the_last_go():
  # So many that a sort that is not stable would mix them.
  importances = np.tile([1.0, 2.0, 1.0, 3.0], 50)
  _, plan = marginal(drop_share=0.25).update(statistics(1.0, words=importances))
  assert plan.keep == {
    "words": tuple(k for k in range(200) if k < 100 or k % 2)
  }


def test_an_anchor_whose_use_is_unknown_goes_first():
  measured = statistics(1.0, words=[0.1, np.nan, -5.0])
  _, plan = marginal(drop_share=0.0).update(measured)
  assert plan.keep == {"words": (0, 2)}


@pytest.mark.parametrize(
  ("number", "share", "left"),
  [
    (40, 0.2, 32),
    (32, 0.2, 26),  # 6.4 are 6.
    (6, 0.2, 5),
    (4, 0.2, 3),  # At least one.
    (2, 0.2, 1),
    (5, 0.0, 4),
    (5, 1.0, 1),  # Never the last.
    (2, 1.0, 1),
  ],
)
def test_how_many_go(number, share, left):
  _, plan = marginal(drop_share=share).update(statistics(1.0, words=number))
  assert plan.keep == {"words": tuple(range(number - left, number))}


def test_a_table_with_one_anchor_waits_for_the_others():
  run = simulate(
    marginal(drop_share=0.5, patience=99), World((9,)), {"a": 8, "b": 1}
  )
  assert [sizes["a"] for sizes in run.sizes] == [8, 4, 2, 1]
  assert all(sizes["b"] == 1 for sizes in run.sizes)


@given(WORLDS, SIZES, PRICES, OPTIONS)
def test_laws_of_plans(world, sizes, prices, options):
  run = simulate(marginal(**prices, **options), world, sizes)
  assert run.plans[-1].done
  for number, (plan, before) in enumerate(
    zip(run.plans[:-1], run.sizes, strict=False)
  ):
    assert not plan.done
    assert plan.restore is None
    is_growth = number + 1 < options["growth_rounds"]
    for table, size in before.items():
      keep = plan.keep[table]
      assert list(keep) == sorted(set(keep))
      assert set(keep) <= set(range(size))
      assert keep
      assert (len(keep) < size) == (not is_growth and size > 1)
      # What comes in growth is at most as much as there was.
      assert plan.num_new[table] <= (size if is_growth else 0)


# How the path ends.


def path_of(losses, *, number=64, **options):
  """Prunes one table by half, with these losses, to the end."""
  controller = marginal(drop_share=0.5, **options)
  world = World(tuple(round(64 * loss) for loss in losses))
  return simulate(controller, world, {"words": number})


def test_patience_ends_the_path():
  # The second round is the best, also when smoothed.
  losses = [4.0, 0.0, 3.0, 3.0, 3.0, 3.0, 3.0]
  for patience in (1, 2, 3):
    run = path_of(losses, patience=patience)
    # A loss is compared one round after it was measured.
    assert len(run.plans) == 2 + patience + 1
    assert run.plans[-1].restore == 1
    assert run.plans[-1].keep == {"words": tuple(range(32))}
    assert run.plans[-1].num_new == {"words": 0}


def test_a_path_that_still_improves_goes_to_the_end():
  run = path_of([7, 6, 5, 4, 3, 2, 1], patience=1)
  assert [sizes["words"] for sizes in run.sizes] == [64, 32, 16, 8, 4, 2, 1]
  assert run.plans[-1].restore == 6
  assert run.final == 1


def test_of_equals_the_first_is_the_best():
  run = path_of([1.0] * 7, patience=2)
  assert run.plans[-1].restore == 0
  assert len(run.plans) == 4


def test_patience_starts_again_with_each_improvement():
  # Smoothed: 8, 6, 6, 6, 6, 5, 4.
  losses = [8.0, 4.0, 8.0, 4.0, 8.0, 4.0, 4.0]
  assert path_of(losses, patience=3).plans[-1].restore == 1
  assert path_of(losses, patience=4).plans[-1].restore == 6


def test_one_lucky_draw_does_not_decide():
  # The fourth round alone is low; smoothed, the second is the best.
  losses = [2.0, 0.5, 0.5, 2.0, 0.0, 2.0, 2.0]
  assert np.argmin(losses) == 4
  run = path_of(losses, patience=99)
  smoothed = [2.0, 0.875, 0.875, 1.125, 1.0, 1.5, 2.0]
  assert run.plans[-1].restore == np.argmin(smoothed)


def test_the_end_of_the_path_counts_as_measured():
  run = path_of([2.0, 2.0, 1.0], number=4)
  assert run.plans[-1].restore == 2
  run = path_of([1.0, 2.0, 2.0], number=4)
  assert run.plans[-1].restore == 0


def test_rounds_of_growth_are_never_restored():
  # The first rounds are the best by far.
  world = World((0, 0, 0, 64, 64, 64, 64, 64, 64, 64, 64, 64))
  run = simulate(marginal(growth_rounds=4, patience=2), world, {"words": 2})
  assert run.plans[-1].restore == 3
  assert run.final == 16


def test_one_anchor_is_final_at_once():
  controller, plan = marginal(max_anchors=1).update(
    statistics(1.0, users=1, items=1)
  )
  assert plan.done
  assert plan.restore == 0
  assert controller.oldest_needed == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_round_that_diverged_is_not_the_best(bad):
  controller, sizes = marginal(drop_share=0.5, patience=9), {"words": 32}
  for loss in (3.0, 2.0, 2.0, bad, bad, bad):
    controller, plan = controller.update(statistics(loss, **sizes))
    sizes = apply(plan)
  assert plan.done
  assert plan.restore == 1


def expected_end(run, options, prices):
  """Follows a path with a list and a counter instead of `argmin`."""
  first = options["growth_rounds"] - 1
  path = list(zip(run.controllers[-1].rounds, run.sizes, strict=True))[first:]
  losses = [r.loss for r, _ in path]
  best, best_value, waited = 0, np.inf, 0
  for i, (record, sizes) in enumerate(path):
    around = losses[i - 1 : i + 2] if 0 < i < len(path) - 1 else [losses[i]]
    weights = [0.25, 0.5, 0.25] if len(around) == 3 else [1.0]
    is_known = i < len(path) - 1 or max(sizes.values()) == 1
    value = np.dot(around, weights) + prices["l1"] * record.num_nonzeros
    value += (prices["anchor_penalty"] - prices["l1"]) * sum(sizes.values())
    if is_known and value < best_value:
      best, best_value, waited = i, value, 0
    elif is_known:
      waited += 1
  return first + best, waited


@given(WORLDS, SIZES, PRICES, OPTIONS)
def test_the_best_round_is_restored(world, sizes, prices, options):
  run = simulate(marginal(**prices, **options), world, sizes)
  restore, waited = expected_end(run, options, prices)
  plan = run.plans[-1]
  assert plan.restore == restore
  assert apply(plan) == run.sizes[restore]
  # At the end of a path, the last two losses become known at once.
  ended = max(run.sizes[-1].values()) == 1
  assert ended or waited == options["patience"]
  assert waited <= options["patience"] + 1


# The price.


@given(WORLDS, SIZES, PRICES, PRICES, OPTIONS)
def test_the_path_does_not_depend_on_the_price(
  world, sizes, low, high, options
):
  first, second = (
    simulate(marginal(**prices, **options), world, sizes)
    for prices in (low, high)
  )
  common = min(len(first.sizes), len(second.sizes))
  assert first.sizes[:common] == second.sizes[:common]
  common -= 1  # The plan that ends one of them.
  assert first.plans[:common] == second.plans[:common]


@settings(max_examples=300)
@given(WORLDS, SIZES, PRICES, st.integers(1, 300), OPTIONS)
def test_the_number_never_rises_with_the_price(
  world, sizes, prices, more, options
):
  dearer = prices | {"anchor_penalty": prices["anchor_penalty"] + more / 64}
  cheap, dear = (
    simulate(marginal(**p, **options), world, sizes) for p in (prices, dearer)
  )
  assert dear.final <= cheap.final
  assert dear.plans[-1].restore >= cheap.plans[-1].restore
  assert len(dear.plans) >= len(cheap.plans)


@given(
  st.lists(st.integers(0, 640), min_size=40, max_size=40),
  st.lists(st.integers(0, 64), min_size=2, max_size=6),
  st.integers(1, 5),
)
def test_the_number_falls_along_a_list_of_prices(table, prices, patience):
  # The loss is that of the number of anchors, whenever it is measured.
  finals = []
  for price in sorted(prices):
    controller, sizes = (
      marginal(growth_rounds=4, patience=patience, anchor_penalty=price / 64),
      {"words": 10},
    )
    plan = None
    while plan is None or not plan.done:
      measured = statistics(table[sizes["words"] - 1] / 64, **sizes)
      controller, plan = controller.update(measured)
      sizes = apply(plan)
    finals.append(sizes["words"])
  assert finals == sorted(finals, reverse=True)


@pytest.mark.parametrize(
  ("penalty", "expected"), [(0.0, 32), (1 / 64, 16), (1 / 4, 4), (8.0, 1)]
)
def test_the_price_decides_between_loss_and_number(penalty, expected):
  # Each halving costs about as much loss as the one before it, and more.
  losses = dict(zip([32, 16, 8, 4, 2, 1], np.arange(6) ** 2 / 8, strict=True))
  controller = marginal(anchor_penalty=penalty, drop_share=0.5, patience=9)
  sizes, plan = {"words": 32}, None
  while plan is None or not plan.done:
    measured = statistics(losses[sizes["words"]], **sizes)
    controller, plan = controller.update(measured)
    sizes = apply(plan)
  assert sizes == {"words": expected}


def test_the_price_of_a_weight_counts():
  # Without a price, the loss decides; with one, the weights that are left.
  for l1, expected in ((0.0, 0), (0.5, 2)):
    controller = marginal(l1=l1, anchor_penalty=l1, drop_share=0.5)
    sizes, plan = {"words": 4}, None
    for loss, num_nonzeros in ((1.0, 90), (2.0, 50), (3.0, 10)):
      measured = statistics(loss, num_nonzeros=num_nonzeros, **sizes)
      controller, plan = controller.update(measured)
      sizes = apply(plan)
    assert plan.restore == expected


# States to keep.


@given(WORLDS, SIZES, PRICES, OPTIONS)
def test_what_is_restored_is_still_needed(world, sizes, prices, options):
  run = simulate(marginal(**prices, **options), world, sizes)
  oldest = [controller.oldest_needed for controller in run.controllers]
  assert oldest == sorted(oldest)
  assert max(oldest) <= run.plans[-1].restore
  # Not more is kept than the rounds that patience allows, and two to measure.
  for number, needed in enumerate(oldest[:-1]):
    assert number - needed <= options["patience"] + 1


def test_growth_needs_no_states():
  controller = marginal(growth_rounds=3)
  assert controller.oldest_needed == 0
  for number in (1, 2):
    controller, _ = controller.update(statistics(1.0, words=8))
    assert controller.oldest_needed == number
  controller, _ = controller.update(statistics(1.0, words=8))
  assert controller.oldest_needed == 2
