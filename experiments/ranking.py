"""Ranks items by what users have rated, instead of predicting ratings."""

import time
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp
from jaxtyping import Array

from anchor_codes import ops, steps
from experiments import (
  negatives,
  recommender_trainer,
  recommending,
  reporting,
)
from experiments.datasets import ratings as datasets

LENGTHS = (1, 5, 10)
"""Lengths of the lists whose precision is measured."""

_LONGEST = max(LENGTHS)
_BLOCK = 512  # Users that are ranked at a time.


class RankingTrainer(recommender_trainer.Trainer):
  """The compiled steps of Bayesian personalised ranking.

  A batch is of triplets: users, items that they have rated, and items that
  they have not. Users and the former may be exchanged, the latter never are.
  """

  def ids_per_step_of(self, batch_size: int) -> dict[str, int]:
    """Returns how many ids of each table a step looks up."""
    return {"users": batch_size, "items": 2 * batch_size}

  def select(
    self, model: Any, batch: Any, state: steps.TrainState, key: Array
  ) -> steps.Selection:
    """Leaves only the users and items of a batch."""
    users, liked, others = batch
    ids, positions = self.take_all(model, users, jnp.stack([liked, others]))
    change = self.dropout(recommender_trainer.dropout_key(key))

    def loss(model: Any) -> tuple[Array, Any]:
      value, plain = model.ranking_loss(
        positions, l2=self.config.l2, change=change
      )
      return value, ({"loss": plain}, state.carry)

    return steps.Selection(ids, model, loss)


