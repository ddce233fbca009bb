"""Tests of which rough fits are fitted again."""

import math

import pytest

from anchor_codes.compression import finalists

RECIPES = ["opq:8x16x4", "opq:4x256x5", "opq:9x32x3", "rq:8x16x32", "pq:4x16"]


@pytest.mark.parametrize(
  ("losses", "expected"),
  [
    ([0.10, 0.11, 0.12, 0.125, 0.2], [0, 1, 3]),  # Near, to the limit.
    ([0.10, 0.11, 0.12, 0.126, 0.2], [0, 1]),
    ([0.10, 0.11, 0.12, 0.115, 0.11], [0, 1, 4]),  # The best one of them.
    ([0.12, 0.13, 0.14, 0.11, 0.13], [3, 0, 4]),
    ([0.20, 0.20, 0.20, 0.11, 0.13], [3, 4]),
    ([0.0, 0.0, 0.0, 0.0, 0.1], [0, 1, 3]),
  ],
)
def test_the_best_two_and_the_best_of_another_family(losses, expected):
  assert finalists.choose(RECIPES, losses) == expected


def test_of_unknown_losses_every_one_is_near():
  losses = [-9.0, -8.0, -3.0, 2.0, 5.0]
  assert finalists.choose(RECIPES, losses) == [0, 1]
  assert finalists.choose(RECIPES, losses, reach=None) == [0, 1, 3]


def test_fits_without_a_loss_come_last():
  losses = [math.nan, 0.1, math.nan, 0.11, math.nan]
  assert finalists.choose(RECIPES, losses) == [1, 3]


def test_few_fits_are_all_chosen():
  assert finalists.choose(RECIPES[:1], [0.5]) == [0]
  assert finalists.choose([], []) == []
