r"""Sharing in Bayesian personalised ranking: with it, and without it.

  python -m experiments.benchmarks.shared_ranking --data_dir=/path/to/data

ranks all movies for each user on the split of MovieLens 1M that Wu et al.
(NeurIPS 2019) released, by the loss of Rendle et al. (UAI 2009). The released
script has an l2 penalty that is too weak for the arm without sharing: the tuned
table is the one to judge by. Triplets are drawn with replacement; "pairs in
turn" has each pair of a user and an item three times in an epoch instead.
"""

from typing import Any

from experiments.benchmarks import shared_recommenders
from experiments.benchmarks.shared_recommenders import Row
from experiments.recommender_options import RecommenderConfig

BATCH_SIZE = 4096
LENGTHS = (1, 5, 10)

BASE = RecommenderConfig(
  dataset="ml-1m-sse-bpr",
  split="given",
  loss="bpr",
  embedding="full",
  features=100,
  biases=False,
  unseen="own",
  row_optimizer="sgd",
  sampling="independent",
  learning_rate=0.1,
  epoch_decay=0.9,
  batch_size=BATCH_SIZE,
  row_learning_rate=BATCH_SIZE,
  start_scale=0.0058,  # As wide as uniform noise in (-.01, .01).
  epochs=40,
  eval_epochs=5,
  decay_epochs=0,
  chunk_steps=144,
  checkpoint_chunks=0,
)


def penalty(weight: float) -> dict[str, Any]:
  """Returns the option for a penalty of half of the squared norms.

  >>> penalty(0.01)
  {'l2': 0.005}
  """
  return {"l2": weight / 2}


def shared(users: float, items: float) -> dict[str, Any]:
  """Returns the options of sharing at some rates."""
  return {
    "sharing": "se",
    "user_sharing_rate": users,
    "item_sharing_rate": items,
  }


def make_row(name: str, weight: float, **settings: Any) -> Row:
  """Returns a row of the published table."""
  return Row(f"{name}, l2 {weight:g}", {**settings, **penalty(weight)})


_WEIGHTS = (0.01, 0.02, 0.03, 0.04)

ROWS = {
  "published": [
    *(make_row("BPR", weight) for weight in _WEIGHTS),
    make_row("dropout 0.1", 0.01, dropout=0.1),
    *(
      make_row(f"SSE-SE {users:g}, {items:g}", weight, **shared(users, items))
      for users, items, weight in (
        (0.1, 0.01, 0.01),
        (0.0, 0.01, 0.01),
        (0.1, 0.0, 0.01),
        (0.3, 0.01, 0.01),
        (0.1, 0.01, 0.02),
        (0.2, 0.01, 0.02),
      )
    ),
    *(
      make_row(f"{name}, pairs in turn", weight, sampling="shuffle", **options)
      for name, weight, options in (
        ("BPR", 0.01, {}),
        ("BPR", 0.03, {}),
        ("SSE-SE 0.1, 0.01", 0.01, shared(0.1, 0.01)),
        ("SSE-SE 0.1, 0.01", 0.02, shared(0.1, 0.01)),
      )
    ),
  ],
  "tuned": [
    Row(
      "BPR", {}, tuple(penalty(weight) for weight in (*_WEIGHTS, 0.05, 0.06))
    ),
    Row(
      "SSE-SE",
      shared(0.1, 0.01),
      tuple(
        {**penalty(weight), "user_sharing_rate": rate}
        for weight in (0.01, 0.02, 0.03)
        for rate in (0.1, 0.2)
      ),
    ),
  ],
}
"""The rows of both tables; tuned ones get as many tries each."""

BENCHMARK = shared_recommenders.Benchmark(
  name="shared_ranking",
  base=BASE,
  metrics={f"test_precision_at_{k}": f"P@{k}" for k in LENGTHS},
  judge="valid_precision_at_10",
  rows=ROWS,
)

if __name__ == "__main__":
  shared_recommenders.run_app(BENCHMARK)
