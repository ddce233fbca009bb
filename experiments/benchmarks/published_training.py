r"""Matrix factorisation as the published code of anchors trains it.

A rating is :math:`\langle e_u, e_i \rangle + b`, with a full table of vectors
on either side (MF) or with anchors (ANT), :math:`e = T A` (Liang et al.,
"Anchor & Transform", ICLR 2021). :mod:`.published_anchors` tells the protocol.
"""

import dataclasses
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from anchor_codes import ops, tables, training
from experiments import reporting
from experiments.datasets import ratings as datasets

Params = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
  """How a factorisation is trained.

  Attributes:
    learning_rate: Of Yogi, constant.
    l1: Strength of the penalty on the transforms; None for full tables.
    improved: Whether anchors start with random signs, and the bias at the mean.
    epochs: Passes over the training ratings.
    features: Width of a vector.
    num_anchors: Anchors of users, and of items.
    batch_size: Ratings in a batch.
  """

  learning_rate: float
  l1: float | None = None
  improved: bool = False
  epochs: int = 50
  features: int = 16
  num_anchors: tuple[int, int] = (10, 15)
  batch_size: int = 1024

  @property
  def label(self) -> str:
    """Name of the row."""
    if self.l1 is None:
      return f"MF, lr {self.learning_rate:g}"
    signs = ", signs and mean" if self.improved else ""
    return f"ANT, lr {self.learning_rate:g}, l1 {self.l1:g}{signs}"


class Batches(NamedTuple):
  """Ratings in batches [num_batches, batch_size]; the last may be padded.

  Attributes:
    users: Ids of users.
    items: Ids of items.
    values: The ratings.
    weights: 1 for a rating, 0 for padding.
  """

  users: Any
  items: Any
  values: Any
  weights: Any


class Course(NamedTuple):
  """What a run has measured, one number for each epoch.

  Attributes:
    train_mse: Mean error of the batches, each before its step.
    valid_mse: Mean error of the validation batches.
    num_params: Non-zeros of the transforms, and all of anchors or vectors.
  """

  train_mse: Any
  valid_mse: Any
  num_params: Any


class Run(NamedTuple):
  """A run with one seed.

  Attributes:
    params: What was learned.
    course: What was measured.
    training_bytes: Bytes of parameters, gradient and optimiser state.
    seconds: Duration.
    seconds_per_epoch: Duration of an epoch, without compilation if there is
      more than one.
  """

  params: Params
  course: Course
  training_bytes: int
  seconds: float
  seconds_per_epoch: float


def make_batches(
  data: datasets.Ratings, rows: np.ndarray, *, batch_size: int
) -> Batches:
  """Cuts ratings into batches in the order of `rows`.

  Args:
    data: The ratings.
    rows: Numbers of ratings, at least one.
    batch_size: Ratings in a batch; the last is padded with weights of zero.

  Returns:
    The batches, as NumPy arrays.
  """
  padding = -len(rows) % batch_size
  rows = np.pad(rows, (0, padding)).reshape(-1, batch_size)
  weights = np.ones(rows.shape, np.float32)
  weights[-1, batch_size - padding :] = 0
  return Batches(data.users[rows], data.items[rows], data.values[rows], weights)


def init_params(
  key: jax.Array,
  setting: Setting,
  *,
  num_users: int,
  num_items: int,
  mean: float,
) -> Params:
  """Draws the parameters at the start.

  Args:
    key: Source of randomness.
    setting: Which tables, and how they start.
    num_users: Number of users.
    num_items: Number of items.
    mean: Where the bias starts if `setting` is the improved one.

  Returns:
    The `bias`, and the tables of `users` and `items`: `vectors` alone, or
    `transform` and `anchors`.
  """
  keys, sizes = jax.random.split(key), (num_users, num_items)
  users, items = map(
    lambda *sides: _init_table(setting, *sides),
    keys,
    sizes,
    setting.num_anchors,
  )
  bias = jnp.asarray(mean if setting.improved else 0.0, jnp.float32)
  return {"bias": bias, "users": users, "items": items}


def _init_table(
  setting: Setting, key: jax.Array, num_rows: int, num_anchors: int
) -> Params:
  draw = lambda key, *shape: (
    (2 / shape[0]) ** 0.5 * jax.random.normal(key, shape)
  )
  if setting.l1 is None:
    return {"vectors": jnp.abs(draw(key, num_rows, setting.features))}
  keys = jax.random.split(key)
  anchors = draw(keys[1], num_anchors, setting.features)
  return {
    "transform": jnp.abs(draw(keys[0], num_rows, num_anchors)),
    "anchors": anchors if setting.improved else jnp.abs(anchors),
  }


def yogi(learning_rate: float) -> optax.GradientTransformation:
  """Takes the Yogi steps of the published code, without a proximal step.

  They are those of :func:`training.proximal_yogi` before its projection, whose
  moments these are; ``optax.yogi`` starts and corrects them in another way.

  Args:
    learning_rate: The learning rate, constant.

  Returns:
    A gradient transformation; its update needs the parameters.
  """
  moments = training.proximal_yogi(learning_rate, l1=0.0)

  def update(
    updates: optax.Updates, state: Any, params: optax.Params | None = None
  ) -> tuple[optax.Updates, optax.OptState]:
    _, state = moments.update(updates, state, params)
    t = state.count.astype(jnp.float32)
    step = learning_rate * jnp.sqrt(1 - 0.999**t) / (1 - 0.9**t)
    move = lambda m, v: -step * m / (jnp.sqrt(v) + 1e-3)
    return jax.tree.map(move, state.mu, state.nu), state

  return optax.GradientTransformation(moments.init, update)


