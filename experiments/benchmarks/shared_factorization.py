r"""Sharing in matrix factorisation: with it, without it, and what explains it.

  python -m experiments.benchmarks.shared_factorization \
      --data_dir=/path/to/data

predicts ratings on the split of MovieLens 1M that Wu et al. (NeurIPS 2019)
released: products of vectors without biases, plain SGD, draws with replacement.
Rows that start at noise around zero predict zero for what training has seldom
seen, and sharing trains such rows. Rows that start at the root of the mean
rating over the number of features, plus the same noise, are the control: what
is left there is what sharing gives beyond that.
"""

from typing import Any

from experiments import tuning
from experiments.benchmarks import shared_recommenders
from experiments.benchmarks.shared_recommenders import Row
from experiments.recommender_options import RecommenderConfig

BATCH_SIZE = 4400  # A divisor of the training ratings.
EPOCH = 299_200

# Rates and penalties are those for half a square: ours are for a whole one.
BASE = RecommenderConfig(
  dataset="ml-1m-sse-mf",
  split="given",
  embedding="full",
  features=100,
  biases=False,
  unseen="own",
  row_optimizer="sgd",
  sampling="independent",
  learning_rate=0.005,
  batch_size=BATCH_SIZE,
  row_learning_rate=BATCH_SIZE,
  decay_epochs=0,
  chunk_steps=EPOCH // BATCH_SIZE,
  checkpoint_chunks=0,
)


def samples(millions: float) -> dict[str, Any]:
  """Returns the epochs of so many million ratings, and evaluations of them.

  >>> samples(40)
  {'epochs': 134, 'eval_epochs': 10}
  """
  epochs = round(1e6 * millions / EPOCH)
  return {"epochs": epochs, "eval_epochs": max(epochs // 13, 1)}


STARTS: dict[str, dict[str, Any]] = {
  "N(0, 1)": {"start_scale": 1.0, **samples(250)},
  "0.1 N(0, 1)": {"start_scale": 0.1, **samples(40)},
  "mean + 0.1 N(0, 1)": {"start_scale": 0.1, "mean_start": True, **samples(20)},
}
"""Where rows start, and how long they are trained."""

_SHARED = {"sharing": "se", "sharing_rate": 0.005}
# Half of the rate, as in the released code.
_DROPPED = {
  "dropout": 0.1,
  "dropout_of": "gradients",
  "learning_rate": BASE.learning_rate / 2,
}
ARMS: dict[str, dict[str, Any]] = {
  "MF": {},
  "SSE-SE": _SHARED,
  "dropout": _DROPPED,
  "SSE-SE + dropout": {**_SHARED, **_DROPPED},
  "SSE-Graph": {
    **_SHARED,
    "sharing": "graph",
    "sharing_graph": "genre_set",
    "neighbor_ratio": 200.0,
  },
  "closed form": {**_SHARED, "sharing": "closed_form"},
}
"""What is compared."""

_FOUR = ("MF", "SSE-SE", "dropout", "SSE-SE + dropout")
_L2 = tuning.grid("l2", 0.05, 0.08, 0.1, 0.12)


def make_row(start: str, arm: str, **options: Any) -> Row:
  """Returns a row, with more options of its runs, or `seeds` and `tries`."""
  more = {n: options.pop(n) for n in ("seeds", "tries") if n in options}
  settings = {**STARTS[start], **ARMS[arm], **options}
  if "dropout" in ARMS[arm] and start != "N(0, 1)":
    # At half of the rate it takes twice as long.
    settings["epochs"] *= 2
  weight = f", l2 {options['l2']:g}" if "l2" in options else ""
  return Row(f"{start}, {arm}{weight}", settings, **more)


ROWS = {
  "published": [
    *(make_row("N(0, 1)", arm, l2=0.1, seeds=(0,)) for arm in _FOUR),
    *(make_row("0.1 N(0, 1)", arm, l2=0.1) for arm in _FOUR),
    *(
      make_row("0.1 N(0, 1)", arm, l2=0.08)
      for arm in ("MF", "SSE-SE", "SSE-Graph")
    ),
    make_row("0.1 N(0, 1)", "closed form", l2=0.08, seeds=(0,)),
    *(make_row("mean + 0.1 N(0, 1)", arm, l2=0.08) for arm in _FOUR),
    *(
      make_row("0.1 N(0, 1)", arm, l2=l2, seeds=(0,))
      for l2 in (0.05, 0.12, 0.15)
      for arm in ("MF", "SSE-SE")
    ),
  ],
  "tuned": [
    make_row(start, arm, tries=_L2)
    for start in ("0.1 N(0, 1)", "mean + 0.1 N(0, 1)")
    for arm in ("MF", "SSE-SE")
  ],
}
"""The rows of both tables."""

BENCHMARK = shared_recommenders.Benchmark(
  name="shared_factorization",
  base=BASE,
  metrics={"test_rmse": "RMSE"},
  judge="-valid_mse",
  rows=ROWS,
)

if __name__ == "__main__":
  shared_recommenders.run_app(BENCHMARK)
