r"""Training that touches only the rows of a batch.

The gradient of a table of a million rows is as large as the table, although a
batch reads a few thousand rows. Instead:

1. :func:`unique_ids` finds the distinct rows of the batch, in a static shape;
2. :func:`gather_rows` copies them out, a small table of its own;
3. the loss is differentiated with respect to that small table, whose rows
   ``inverse`` spreads over the batch again;
4. :func:`update_rows` moves these rows, and their part of the state of the
   optimiser, and writes both back in place (under ``jit`` with donation).

The work of a step does not depend on ``num_embeddings``.

>>> rows = {"weights": jnp.ones((1000, 2))}
>>> optimizer = optax.sgd(0.5)
>>> state = optimizer.init(rows)
>>> ids, inverse = unique_ids(jnp.array([7, 3, 7]), num_embeddings=1000)
>>> loss = lambda batch: batch["weights"][inverse].sum()
>>> gradients = jax.grad(loss)(gather_rows(rows, ids))
>>> rows, state = update_rows(optimizer, rows, state, ids, gradients)
>>> print(rows["weights"][jnp.array([3, 5, 7])])
[[0.5 0.5]
 [1.  1. ]
 [0.  0. ]]
"""

from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from anchor_codes import typing
from anchor_codes.ops import indexing

Rows = TypeVar("Rows", bound=PyTree)


class UniqueIds(NamedTuple):
  """The distinct ids of a batch.

  Attributes:
    ids: The distinct ids in ascending order, filled up with `num_embeddings`:
      the sentinel, a row that does not exist.
    inverse: For each id of the batch its position in `ids`.
  """

  ids: Int[Array, " size"]
  inverse: Int[Array, "*batch"]


class RowAdagradState(NamedTuple):
  """State of :func:`scale_by_row_adagrad`.

  Attributes:
    sum_of_squares: For each leaf one number for each row, [num_embeddings].
  """

  sum_of_squares: PyTree[Float[Array, " num_embeddings"]]


def unique_ids(ids: Int[Array, "*batch"], *, num_embeddings: int) -> UniqueIds:
  """Finds the distinct ids of a batch, in a shape that ``jit`` can know.

  Args:
    ids: Ids of any shape and integer type. An id that is negative or past the
      end becomes the sentinel, whose row is zero and never written.
    num_embeddings: Number of rows of the table.

  Returns:
    The distinct ids and the positions of the batch in them. There are as many
    as the batch has ids, or as the table has rows, and one for the sentinel.

  Raises:
    ValueError: If the ids are not integers.

  >>> ids, inverse = unique_ids(jnp.array([[7, 3], [7, -1]]), num_embeddings=9)
  >>> print(ids)
  [3 7 9 9]
  >>> print(inverse)
  [[1 0]
   [1 2]]
  """
  typing.check_integer_ids(ids)
  typing.check_at_least("num_embeddings", num_embeddings, 1)
  # A narrow type may hold all ids, but not the sentinel.
  if jnp.iinfo(ids.dtype).max < num_embeddings:
    ids = ids.astype(jnp.int32)
  inside = (ids >= 0) & (ids < num_embeddings)
  ids = jnp.where(inside, ids, num_embeddings).astype(jnp.int32)
  # Ids are sorted alone and then searched: to sort them with their positions,
  # as `jnp.unique` does, takes three times as long.
  ordered = jnp.sort(ids.reshape(-1))
  is_new = jnp.diff(ordered, prepend=-1) > 0
  size = min(ids.size, num_embeddings + 1)
  unique = jnp.full(size, num_embeddings, jnp.int32)
  unique = unique.at[jnp.cumsum(is_new) - 1].set(ordered, mode="drop")
  return UniqueIds(unique, jnp.searchsorted(unique, ids).astype(jnp.int32))


def gather_rows(rows: Rows, ids: Int[Array, "*batch"]) -> Rows:
  """Copies some rows of every leaf.

  Args:
    rows: A pytree of arrays [num_embeddings, ...].
    ids: The rows to copy. An id that is negative or past the end gives zeros.

  Returns:
    A pytree like `rows` with the shape of `ids` in place of the first axis.

  >>> print(gather_rows(jnp.array([[1, 2], [3, 4]]), jnp.array([1, 2, -1])))
  [[3 4]
   [0 0]
   [0 0]]
  """
  return jax.tree.map(lambda leaf: _gather(leaf, ids), rows)


def scatter_rows(rows: Rows, ids: Int[Array, " size"], values: PyTree) -> Rows:
  """Writes some rows of every leaf.

  Args:
    rows: A pytree of arrays [num_embeddings, ...].
    ids: The rows to write, distinct, as :func:`unique_ids` gives them. What
      belongs to an id that is negative or past the end is dropped.
    values: A pytree like `rows`, with the rows at `ids`; cast to the type of
      `rows`.

  Returns:
    A pytree like `rows`. Under ``jit`` with donated rows it is written in
    place.

  >>> values = jnp.array([5.0, 6.0])
  >>> print(scatter_rows(jnp.zeros(3), jnp.array([1, 3]), values))
  [0. 5. 0.]
  """
  return jax.tree.map(
    lambda leaf, value: indexing.put_rows(leaf, ids, value), rows, values
  )