def make_optimizer(setting: Setting) -> optax.GradientTransformation:
  """Makes the optimiser: proximal for transforms that have a penalty."""
  free = yogi(setting.learning_rate)
  if not setting.l1:
    return free
  sparse = training.proximal_yogi(setting.learning_rate, l1=setting.l1)
  label = lambda path, _: path[-1].key == "transform"
  return optax.partition(
    {True: sparse, False: free},
    lambda params: jax.tree_util.tree_map_with_path(label, params),
  )


def make_epoch(
  setting: Setting,
) -> Callable[[Any, Batches, Batches], tuple[Any, Course]]:
  """Makes the function that trains for an epoch, compiled as one scan.

  Args:
    setting: How to train.

  Returns:
    A function of (parameters, optimiser state), whose buffers it takes over,
    of training and of validation batches. It returns the new pair, and what
    was measured.
  """
  optimizer = make_optimizer(setting)

  def step(state: Any, batch: Batches) -> tuple[Any, jax.Array]:
    params, opt_state = state
    loss, gradients = jax.value_and_grad(batch_error)(params, batch)
    updates, opt_state = optimizer.update(gradients, opt_state, params)
    return (optax.apply_updates(params, updates), opt_state), loss

  def epoch(state: Any, batches: Batches, valid: Batches) -> tuple[Any, Course]:
    state, losses = jax.lax.scan(step, state, batches)
    errors = jax.vmap(batch_error, (None, 0))(state[0], valid)
    measured = Course(losses.mean(), errors.mean(), num_params(state[0]))
    return state, measured

  return jax.jit(epoch, donate_argnums=0)


def batch_error(params: Params, batch: Batches) -> jax.Array:
  """Returns the mean squared error of a batch, without its padding."""
  users = _lookup(params["users"], batch.users)
  items = _lookup(params["items"], batch.items)
  predictions = params["bias"] + jnp.sum(users * items, axis=-1)
  errors = batch.weights * (predictions - batch.values) ** 2
  return errors.sum() / batch.weights.sum()


def _lookup(table: Params, ids: jax.Array) -> jax.Array:
  if "vectors" in table:
    return ops.take_rows(table["vectors"], ids)
  return ops.anchor_lookup(table["transform"], table["anchors"], ids)


def num_params(params: Params) -> jax.Array:
  """Counts parameters as the paper does.

  Args:
    params: What :func:`init_params` gives, trained.

  Returns:
    Non-zeros of the transforms, and the sizes of anchors or vectors. Neither
    the bias nor the indices of the non-zeros count.
  """
  matrices = [*params["users"].items(), *params["items"].items()]
  counts = [
    jnp.count_nonzero(matrix) if name == "transform" else jnp.array(matrix.size)
    for name, matrix in matrices
  ]
  return jnp.stack(counts).sum()


def to_tables(params: Params) -> list[tables.Table]:
  """Returns the tables of users and items as they would be stored."""
  return [
    tables.DenseTable(np.asarray(side["vectors"]))
    if "vectors" in side
    else tables.AnchorTable.from_transform(side["anchors"], side["transform"])
    for side in (params["users"], params["items"])
  ]


def train(
  data: datasets.Ratings,
  setting: Setting,
  *,
  seed: int,
  epoch: Callable[[Any, Batches, Batches], tuple[Any, Course]] | None = None,
) -> Run:
  """Trains with one seed.

  Args:
    data: The ratings, of which 90 % are learned from.
    setting: How to train.
    seed: Of the start and of the order of the ratings; the split is the same
      for all.
    epoch: What :func:`make_epoch` gives for `setting`; runs that share it
      compile it once.

  Returns:
    What was learned and measured.
  """
  epoch = epoch or make_epoch(setting)
  size, rng = setting.batch_size, np.random.default_rng(seed)
  splits = datasets.split_ratings(data, kind="published")
  valid = jax.device_put(make_batches(data, splits.valid, batch_size=size))
  state = _init_state(data, setting, splits.train, seed=seed)
  training_bytes = _nbytes(state) + _nbytes(state[0])  # And the gradient.
  course, times = [], [time.perf_counter()]
  bar = reporting.progress(
    range(setting.epochs), description=setting.label, unit="epoch"
  )
  for _ in bar:
    rows = rng.permutation(splits.train)
    batches = make_batches(data, rows, batch_size=size)
    state, measured = epoch(state, batches, valid)
    course.append(jax.device_get(measured))
    times.append(time.perf_counter())
  return Run(
    params=jax.device_get(state[0]),
    course=Course(*map(np.array, zip(*course, strict=True))),
    training_bytes=training_bytes,
    seconds=times[-1] - times[0],
    seconds_per_epoch=float(np.median(np.diff(times))),
  )


def _init_state(
  data: datasets.Ratings, setting: Setting, rows: np.ndarray, *, seed: int
) -> tuple[Params, optax.OptState]:
  params = init_params(
    jax.random.key(seed),
    setting,
    num_users=len(data.user_names),
    num_items=len(data.item_names),
    mean=float(data.values[rows].mean()),
  )
  return params, make_optimizer(setting).init(params)


def _nbytes(tree: Any) -> int:
  return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))
