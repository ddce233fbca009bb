"""Layers in half precision are exported, exactly."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from anchor_codes import nn

LAYERS = {
  "anchors": lambda **kw: nn.AnchorEmbed(9, 4, num_anchors=3, **kw),
  "codes": lambda **kw: nn.DPQEmbed(9, 4, code_length=2, codebook_size=4, **kw),
  "hash": lambda **kw: nn.HashEmbed(9, 4, num_buckets=5, **kw),
  "full": lambda **kw: nnx.Embed(9, 4, **kw),
}


@pytest.mark.parametrize("name", LAYERS)
def test_bfloat16_parameters_become_float32(name):
  options = {"num_nonzeros": 2} if name == "anchors" else {}
  layer = LAYERS[name](param_dtype=jnp.bfloat16, rngs=nnx.Rngs(0), **options)
  table = nn.to_table(layer)
  for array in table.tensors.values():
    assert array.dtype.name in ("float32", "uint8")
  layer.eval()
  vectors = np.asarray(layer(jnp.arange(9)), np.float32)
  np.testing.assert_allclose(table.to_dense(), vectors, rtol=0.02, atol=1e-3)
