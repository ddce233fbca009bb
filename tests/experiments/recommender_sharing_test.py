"""Tests of sharing, rankings and plain products in the recommender's steps."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx
from jax import numpy as jnp

from anchor_codes import ops
from experiments import (
  ranking,
  recommender_graphs,
  recommender_options,
  recommender_trainer,
)
from experiments.datasets import ratings as datasets
from experiments.recommender_options import RecommenderConfig

SIZES = {"users": 5, "items": 4}
MEAN = 3.5
USERS = np.array([0, 4, 2, 0, 1, 3], np.int32)
ITEMS = np.array([1, 1, 3, 0, 2, 2], np.int32)
OTHERS = np.array([3, 0, 1, 2, 0, 1], np.int32)
RATINGS = np.array([1, 2, 3, 4, 5, 3], np.float32)
PLAIN = {"biases": False, "row_optimizer": "sgd", "start_scale": 0.5}


@pytest.fixture(autouse=True, scope="module")
def _usual_promotion():
  # The binaries run without the strict settings of the unit tests.
  with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
    yield


def make_trainer(kind=recommender_trainer.Trainer, graphs=None, **options):
  config = RecommenderConfig(features=3, batch_size=6, start_scale=0.5)
  config = dataclasses.replace(config, **options)
  recommender_options.check_config(config)
  phase = recommender_trainer.Phase(epoch_steps=2)
  return kind(config, SIZES, MEAN, phase, graphs=graphs)


def make_model(**options):
  """A model whose biases are not zero, if it has some."""
  model = make_trainer(**options).make_model()
  rng = np.random.default_rng(1)
  for name in ("user_bias", "item_bias"):
    if hasattr(model, name):
      table = getattr(model, name).embedding
      table[...] = jnp.asarray(rng.normal(size=table.shape), jnp.float32)
  return model


def positions_of(users, items):
  users, items = jnp.asarray(users), jnp.asarray(items)
  found = {"users": users, "items": items}
  return found | {"user_bias": users, "item_bias": items}


def arrays(model):
  return [np.asarray(part, np.float64) for part in model.vectors()]


def loss_by_hand(model, users, items, ratings, l2):
  """The loss of some ratings, and the squared error alone, in float64."""
  u, v, bu, bv, mean = arrays(model)
  error = mean + bu[users] + bv[items] + (u[users] * v[items]).sum(1) - ratings
  norms = (u[users] ** 2).sum(1) + (v[items] ** 2).sum(1)
  norms += bu[users] ** 2 + bv[items] ** 2
  return np.mean(error**2) + l2 * np.mean(norms), np.mean(error**2)


def test_without_biases_the_loss_is_that_of_products():
  model = make_model(biases=False)
  assert not hasattr(model, "user_bias")
  assert model.mean[...] == 0
  positions = positions_of(USERS, ITEMS)
  found = model.loss(positions, jnp.asarray(RATINGS), l2=0.2)
  expected = loss_by_hand(model, USERS, ITEMS, RATINGS, 0.2)
  np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("biases", [True, False])
def test_the_loss_of_rankings_is_that_of_the_formula(biases):
  model = make_model(biases=biases)
  positions = positions_of(USERS, np.stack([ITEMS, OTHERS]))
  u, v, bu, bv, _ = arrays(model)
  score = lambda items: bv[items] + (u[USERS] * v[items]).sum(1)
  plain = np.mean(np.log1p(np.exp(score(OTHERS) - score(ITEMS))))
  norms = sum((t[i] ** 2).sum() for t, i in (
    (u, USERS), (v, ITEMS), (v, OTHERS), (bu, USERS), (bv, ITEMS), (bv, OTHERS)
  )) / len(USERS)  # fmt: skip
  found = model.ranking_loss(positions, l2=0.2)
  np.testing.assert_allclose(found, (plain + 0.2 * norms, plain), rtol=1e-5)


def test_the_closed_form_is_the_mean_over_all_replacements():
  model = make_model()
  rates = {"users": 0.3, "items": 0.1}
  rows = {
    name: [
      ops.transition_row(i, num_embeddings=size, rate=rates[name])
      for i in range(size)
    ]
    for name, size in SIZES.items()
  }
  expected = np.zeros(2)
  for user, item, rating in zip(USERS, ITEMS, RATINGS, strict=True):
    for k, p in enumerate(rows["users"][user]):
      for n, q in enumerate(rows["items"][item]):
        one = loss_by_hand(model, [k], [n], [rating], 0.2)
        expected += p * q * np.array(one) / len(RATINGS)
  ids = {"users": jnp.asarray(USERS), "items": jnp.asarray(ITEMS)}
  expect = jax.jit(lambda r: model.expected_loss(ids, r, l2=0.2, rates=rates))
  found = expect(jnp.asarray(RATINGS))
  np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_steps_of_the_closed_form_move_all_rows():
  trainer = make_trainer(**PLAIN, sharing="closed_form", user_sharing_rate=0.3)
  state, batch = trainer.init(), (USERS[:1], ITEMS[:1], RATINGS[:1])
  new, metrics = jax.jit(trainer.step)(state, batch)
  for name in SIZES:
    moved = jax.tree.map(jnp.subtract, new.rows[name], state.rows[name])
    (moved,) = jax.tree.leaves(moved)
    assert jnp.all(jnp.any(moved != 0, axis=1))
  _, plain = loss_by_hand(trainer.model_of(state), *batch, 0.0)
  assert metrics["loss"] != pytest.approx(plain, rel=1e-4)


def test_summed_gradients_are_those_of_one_rating_at_a_time():
  # No user and no item twice, so that the order does not matter.
  batch = [a[[0, 2, 4]] for a in (USERS, ITEMS, RATINGS)]
  options = {**PLAIN, "learning_rate": 0.1, "l2": 0.05}
  one, many = (
    make_trainer(**options, batch_size=n, row_learning_rate=n) for n in (1, 3)
  )
  states = [one.init(), many.init()]
  step = jax.jit(one.step)
  for i in range(3):
    states[0], _ = step(states[0], [a[i : i + 1] for a in batch])
  states[1], _ = jax.jit(many.step)(states[1], batch)
  for name in SIZES:
    first, second = (jax.tree.leaves(s.rows[name])[0] for s in states)
    np.testing.assert_allclose(first, second, rtol=1e-5)


def test_the_rate_falls_after_each_epoch():
  trainer = make_trainer(**PLAIN, epoch_decay=0.1, learning_rate=1e-3)
  state, moves = trainer.init(), []
  for _ in range(4):
    new, _ = jax.jit(trainer.step)(state, (USERS, ITEMS, RATINGS))
    rows = [jax.tree.leaves(s.rows)[0] for s in (state, new)]
    moves.append(float(jnp.abs(rows[1] - rows[0]).max()))
    state = new
  np.testing.assert_allclose(moves[2] / moves[0], 0.1, rtol=0.1)
  np.testing.assert_allclose(moves[1] / moves[0], 1, rtol=0.1)


def test_products_start_at_the_mean():
  options = {**PLAIN, "start_scale": 1e-4, "mean_start": True}
  u, v, *_ = arrays(make_model(**options))
  np.testing.assert_allclose(u @ v.T, MEAN, rtol=1e-2)
  assert np.std(u) > 0


def test_gradients_are_dropped_but_not_vectors():
  key, parts = jax.random.key(0), {"users": jnp.ones((500, 2))}
  whole, dropped = (
    make_trainer(dropout=0.5, dropout_of=kind).dropout(key)(dict(parts))
    for kind in ("gradients", "vectors")
  )
  np.testing.assert_array_equal(whole["users"], 1)
  assert set(np.unique(dropped["users"])) == {0, 2}
  biases = {"user_bias": jnp.ones(50)}
  assert make_trainer(dropout=0.5).dropout(key)(biases) == biases
  assert make_trainer().dropout(key) is dict


class Seen:
  """Keeps what a step looks up."""

  def take_all(self, model, users, items, **options):
    self.seen = np.asarray(users), np.asarray(items)
    return super().take_all(model, users, items, **options)  # pyright: ignore[reportAttributeAccessIssue]


class SeenTrainer(Seen, recommender_trainer.Trainer):
  pass


class SeenRanking(Seen, ranking.RankingTrainer):
  pass


def looked_up(trainer, batch):
  """Returns the users and items that the loss of a batch looks up."""
  state = trainer.init()
  model, key = trainer.model_of(state), jax.random.key(0)
  chunk = trainer.prepare(state, tuple(jnp.asarray(a)[None] for a in batch))
  trainer.select(model, tuple(a[0] for a in chunk), state, key)
  return trainer.seen


def test_steps_exchange_alike_in_chunks_of_any_length():
  trainer = make_trainer(sharing="se", sharing_rate=0.5)
  state = trainer.init()
  batches = [jnp.tile(jnp.asarray(a), (3, 1)) for a in (USERS, ITEMS, RATINGS)]
  users, items, ratings = trainer.prepare(state, batches)
  np.testing.assert_array_equal(ratings, batches[2])
  later = state._replace(step=state.step + 2)
  last = trainer.prepare(later, [a[2:] for a in batches])
  np.testing.assert_array_equal(last[0], users[2:])
  np.testing.assert_array_equal(last[1], items[2:])
  assert len(np.unique(users, axis=0)) > 1
  assert make_trainer().prepare(state, batches) is batches


class Changed:
  """A model that keeps what a step does to vectors of ones."""

  def loss(self, positions, *args, change, **options):
    ones = jnp.ones((6, 3))
    self.parts = change(dict.fromkeys(("users", "items", "others"), ones))
    return jnp.float32(0), jnp.float32(0)

  ranking_loss = loss


@pytest.mark.parametrize(
  ("kind", "loss"),
  [(recommender_trainer.Trainer, "mse"), (ranking.RankingTrainer, "bpr")],
)
def test_what_is_dropped_does_not_tell_who_is_exchanged(kind, loss):
  options = {"sharing": "se", "sharing_rate": 0.5, "dropout": 0.5}
  trainer = make_trainer(kind, loss=loss, **options, biases=False)
  state, batch = trainer.init(), (USERS, ITEMS, OTHERS)
  steps, dropped = 60, {name: [] for name in ("users", "items", "others")}
  batches = tuple(jnp.tile(jnp.asarray(a), (steps, 1)) for a in batch)
  users, items, _ = trainer.prepare(state, batches)
  for step in range(steps):
    seen, key = Changed(), trainer.step_key(step)
    selection = trainer.select(trainer.model_of(state), batch, state, key)
    selection.loss(seen)
    for name, found in dropped.items():
      found.append(np.ravel(seen.parts[name])[: len(USERS)] == 0)
  for exchanged in (users != USERS, items != ITEMS):
    for found in dropped.values():
      agreement = np.mean(np.asarray(exchanged) == np.stack(found))
      assert abs(agreement - 0.5) < 5 * 0.5 / np.sqrt(steps * len(USERS))


@pytest.mark.parametrize(
  ("user_rate", "item_rate"), [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0)]
)
def test_each_table_has_its_own_rate(user_rate, item_rate):
  rates = {"user_sharing_rate": user_rate, "item_sharing_rate": item_rate}
  trainer = make_trainer(SeenTrainer, sharing="se", **rates)
  users, items = looked_up(trainer, (USERS, ITEMS, RATINGS))
  assert (users != USERS).all() == user_rate
  assert (items != ITEMS).all() == item_rate


def test_items_that_users_do_not_have_are_never_exchanged():
  trainer = make_trainer(
    SeenRanking, loss="bpr", sharing="se", sharing_rate=1.0
  )
  users, items = looked_up(trainer, (USERS, ITEMS, OTHERS))
  assert (users != USERS).all()
  assert (items[0] != ITEMS).all()
  np.testing.assert_array_equal(items[1], OTHERS)


def test_graphs_are_those_of_their_table():
  graph = ops.graph_from_classes([0, 1, 0, 1])
  trainer = make_trainer(
    SeenTrainer,
    {"items": graph},
    sharing="graph",
    sharing_graph="genre_set",
    sharing_rate=1.0,
    item_neighbor_ratio=1e9,
  )
  options = trainer.options
  assert (options["users"].sharing, options["items"].sharing) == ("se", "graph")
  users, items = looked_up(trainer, (USERS, ITEMS, RATINGS))
  assert (users != USERS).all()
  np.testing.assert_array_equal(items, np.array([2, 3, 0, 1])[ITEMS])


def test_rankings_by_row_and_of_the_whole_are_alike():
  ended = []
  for lazy_from in (0.0, 1e9):
    options = PLAIN | {"loss": "bpr", "sharing": "se", "lazy_from": lazy_from}
    trainer = make_trainer(ranking.RankingTrainer, **options)
    state, _ = jax.jit(trainer.step)(trainer.init(), (USERS, ITEMS, OTHERS))
    ended.append([np.asarray(leaf) for leaf in jax.tree.leaves(state.rows)])
  for first, second in zip(*ended, strict=True):
    np.testing.assert_allclose(first, second, atol=1e-6)


def toy_ratings(name):
  return datasets.make_ratings(
    name, users=[0, 1, 2], items=[0, 1, 2], values=[1, 2, 3], order=[0, 1, 2],
    user_names=["1", "2", "3"], item_names=["4", "5", "6"], source="ours",
  )  # fmt: skip


def test_graphs_of_shared_attributes(monkeypatch):
  genres = {"4": ("war", "drama"), "5": ("drama", "war"), "6": ("war",)}
  monkeypatch.setattr(
    recommender_graphs.movies,
    "load_genres",
    lambda name, *, item_names, data_dir: tuple(genres[i] for i in item_names),
  )
  monkeypatch.setattr(
    recommender_graphs.people,
    "load_age_groups",
    lambda name, *, user_names, data_dir: np.array([6, 0, 6]),
  )
  found = {
    name: recommender_graphs.load_graph(name, toy_ratings("ml-1m"))
    for name in recommender_options.GRAPHS
  }
  rows = {name: graph.row(0)[0].tolist() for name, graph in found.items()}
  assert rows == {"ages": [2], "genres": [1, 2], "genre_set": [1]}


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"loss": "ctr"}, "`loss` must be one of 'mse', 'bpr', got 'ctr'"),
    ({"sampling": "all"}, "`sampling` must be one of .* got 'all'"),
    ({"unseen": "zero"}, "`unseen` must be one of 'mean', 'own'"),
    ({"dropout": 1.0}, "`dropout` must be at least 0 and below 1, got 1.0"),
    ({"dropout_of": "ids"}, "`dropout_of` must be one of 'vectors'"),
    ({"epoch_decay": 0.0}, r"`epoch_decay` must be in \(0, 1\], got 0.0"),
    ({"eval_epochs": 0}, "`eval_epochs` must be at least 1, got 0"),
    ({"num_negatives": 0}, "`num_negatives` must be at least 1, got 0"),
    ({"sharing": "graph"}, "need each other, got 'graph' and ''"),
    ({"sharing_graph": "ages"}, "need each other, got 'none' and 'ages'"),
    ({"sharing_graph": "actors"}, "one of 'ages', .* got 'actors'"),
    ({"sharing_graph": "genres,genre_set"}, "one graph of items at most"),
    (
      {"sharing": "closed_form", "loss": "bpr"},
      "is for the loss 'mse' without dropout, got 'bpr' and 0.0",
    ),
    (
      {"mean_start": True, "biases": False, "embedding": "anchors"},
      "for ratings and 'full' tables, got the loss 'mse' and .'anchors'",
    ),
    ({"mean_start": True}, "needs `biases` False"),
    ({"rule": "trend", "loss": "bpr"}, "`rule` needs `loss` 'mse', got 'bpr'"),
    ({"rule": "trend", "biases": False}, "`rule` needs `biases` True"),
    ({"rule": "trend", "split": "given"}, "needs a validation part"),
    (
      {
        "rule": "marginal",
        "online_batches": 2,
        "sharing": "graph",
        "sharing_graph": "ages",
      },
      "`online_batches` numbers symbols as they come",
    ),
  ],
)
def test_bad_options_are_named(options, message):
  with pytest.raises(ValueError, match=message):
    recommender_options.check_config(
      dataclasses.replace(RecommenderConfig(), **options)
    )


def test_a_negative_mean_has_no_start():
  with pytest.raises(ValueError, match=r"non-negative mean, got -1.0"):
    recommender_trainer.mean_entry(-1.0, 4)


def test_a_layer_of_codes_ranks_too():
  model = make_model(embedding="dpq", code_length=1, codebook_size=2)
  model.eval()
  positions = positions_of(USERS, np.stack([ITEMS, OTHERS]))
  loss, plain = model.ranking_loss(positions, l2=0.0)
  assert jnp.isfinite(loss)
  assert jnp.isfinite(plain)
  assert nnx.state(model, nnx.Param)
