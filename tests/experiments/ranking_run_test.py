"""Tests of runs that rank items, on made-up likings."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from anchor_codes import training
from experiments import ranking, recommending, train_recommender
from experiments.datasets import ratings as datasets
from experiments.recommender_options import RecommenderConfig

NUM_USERS, NUM_ITEMS = 20, 14


@pytest.fixture(autouse=True, scope="module")
def _usual_promotion():
  with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
    yield


def make_data():
  """Users like the items of their half; some of these are in the test."""
  rng = np.random.default_rng(0)
  users, items = np.divmod(rng.permutation(NUM_USERS * NUM_ITEMS), NUM_ITEMS)
  likes = users % 2 == items % 2
  users, items, likes = (a[:200] for a in (users, items, likes))
  return datasets.make_ratings(
    "toy",
    users=users,
    items=items,
    values=np.where(likes, 5, 1),
    order=np.arange(200),
    user_names=[f"user {i}" for i in range(NUM_USERS)],
    # The last one is rated by nobody.
    item_names=[f"item {i}" for i in range(NUM_ITEMS + 1)],
    source="ours",
    num_train=120,
  )


DATA = make_data()
CONFIG = RecommenderConfig(
  dataset="toy",
  loss="bpr",
  embedding="full",
  features=4,
  biases=False,
  split="given",
  positive_from=4.0,
  sharing="se",
  sharing_rate=0.02,
  row_optimizer="adam",
  batch_size=32,
  epochs=6,
  decay_epochs=0,
  learning_rate=0.2,
  start_scale=0.1,
  l2=0.002,
  chunk_steps=2,
  checkpoint_chunks=0,
)


def make_run(folder, **options):
  config = dataclasses.replace(CONFIG, **options)
  mesh = training.data_mesh(jax.devices()[:1])
  return ranking.RankingRun(config, folder, data=DATA, mesh=mesh)


class Trained:
  """A run that has come to its end."""

  def __init__(self, folder):
    self.folder = folder
    self.run = make_run(folder)
    self.state = self.run.train()
    self.result = self.run.finish(self.state, seconds=1.0)


@pytest.fixture(name="trained", scope="module")
def fixture_trained(tmp_path_factory, _usual_promotion):
  return Trained(tmp_path_factory.mktemp("ranking"))


def metrics_by_hand(run, state, sought, known):
  """Ranks user by user in a loop."""
  vectors = run.trainer.vectors(state, run.unseen)
  scores = np.asarray(vectors.users) @ np.asarray(vectors.items).T
  users, items, _ = run.ratings_of(np.arange(len(run.data.values)))
  found = {"precision_at_1": [], "precision_at_5": [], "precision_at_10": []}
  found |= {"recall_at_10": [], "ndcg_at_10": []}
  for user in range(NUM_USERS):
    of_user = lambda rows, user=user: set(items[rows][users[rows] == user])
    relevant, barred = of_user(sought), of_user(known)
    order = [i for i in np.argsort(-scores[user]) if i not in barred]
    hits = np.array([i in relevant for i in order])
    for k in (1, 5, 10):
      found[f"precision_at_{k}"].append(hits[:k].sum() / k)
    found["recall_at_10"].append(hits[:10].sum() / max(len(relevant), 1))
    gains = 1 / np.log2(np.arange(10) + 2)
    ideal = gains[: len(relevant)].sum() or 1
    found["ndcg_at_10"].append(
      (gains[: len(hits[:10])] * hits[:10]).sum() / ideal
    )
  return {name: np.mean(values) for name, values in found.items()}


def test_all_items_compete_but_those_of_training(trained):
  splits = trained.run.splits
  expected = metrics_by_hand(
    trained.run, trained.state, splits.test, splits.train
  )
  for name, value in expected.items():
    found = trained.result.metrics[f"test_{name}"]
    assert found == pytest.approx(value, rel=1e-5), name


def test_learns_what_is_to_be_learned(trained):
  metrics = trained.result.metrics
  assert metrics["test_ndcg_at_10"] > 0.6
  assert metrics["best_test_ndcg_at_10"] >= metrics["test_ndcg_at_10"]
  assert metrics["best_epoch"] == 6
  assert not [name for name in metrics if name.startswith("valid")]
  record = json.loads((trained.folder / "result.json").read_text())
  assert record["metrics"]["test_precision_at_5"] > 0


def test_low_ratings_are_left_out(trained):
  data, values = trained.run.data, DATA.values
  assert len(data.values) == (values >= 4).sum()
  assert data.num_train == (values[:120] >= 4).sum()
  assert set(trained.run.learned) == set(range(data.num_train))


def test_triplets_are_those_of_the_definition(trained):
  run = trained.run
  users, items, _ = run.ratings_of(run.splits.train)
  pairs = set(zip(users.tolist(), items.tolist(), strict=True))
  epochs = []
  for epoch in (7, 8, 7):
    parts = [run.batches(epoch, *bounds) for bounds in run.bounds]
    u, liked, others = (
      np.concatenate(part).ravel() for part in zip(*parts, strict=True)
    )
    assert len(u) == run.steps_per_epoch * 32
    assert set(zip(u.tolist(), liked.tolist(), strict=True)) <= pairs
    assert not set(zip(u.tolist(), others.tolist(), strict=True)) & pairs
    assert set(others.tolist()) <= set(items.tolist())
    counts = np.unique(u * 100 + liked, return_counts=True)[1]
    assert counts.max() <= 3
    epochs.append((u, liked, others))
  np.testing.assert_array_equal(epochs[0], epochs[2])
  assert (epochs[0][2] != epochs[1][2]).any()


def test_validation_chooses_and_bars_its_items(trained, tmp_path):
  run = make_run(tmp_path, valid_share=0.3)
  run.trainer = trained.run.trainer
  assert len(run.splits.valid) == round(0.3 * trained.run.data.num_train)
  score, metrics = run.validate(trained.state)
  assert score == metrics["valid_ndcg_at_10"]
  known = np.concatenate([run.splits.train, run.splits.valid])
  expected = metrics_by_hand(run, trained.state, run.splits.test, known)
  found = run.measure_test(trained.state)
  for name, value in expected.items():
    assert found[f"test_{name}"] == pytest.approx(value, rel=1e-5), name


def test_ratings_may_be_drawn_independently(tmp_path):
  run = make_run(tmp_path, sampling="independent")
  users, liked, _ = run.batches(0, 0, run.steps_per_epoch)
  counts = np.unique(users * 100 + liked, return_counts=True)[1]
  assert counts.max() > 3


def test_evaluations_may_be_rare(trained, tmp_path):
  run = make_run(tmp_path, eval_epochs=3)
  run.trainer = trained.run.trainer
  found = [bool(run.end_epoch(e, trained.state)[1]) for e in (1, 2, 3, 5)]
  assert found == [False, True, False, True]


def test_best_results_on_the_test_survive_a_checkpoint(trained):
  _, metadata = trained.run.to_checkpoint(trained.state)
  best = dict(trained.run.best_test)
  trained.run.best_test = {}
  arrays, _ = trained.run.to_checkpoint(trained.state)
  trained.run.from_checkpoint(arrays, metadata)
  assert trained.run.best_test == best


def test_nothing_can_be_ranked_if_all_have_all(tmp_path):
  data = datasets.make_ratings(
    "toy",
    users=[0, 0, 1, 1, 0, 1],
    items=[0, 1, 0, 1, 0, 1],
    values=[5] * 6,
    order=range(6),
    user_names=["a", "b"],
    item_names=["c", "d"],
    source="ours",
    num_train=4,
  )
  with pytest.raises(ValueError, match="users who lack an item"):
    ranking.RankingRun(CONFIG, tmp_path, data=data)


def test_the_binary_chooses_the_kind_of_run():
  choose = train_recommender.run_type
  assert choose(CONFIG) is ranking.RankingRun
  assert choose(RecommenderConfig()) is recommending.Run