class RankingRun(recommending.Run):
  """One run that learns to rank, see :class:`recommending.Run`.

  Each rating that counts as liked stands for its pair of user and item; values
  play no further part. The test ranks *all* items that the user has in no other
  part, for all users: those without an item in the test find nothing.
  """

  def prepare(self, data: datasets.Ratings) -> datasets.Ratings:
    """Keeps the ratings that count as liked."""
    liked = data.values >= self.config.positive_from
    columns = ("users", "items", "values", "order")
    return data._replace(
      **{name: getattr(data, name)[liked] for name in columns},
      num_train=int(liked[: data.num_train].sum()),
    )

  def learn_from(self, train: np.ndarray) -> None:
    """Takes these pairs as the training data."""
    super().learn_from(train)
    users, items, _ = self.ratings_of(train)
    self.others = negatives.OtherItems.of_pairs(
      users, items, num_users=len(self.data.user_names)
    )
    # Sorted, for the draws are quicker then.
    self.learned = train[np.argsort(users, kind="stable")]
    self.learned = self.learned[self.others.exist[np.sort(users)]]
    if not self.learned.size:
      raise ValueError(
        "there must be users who lack an item that others have, got none: "
        "nothing can be ranked."
      )

  def num_examples(self) -> int:
    """Returns the number of triplets of an epoch."""
    return self.config.num_negatives * len(self.learned)

  def make_trainer(self, *args: Any) -> recommender_trainer.Trainer:
    """Returns the trainer of triplets."""
    return RankingTrainer(*args)

  def batches(self, epoch: int, begin: int, end: int) -> Any:
    """Returns batches of triplets; each epoch draws others, and an order."""
    start = time.perf_counter()
    if self._drawn_for != epoch:
      self._drawn_for, self._triplets = epoch, self._draw(epoch)
    size = self.config.batch_size
    batches = tuple(
      column.reshape(-1, size)[begin:end] for column in self._triplets
    )
    self.input_seconds += time.perf_counter() - start
    return batches

  _drawn_for: int = -1
  _triplets: tuple[np.ndarray, ...] = ()

  def _draw(self, epoch: int) -> tuple[np.ndarray, ...]:
    """Returns the triplets of an epoch, whole batches in a random order."""
    rng = np.random.default_rng([self.config.seed, epoch, 1])
    rows = np.repeat(self.learned, self.config.num_negatives)
    users, liked, _ = self.ratings_of(rows)
    others = self.others.draw(rng, users)
    order = self.draw_order(epoch, np.arange(len(rows)))
    return users[order], liked[order], others[order]

  def report(self, loss: float) -> dict[str, float]:
    """Returns the loss of a chunk, without the norms."""
    return {"train_loss": loss}

  def validate(self, state: steps.TrainState) -> tuple[float, dict[str, float]]:
    """Ranks for the validation pairs."""
    found = self.rank(state, self.splits.valid, [self.splits.train])
    metrics = {f"valid_{name}": value for name, value in found.items()}
    return metrics[f"valid_ndcg_at_{_LONGEST}"], metrics

  def better(self, first: float, second: float) -> float:
    """Returns the better one of two results."""
    return max(first, second)

  def measure_valid(self, state: steps.TrainState) -> dict[str, float]:
    """Ranks for the validation pairs."""
    return self.validate(state)[1]

  def measure_test(self, state: steps.TrainState) -> dict[str, float]:
    """Ranks for the pairs of the test, without those of the other parts."""
    parts = [self.splits.train, self.splits.valid]
    found = self.rank(state, self.splits.test, parts)
    return {f"test_{name}": value for name, value in found.items()}

  def rank(
    self,
    state: steps.TrainState,
    relevant: np.ndarray,
    known: list[np.ndarray],
  ) -> dict[str, float]:
    """Ranks all items for all users, in blocks.

    Args:
      state: The parameters.
      relevant: The pairs to find, by their positions in the data.
      known: Pairs whose items do not compete.

    Returns:
      Precision for all of `LENGTHS`, recall and NDCG for the longest.
    """
    vectors = self.vectors(state)
    sizes = self.table_sizes()
    sought = self._by_user(relevant)
    barred = self._by_user(np.concatenate(known))
    total = np.zeros(len(LENGTHS) + 2)
    begins = range(0, sizes["users"], _BLOCK)
    for begin in reporting.progress(
      begins, description="ranking", unit="block"
    ):
      users = np.arange(begin, min(begin + _BLOCK, sizes["users"]))
      # The last block is filled up with a user who seeks nothing.
      padded = np.resize(users, _BLOCK)
      bars = _mask(barred, users, sizes["items"])
      seeks = _mask(sought, users, sizes["items"]) & ~bars
      total += np.asarray(_measure(vectors, padded, seeks, bars), np.float64)
    names = [f"precision_at_{k}" for k in LENGTHS]
    names += [f"recall_at_{_LONGEST}", f"ndcg_at_{_LONGEST}"]
    means = (total / sizes["users"]).tolist()
    return dict(zip(names, means, strict=True))

  def _by_user(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns users in ascending order, and their items."""
    users, items, _ = self.ratings_of(rows)
    order = np.argsort(users, kind="stable")
    return users[order], items[order]


def _mask(
  pairs: tuple[np.ndarray, np.ndarray], users: np.ndarray, num_items: int
) -> np.ndarray:
  """Marks the items of a block of users, bool [_BLOCK, num_items]."""
  mask = np.zeros((_BLOCK, num_items), bool)
  begin, end = np.searchsorted(pairs[0], [users[0], users[-1] + 1])
  mask[pairs[0][begin:end] - users[0], pairs[1][begin:end]] = True
  return mask


@jax.jit
def _measure(
  vectors: Any, users: Array, relevant: Array, barred: Array
) -> Array:
  """Returns the sums over a block of users of all that is measured."""
  scores = jnp.matmul(vectors.users[users], vectors.items.T)
  scores += vectors.item_bias[None]
  length = min(_LONGEST, scores.shape[-1])
  hits = ops.hits_among_top(scores, relevant, k=length, where=~barred)
  # A list of all items may be shorter than it ought to be.
  hits = jnp.pad(hits, ((0, 0), (0, _LONGEST - length)))
  number = jnp.sum(relevant, axis=-1)
  measured = [
    *(ops.precision_at(hits, k=k) for k in LENGTHS),
    ops.recall_at(hits, number, k=_LONGEST),
    ops.hits_ndcg_at(hits, number, k=_LONGEST),
  ]
  return jnp.sum(jnp.stack(measured), axis=-1)
