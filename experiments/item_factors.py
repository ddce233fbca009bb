"""Factors of a trained ranking of items, and how well other ones rank."""

import os
import pathlib
from typing import Any, NamedTuple, cast

import numpy as np

from anchor_codes import tables
from experiments import ranking, recommending, reporting, tuning
from experiments.datasets import ratings as datasets
from experiments.recommender_options import RecommenderConfig

LENGTH = 20
"""Length of the lists whose recall is measured."""
_BLOCK = 512  # Users that are ranked at a time.

CONFIG = RecommenderConfig(
  dataset="ml-1m",
  split="random",
  loss="bpr",
  embedding="full",
  features=64,
  biases=False,
  unseen="own",
  row_optimizer="sgd",
  sampling="independent",
  learning_rate=0.1,
  epoch_decay=0.9,
  batch_size=4096,
  row_learning_rate=4096,
  start_scale=0.0058,  # As wide as uniform noise in (-.01, .01).
  l2=0.005,
  epochs=20,
  eval_epochs=5,
  decay_epochs=0,
  chunk_steps=293,
  checkpoint_chunks=0,
)
"""A ranking of all movies for each user of MovieLens 1M.

The l2 penalty is that of 0.0025, 0.005 and 0.01 that the validation pairs like
best.
"""


class Factors(NamedTuple):
  """Factors whose products rank items.

  Attributes:
    users: float32 [num_users, features].
    items: float32 [num_items, features].
    known: Pairs of users and items that do not compete, int [size, 2].
    sought: Pairs to find, int [size, 2].
  """

  users: np.ndarray
  items: np.ndarray
  known: np.ndarray
  sought: np.ndarray


def load_factors(
  workdir: str | os.PathLike[str],
  *,
  config: RecommenderConfig = CONFIG,
  data: datasets.Ratings | None = None,
) -> Factors:
  """Reads factors from a folder, or trains them there first.

  Args:
    workdir: Folder of the run.
    config: Options of the run, without biases.
    data: The ratings, where they are loaded already.

  Returns:
    The factors, and the pairs of training and validation, which are known, and
    of the test.
  """
  data = data or datasets.load_ratings(
    config.dataset, data_dir=config.data_dir or None
  )

  def train(config: Any, folder: pathlib.Path) -> reporting.RunResult:
    return recommending.train_and_evaluate(
      config, folder, data=data, run_type=ranking.RankingRun
    )

  workdir = pathlib.Path(workdir)
  tuning.run_once(config, workdir, train)
  splits = datasets.split_ratings(
    data,
    kind=cast(datasets.SplitKind, config.split),
    seed=config.split_seed,
    valid_share=config.valid_share,
  )
  pairs = np.stack([data.users, data.items], axis=1)
  known = np.concatenate([splits.train, splits.valid])
  read = lambda name: tables.load(workdir / f"{name}.safetensors").to_dense()
  return Factors(read("users"), read("items"), pairs[known], pairs[splits.test])


def recall(
  items: np.ndarray, factors: Factors, *, length: int = LENGTH
) -> float:
  """Computes the recall of lists of the items with the largest products.

  The mean over users of the share of their sought items in their list, which
  may hold all items but those that are known. Users who seek none do not count.

  Args:
    items: float32 [num_items, features], in place of those of the factors.
    factors: The users, and what they know and seek.
    length: Length of a list.

  >>> factors = Factors(
  ...     np.float32([[1]]), np.float32([[3], [2], [1]]),
  ...     known=np.array([[0, 0]]), sought=np.array([[0, 1], [0, 2]]))
  >>> recall(factors.items, factors, length=1)
  0.5
  """
  length = min(length, len(items))
  shape = len(factors.users), len(items)
  barred, relevant = np.zeros(shape, bool), np.zeros(shape, bool)
  barred[tuple(factors.known.T)] = True
  relevant[tuple(factors.sought.T)] = True
  relevant &= ~barred
  hits = np.zeros(len(factors.users))
  for start in range(0, len(hits), _BLOCK):
    block = slice(start, start + _BLOCK)
    scores = factors.users[block] @ items.T
    scores[barred[block]] = -np.inf
    # Not a partition: what follows a tie must not depend on the rest.
    best = np.argsort(-scores, axis=1, kind="stable")[:, :length]
    hits[block] = np.take_along_axis(relevant[block], best, axis=1).sum(axis=1)
  number = relevant.sum(axis=1)
  return float(np.mean(hits[number > 0] / number[number > 0]))