def update_rows(
  transformation: optax.GradientTransformation,
  rows: Rows,
  state: optax.OptState,
  ids: Int[Array, " size"],
  gradients: PyTree,
  **extra_args: Any,
) -> tuple[Rows, optax.OptState]:
  """Updates some rows by any per-element gradient transformation.

  The transformation sees a small table: the rows at `ids`, with their part of
  its state. What the state keeps for the table as a whole (the number of
  steps, say) it reads and writes as ever.

  The result is that of a step on the whole table, to the bit, if the
  transformation leaves alone what has no gradient: SGD, Adagrad,
  :func:`scale_by_row_adagrad`. Momentum, RMSProp, Adam and Yogi do not, because
  their moments go on moving a row that has no gradient. Here such a row waits,
  moments and all, until a batch touches it: another, "lazy" optimiser. The same
  holds for weight decay and for proximal steps, which act on the touched rows
  only; the latter can be made good by :func:`catch_up`.

  Args:
    transformation: Any transformation that treats all elements, or all rows,
      alike and by themselves.
    rows: A pytree of arrays [num_embeddings, ...].
    state: ``transformation.init(rows)``, or what the last step returned.
    ids: The rows to update, distinct, as :func:`unique_ids` gives them.
    gradients: A pytree like ``gather_rows(rows, ids)``: the gradient of the
      loss with respect to those.
    **extra_args: Handed on to the transformation, for the rows at `ids`: such
      as the `multipliers` of :func:`proximal_l1`. One that takes none ignores
      them.

  Returns:
    The new rows and the new state.

  Raises:
    ValueError: If the leaves of `rows` do not agree on the number of rows, or
      the state has a part that is not made of rows, as that of Adafactor, or
      gathers gradients over several steps, as those of ``optax.MultiSteps``
      and ``optax.apply_every``.

  >>> rows = jnp.ones((4, 2))
  >>> optimizer = optax.adagrad(1.0, initial_accumulator_value=0.0, eps=0.0)
  >>> state = optimizer.init(rows)
  >>> ids, gradients = jnp.array([2, 4]), jnp.ones((2, 2))
  >>> rows, state = update_rows(optimizer, rows, state, ids, gradients)
  >>> print(rows[:, 0])
  [1. 1. 0. 1.]
  """
  num_embeddings = _num_embeddings(rows)
  batch = gather_rows(rows, ids)
  updates, state = row_updates(
    transformation,
    batch,
    state,
    ids,
    gradients,
    num_embeddings=num_embeddings,
    **extra_args,
  )
  return scatter_rows(rows, ids, optax.apply_updates(batch, updates)), state


def row_updates(
  transformation: optax.GradientTransformation,
  batch: PyTree,
  state: optax.OptState,
  ids: Int[Array, " size"],
  gradients: PyTree,
  *,
  num_embeddings: int,
  **extra_args: Any,
) -> tuple[optax.Updates, optax.OptState]:
  """Computes the updates of rows that were gathered already.

  For rows that are trained in another form than they are stored in, such as the
  sparse rows of anchors, which are trained dense; :func:`update_rows` is for
  all others.

  Args:
    transformation: As for :func:`update_rows`.
    batch: A pytree of arrays [size, ...], the rows at `ids` as they are
      trained.
    state: State of the transformation for the whole table.
    ids: The rows, distinct, as :func:`unique_ids` gives them.
    gradients: A pytree like `batch`.
    num_embeddings: Number of rows of the whole table.
    **extra_args: Handed on to the transformation, for the rows at `ids`.

  Returns:
    Updates to add to `batch`, and the new state of the whole table.

  Raises:
    ValueError: If the state has a part that is not made of rows, or gathers
      gradients over several steps.

  >>> optimizer = optax.adagrad(1.0, initial_accumulator_value=0.0, eps=0.0)
  >>> state = optimizer.init(jnp.zeros((9, 2)))
  >>> ids, batch = jnp.array([7, 9]), jnp.ones((2, 2))
  >>> updates, state = row_updates(
  ...   optimizer, batch, state, ids, batch, num_embeddings=9
  ... )
  >>> print(updates[0])
  [-1. -1.]
  """
  _check_gathers_nothing(state)

  def has_rows(leaf: Array) -> bool:
    if leaf.shape[:1] != (num_embeddings,):
      raise ValueError(
        "the state must be made of rows: every array in it that belongs to "
        f"the parameters must have {num_embeddings} rows, got {leaf.shape}."
      )
    return True

  # What belongs to no parameter, such as a count of steps, has no rows: it is
  # the same for the whole table.
  is_rows = optax.tree.map_params(
    transformation,
    has_rows,
    state,
    transform_non_params=lambda leaf: False,
  )
  batch_state = jax.tree.map(
    lambda use, leaf: _gather(leaf, ids) if use else leaf, is_rows, state
  )
  transformation = optax.with_extra_args_support(transformation)
  updates, batch_state = transformation.update(
    gradients, batch_state, batch, **extra_args
  )
  state = jax.tree.map(
    lambda use, old, new: indexing.put_rows(old, ids, new) if use else new,
    is_rows,
    state,
    batch_state,
  )
  return updates, state


