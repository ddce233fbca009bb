"""Tests of the random rows of large tables."""

from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx
from jax import numpy as jnp

from anchor_codes import linen, nn
from anchor_codes.ops import anchor_starts, drawing, given_codes

KEY = jax.random.key(0)
V, BLOCK_ENTRIES = 100_000, 2**14


def antipodal(key, size):
  return anchor_starts.antipodal_rows(key, num_embeddings=size, num_anchors=8)


def codes(key, size):
  return given_codes.random_codes(
    key, num_embeddings=size, code_length=16, codebook_size=32
  )


def sparse(key, size):
  return anchor_starts.random_rows(
    key, num_embeddings=size, num_anchors=5000, num_nonzeros=8
  )


def normal(key, size):
  return drawing.normal_rows(key, (size, 4, 2), scale=2.0)


DRAWS = {"codes": codes, "sparse": sparse, "dense": antipodal, "normal": normal}


@pytest.fixture
def small_blocks(monkeypatch):
  monkeypatch.setattr(drawing, "_BLOCK_ENTRIES", BLOCK_ENTRIES)


def leaves(tree):
  return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


@pytest.mark.parametrize("name", DRAWS)
@pytest.mark.parametrize("size", [2047, 2048, 2049, 4096, 5000])
def test_blocks_differ_and_leave_no_row_out(name, size, small_blocks):
  for rows in leaves(DRAWS[name](KEY, size)):
    flat = rows.reshape(size, -1).astype(np.float64)
    # No row is missing, none is drawn twice.
    assert flat.any(axis=1).all()
    assert len(np.unique(flat, axis=0)) == size


@pytest.mark.parametrize("name", DRAWS)
@pytest.mark.parametrize("size", [100, 5000])
def test_traced_draws_are_the_same(name, size, small_blocks):
  draw = lambda key: DRAWS[name](key, size)
  for rows, traced in zip(
    leaves(draw(KEY)), leaves(jax.jit(draw)(KEY)), strict=True
  ):
    assert rows.dtype == traced.dtype
    np.testing.assert_allclose(rows, traced, rtol=1e-6)


def test_small_tables_are_drawn_at_once():
  rows = drawing.normal_rows(KEY, (50, 3), scale=0.5, dtype=jnp.bfloat16)
  expected = 0.5 * jax.random.normal(KEY, (50, 3), jnp.bfloat16)
  assert rows.dtype == jnp.bfloat16
  np.testing.assert_array_equal(rows, expected)


def test_entries_are_independent_and_of_the_scale(small_blocks):
  rows = np.asarray(drawing.normal_rows(KEY, (40_000, 8), scale=3.0))
  np.testing.assert_allclose(rows.mean(axis=0), 0, atol=0.08)
  np.testing.assert_allclose(np.cov(rows.T), 9 * np.eye(8), atol=0.3)
  # Of a block and the next one, too.
  shifted = np.mean(rows[:-2048] * rows[2048:])
  np.testing.assert_allclose(shifted, 0, atol=0.08)


def test_wide_rows_have_blocks_of_one(monkeypatch):
  monkeypatch.setattr(drawing, "_BLOCK_ENTRIES", 5)
  rows = np.asarray(drawing.normal_rows(KEY, (4, 7)))
  assert rows.all()
  assert len(np.unique(rows)) == 28


def make_layers():
  """Layers whose rows are large and whose shared parts are not."""
  sizes: dict[str, Any] = {"code_length": 4, "codebook_size": 4}
  rngs = nnx.Rngs(0)
  return {
    "anchors": lambda: nn.AnchorEmbed(V, 16, num_anchors=50, rngs=rngs),
    "dense anchors": lambda: nn.AnchorEmbed(
      V, 16, num_anchors=16, num_nonzeros=None, rngs=rngs, start="antipodal"
    ),
    "kd": lambda: nn.KDEmbed(V, 16, **sizes, rngs=rngs),
    "dpq": lambda: nn.DPQEmbed(V, 16, **sizes, rngs=rngs),
    "fixed": lambda: nn.FixedCodeEmbed(V, 16, **sizes, rngs=rngs),
    "low rank": lambda: nn.LowRankEmbed(V, 16, rank=16, rngs=rngs),
    "qr": lambda: nn.QREmbed(V, 16, num_buckets=2, rngs=rngs),
    "guided": lambda: nn.GuidedEmbed(
      nn.KDEmbed(V, 16, **sizes, rngs=rngs), rngs=rngs
    ),
    "linen": lambda: linen.DPQEmbed(V, 16, **sizes).init(KEY, jnp.arange(2)),
  }


@pytest.mark.parametrize("name", make_layers())
def test_no_layer_draws_its_rows_at_once(name, small_blocks, monkeypatch):
  largest = 0

  def watch(draw):
    def watched(key, shape=(), *args, **kwargs):
      nonlocal largest
      largest = max(largest, int(np.prod(shape)))
      return draw(key, shape, *args, **kwargs)

    return watched

  for draw in ("normal", "uniform", "randint"):
    monkeypatch.setattr(jax.random, draw, watch(getattr(jax.random, draw)))
  make_layers()[name]()
  assert 0 < largest <= BLOCK_ENTRIES
