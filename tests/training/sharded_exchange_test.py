"""Exchange of rows: ids that 32 bits cannot name, routes, and padding."""

import functools

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from anchor_codes import training

EXCHANGES = ("auto", "scatter", "all_to_all")


def exchanged(ids, *, size, **options):
  mesh = training.data_mesh()
  rows = jnp.arange(1.0, size + 1, dtype=jnp.float32)
  return training.exchange_rows(
    training.pad_rows(rows, mesh.size),
    ids,
    num_embeddings=size,
    mesh=mesh,
    **options,
  )


def updated(update, route, size, **options):
  mesh = training.data_mesh()
  rows = training.pad_rows(jnp.zeros(size), mesh.size)
  gradients = jnp.ones(route.slots.shape)
  return training.update_sharded_rows(
    update, rows, (), route, gradients, mesh=mesh, **options
  )[0]


def add(rows, state, ids, gradients):
  return rows.at[ids].add(gradients, mode="drop"), state


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_ids_of_the_host_are_not_cut_to_those_of_other_rows(exchange):
  ids = np.array([2**32 + 1, 1, 2**33, -(2**32) + 2])
  rows, route = exchanged(ids, size=10, exchange=exchange)
  np.testing.assert_array_equal(rows, [np.nan, 2, np.nan, np.nan])
  new = updated(add, route, 10, exchange=exchange)
  np.testing.assert_array_equal(np.flatnonzero(new), [1])


@pytest.mark.parametrize(
  ("there", "back"),
  [
    ("auto", "scatter"),
    ("all_to_all", "scatter"),
    ("scatter", "auto"),
    ("all_to_all", "auto"),
    ("auto", "all_to_all"),
  ],
)
def test_the_way_back_is_that_of_the_route(there, back):
  ids = np.random.default_rng(0).integers(0, 4000, 1604)
  _, route = exchanged(ids, size=4001, exchange=there)
  with pytest.raises(ValueError, match=f"`exchange` must be .* got '{back}'"):
    updated(add, route, 4001, exchange=back)


@pytest.mark.parametrize("exchange", EXCHANGES)
@pytest.mark.parametrize(("size", "batch"), [(1, 8), (5, 400), (4001, 400)])
def test_all_occurrences_are_added_up(exchange, size, batch):
  ids = np.random.default_rng(0).integers(0, size, batch, dtype=np.int32)
  _, route = exchanged(ids, size=size, exchange=exchange, capacity_factor=4)
  new = updated(add, route, size, exchange=exchange)
  expected = np.bincount(ids, minlength=new.shape[0])
  np.testing.assert_array_equal(new, expected)


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_ids_are_filled_up_with_the_number_of_rows(exchange):
  """A place behind the rows is one that an update may write to."""

  def count(rows, state, ids, gradients):
    counts = jnp.zeros(rows.shape[0] + 1).at[ids].add(1.0, mode="drop")
    return rows + jnp.where(counts[-1] > 0, 1, -1) + counts[:-1], state

  ids = np.array([3, 3, -1, 99], np.int32)
  _, route = exchanged(ids, size=12, exchange=exchange)
  update = functools.partial(updated, exchange=exchange)
  expected = np.where(np.arange(12) == 3, 2, 1)
  np.testing.assert_array_equal(
    jax.jit(update, static_argnums=(0, 2))(count, route, 12), expected
  )