def scale_by_row_adagrad(
  *, initial_accumulator: float = 0.1, eps: float = 1e-7
) -> optax.GradientTransformation:
  r"""Scales the updates by Adagrad with one accumulator for each row.

  Definition (Mudigere et al., "Software-Hardware Co-design for Fast and
  Scalable Training of Deep Learning Recommendation Models", 2022), for every
  row :math:`g_i` of the gradient, with :math:`d` elements:

  .. math::

    a_i \leftarrow a_i + \frac1d \lVert g_i \rVert^2, \qquad
    u_i = g_i / \sqrt{a_i + \epsilon}

  The state has one number for each row, not one for each element. A row without
  a gradient is left alone, so that :func:`update_rows` with it gives what a
  step on the whole table gives.

  Args:
    initial_accumulator: The value of :math:`a_i` before the first step,
      non-negative.
    eps: Added under the root.

  Returns:
    A gradient transformation of pytrees of arrays [num_embeddings, ...]. It
    only scales: chain it with ``optax.scale_by_learning_rate``.

  Raises:
    ValueError: If `initial_accumulator` is negative.

  >>> optimizer = scale_by_row_adagrad(initial_accumulator=0.0, eps=0.0)
  >>> gradient = jnp.array([[4.0, -4.0], [0.0, 0.0]])
  >>> updates, state = optimizer.update(gradient, optimizer.init(gradient))
  >>> print(state.sum_of_squares)
  [16.  0.]
  >>> print(updates)
  [[ 1. -1.]
   [ 0.  0.]]
  """
  if initial_accumulator < 0:
    raise ValueError(
      f"`initial_accumulator` must be non-negative, got {initial_accumulator}."
    )

  def init(params: optax.Params) -> RowAdagradState:
    return RowAdagradState(
      jax.tree.map(
        lambda p: jnp.full(
          p.shape[:1], initial_accumulator, _accumulator_dtype(p)
        ),
        params,
      )
    )

  def update(
    updates: optax.Updates,
    state: Any,
    params: optax.Params | None = None,
  ) -> tuple[optax.Updates, optax.OptState]:
    del params
    sums = jax.tree.map(
      lambda g, a: a + _mean_square(g), updates, state.sum_of_squares
    )
    scaled = jax.tree.map(
      lambda g, a: g * _per_row(_inverse_root(a, eps), g), updates, sums
    )
    return scaled, RowAdagradState(sums)

  return optax.GradientTransformation(init, update)


def _gather(leaf: Array, ids: Int[Array, "*batch"]) -> Array:
  return indexing.take_rows(leaf, ids, fill_value=0)


def _num_embeddings(rows: Any) -> int:
  shapes = [leaf.shape for leaf in jax.tree.leaves(rows)]
  if len({shape[:1] for shape in shapes}) != 1 or not shapes[0]:
    raise ValueError(
      "the leaves of `rows` must have the same number of rows as their "
      f"first axis, got the shapes {shapes}."
    )
  return shapes[0][0]


def _check_gathers_nothing(state: optax.OptState) -> None:
  names = {optax.MultiStepsState: "MultiSteps", optax.ApplyEvery: "apply_every"}
  gathers = lambda node: type(node) in names
  for node in filter(gathers, jax.tree.leaves(state, is_leaf=gathers)):
    raise ValueError(
      f"`{names[type(node)]}` would lose gradients: those of rows that the "
      "last of its steps does not touch. Take larger batches instead."
    )


def _accumulator_dtype(leaf: Array) -> Any:
  # A sum in bfloat16 stops growing after some hundred steps.
  return leaf.dtype if leaf.dtype.itemsize >= 4 else jnp.float32


def _mean_square(gradient: Array) -> Float[Array, " num_embeddings"]:
  gradient = gradient.astype(_accumulator_dtype(gradient))
  return jnp.mean(gradient**2, axis=tuple(range(1, gradient.ndim)))


def _inverse_root(accumulator: Array, eps: float) -> Array:
  # If it and eps are 0, a row without a gradient would be 0 * inf.
  return jnp.where(accumulator > 0, jax.lax.rsqrt(accumulator + eps), 0)


def _per_row(numbers: Array, leaf: Array) -> Array:
  axes = tuple(range(1, leaf.ndim))
  return jnp.expand_dims(numbers, axes).astype(leaf.dtype)
