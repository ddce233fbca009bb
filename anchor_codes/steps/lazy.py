r"""Transformations whose rows go on moving while no batch touches them.

An l1 penalty shrinks all rows at each step, a step over the rows of a batch
only those. The others owe the steps that they have missed, which can be taken
at once when a batch touches them, or in the end:
:func:`~anchor_codes.ops.prox.catch_up`.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import optax
from jax import numpy as jnp
from jaxtyping import Array, Int, PyTree

from anchor_codes import training
from anchor_codes.ops import prox


class LazyTransformation(NamedTuple):
  """A gradient transformation that can make good what rows have missed.

  Attributes:
    init: As of any transformation of optax.
    update: As of any transformation of optax; the rows it gets are caught up.
    catch_up: ``catch_up(rows, state, ids) -> rows``: the rows at `ids` as if
      they had taken part in every step. The state is that of the whole table,
      and `ids` None stands for all of its rows.
    settle: ``settle(state) -> state``, once all rows are caught up.
  """

  init: Callable[[Any], Any]
  update: Callable[..., tuple[Any, Any]]
  catch_up: Callable[[Any, Any, Any], Any]
  settle: Callable[[Any], Any]


def check_factors(
  optimizers: Mapping[str, Any], factors: Mapping[str, Any]
) -> None:
  """Checks that no rows that make good what they missed have factors.

  Args:
    optimizers: The optimiser of the rows of each table, by its name.
    factors: What gives the factors of the penalty of a table, or None.

  Raises:
    ValueError: If a table has both: the sum of the steps that a row has missed
      knows no factors, and the penalty would be that of factors of 1.
  """
  for name, optimizer in optimizers.items():
    is_lazy = isinstance(optimizer, LazyTransformation)
    if is_lazy and factors.get(name) is not None:
      raise ValueError(
        f"the factors of table {name!r} must be None where its optimiser is a "
        f"LazyTransformation, got {factors[name]!r}: use `proximal_l1` on "
        "whole tables, or a penalty without factors."
      )


class LazyProximalState(NamedTuple):
  """State of :func:`lazy_proximal_l1`.

  Attributes:
    inner: State of the optimiser and of the proximal step.
    steps: Number of steps taken.
    clock: The steps taken since all rows were caught up: their number, or for
      a schedule the sum of their learning rates.
    last: For each leaf the clock at which a row was up to date,
      [num_embeddings].
  """

  inner: Any
  steps: Int[Array, ""]
  clock: Array
  last: PyTree


def lazy_proximal_l1(
  optimizer: optax.GradientTransformation,
  learning_rate: optax.ScalarOrSchedule,
  *,
  l1: float,
  nonnegative: bool = True,
) -> LazyTransformation:
  r"""Follows an optimiser by the proximal step of an l1 penalty, also missed.

  Definition (Duchi and Singer, "Efficient Online and Batch Learning Using
  Forward Backward Splitting", JMLR 2009, section 5.1): a row that is touched at
  step :math:`t` and was last touched at step :math:`t_0` is first thresholded
  by :math:`\lambda \sum_{t_0 < j < t} \eta_j`, the sum of what it has missed.
  The result is that of :func:`~anchor_codes.training.proximal_l1` on the whole
  table, up to rounding, if the optimiser leaves a row without a gradient alone:
  SGD, Adagrad, row-wise Adagrad.

  With a schedule the learning rates are summed in float32, whose rounding shows
  after some 10,000 steps: ``flush`` a step now and then. A constant rate counts
  steps, exactly.

  Args:
    optimizer: What turns gradients into updates.
    learning_rate: Its :math:`\eta`, or a schedule of it.
    l1: The strength :math:`\lambda` of the penalty, non-negative.
    nonnegative: Whether entries below zero are clipped to it, as those of
      anchors must be.

  Returns:
    A transformation for :class:`RowOptions`.

  Raises:
    ValueError: If `l1` is negative.

  >>> optimizer = lazy_proximal_l1(optax.sgd(0.5), 0.5, l1=0.5)
  >>> rows = jnp.array([[1.0], [1.0]])
  >>> state = optimizer.init(rows)
  >>> state = state._replace(clock=state.clock + 2)
  >>> print(optimizer.catch_up(rows[1:], state, jnp.array([1])))
  [[0.5]]
  """
  proximal = training.proximal_l1(learning_rate, l1=l1, nonnegative=nonnegative)
  inner = optax.chain(optimizer, proximal)
  threshold = (
    prox.nonnegative_soft_threshold if nonnegative else prox.soft_threshold
  )
  schedule = learning_rate if callable(learning_rate) else None
  unit = l1 if callable(learning_rate) else l1 * learning_rate
  dtype = jnp.int32 if schedule is None else jnp.float32

  def init(rows: Any) -> LazyProximalState:
    last = jax.tree.map(lambda row: jnp.zeros(row.shape[:1], dtype), rows)
    start = jnp.int32(0), jnp.zeros((), dtype)
    return LazyProximalState(inner.init(rows), *start, last)

  def update(
    updates: Any, state: LazyProximalState, rows: Any = None, **extra_args: Any
  ) -> tuple[Any, LazyProximalState]:
    updates, inner_state = inner.update(
      updates, state.inner, rows, **extra_args
    )
    tick = 1 if schedule is None else schedule(state.steps)
    clock = state.clock + jnp.asarray(tick, dtype)
    # The clock is the larger one. Were the old value not read here, it could be
    # overwritten before `catch_up` has read it, unless the array is copied.
    last = jax.tree.map(lambda old: jnp.maximum(old, clock), state.last)
    return updates, LazyProximalState(inner_state, state.steps + 1, clock, last)

  def catch_up(rows: Any, state: LazyProximalState, ids: Any) -> Any:
    # All rows of a symbol are touched together, in whatever form.
    last = jax.tree.leaves(state.last)[0]
    if ids is not None:
      last = training.gather_rows(last, ids)
    elapsed = (state.clock - last).astype(jnp.float32)

    def move(row: Array) -> Array:
      ticks = jnp.expand_dims(elapsed, tuple(range(1, row.ndim)))
      moved = threshold(row, (ticks * unit).astype(row.dtype))
      # No step is not a step with a threshold of 0, which clips at zero.
      return jnp.where(ticks > 0, moved, row)

    return jax.tree.map(move, rows)

  def settle(state: LazyProximalState) -> LazyProximalState:
    zero = lambda leaf: jnp.zeros_like(leaf)
    last = jax.tree.map(zero, state.last)
    return state._replace(clock=zero(state.clock), last=last)

  return LazyTransformation(init, update, catch_up, settle)
