"""Dense rows of anchors leave training in the smallest form."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from anchor_codes import nn, tables


def make(num_zeros, *, num_anchors=40, param_dtype=jnp.float32):
  """Makes a layer with dense rows, the first of each row zeros."""
  layer = nn.AnchorEmbed(
    30,
    4,
    num_anchors=num_anchors,
    num_nonzeros=None,
    param_dtype=param_dtype,
    rngs=nnx.Rngs(0),
  )
  keep = np.arange(num_anchors)[None, :] >= np.asarray(num_zeros)[:, None]
  transform = np.asarray(layer.transform[...], np.float32) + 0.1
  layer.transform[...] = jnp.asarray(np.where(keep, transform, 0), param_dtype)
  return layer


@pytest.mark.parametrize(
  ("num_zeros", "extra"),
  [
    (np.zeros(30, int), set()),
    (np.full(30, 39), {"indices"}),
    (np.arange(30), {"masks"}),
  ],
)
def test_the_smallest_form_is_exported(num_zeros, extra):
  layer = make(num_zeros)
  table = layer.to_table()
  assert set(table.tensors) == {"anchors", "weights"} | extra
  np.testing.assert_array_equal(table.to_transform(), layer.transform[...])
  assert table.num_params == 30 * 40 - num_zeros.sum() + 40 * 4
  np.testing.assert_allclose(
    table.to_dense(), layer(jnp.arange(30)), rtol=1e-4, atol=1e-5
  )


@pytest.mark.parametrize(
  ("param_dtype", "stored"),
  [
    (jnp.float32, "float32"),
    (jnp.bfloat16, "float32"),
    (jnp.float16, "float16"),
  ],
)
def test_trained_types_are_kept_exactly(param_dtype, stored):
  layer = make(np.arange(30), param_dtype=param_dtype)
  table = layer.to_table()
  assert table.weights.dtype == table.anchors.dtype == stored
  expected = np.asarray(layer.transform[...], np.float32)
  np.testing.assert_array_equal(table.to_transform(), expected)


def test_an_exported_table_is_saved_and_loaded(tmp_path):
  table, path = make(np.arange(30)).to_table(), tmp_path / "table"
  table.save(path)
  loaded = tables.load(path)
  np.testing.assert_array_equal(loaded.to_dense(), table.to_dense())
  assert path.stat().st_size < make(np.zeros(30)).to_table().nbytes
