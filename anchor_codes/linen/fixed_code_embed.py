"""Linen twin of given codes with trained codebooks."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from anchor_codes import tables, typing
from anchor_codes.linen import base
from anchor_codes.ops import codes as code_ops
from anchor_codes.ops import compositions, indexing
from anchor_codes.ops import given_codes as given


class FixedCodeEmbed(base.CompactEmbed, kw_only=True):
  """Linen twin of :class:`anchor_codes.nn.FixedCodeEmbed`.

  The codes are the variable `digits` of the collection "codes". To cluster
  them, give them and the codebooks to
  :func:`anchor_codes.ops.recluster_codes`.

  >>> import jax
  >>> embed = FixedCodeEmbed(100, 8, code_length=4, codebook_size=16)
  >>> variables = embed.init(jax.random.key(0), 3)
  >>> jax.tree.map(lambda array: array.shape, variables)
  {'codes': {'digits': (100, 4)}, 'params': {'codebooks': (4, 16, 8)}}
  """

  code_length: int
  codebook_size: int
  given_codes: Any = None
  composition: typing.Composition = "sum"
  code_features: int | None = None
  shared_codebook: bool = False
  hidden: int | None = None
  num_layers: int = 1

  def _declare(self) -> None:
    typing.check_at_least("code_length", self.code_length, 1)
    self.digits = self.variable("codes", "digits", self._start)
    parameters = compositions.code_parameters(
      self.composition,
      features=self.features,
      code_length=self.code_length,
      codebook_size=self.codebook_size,
      code_features=self.code_features,
      shared_codebook=self.shared_codebook,
      hidden=self.hidden,
      num_layers=self.num_layers,
      scale=self.scale,
    )
    self.parameters = {
      name: self._normal(name, std, *shape)
      for name, (shape, std) in parameters.items()
    }

  def codes(self) -> Int[Array, "num_embeddings code_length"]:
    """Returns the code of each symbol."""
    return self.digits.value

  def _start(self) -> Array:
    sizes = {
      "num_embeddings": self.num_embeddings,
      "code_length": self.code_length,
      "codebook_size": self.codebook_size,
    }
    if self.given_codes is None:
      return given.random_codes(self.make_rng("params"), **sizes)
    codes = given.as_codes("given_codes", self.given_codes, **sizes)
    return jnp.asarray(codes)

  def _lookup(self, ids: base.Ids) -> base.Vectors:
    # Integers have no `nan`: an id outside the table reads zeros here, and its
    # vector is marked in the end.
    codes = indexing.take_rows(self.digits.value, ids)
    vectors = code_ops.decode_codes(codes, **self._arrays)
    size = self.num_embeddings
    return indexing.nan_outside(vectors, ids, num_embeddings=size)

  def _attend(self, query: base.Vectors) -> base.Scores:
    return code_ops.attend_codes(query, self.digits.value, **self._arrays)

  def _to_table(self) -> tables.CodeTable:
    arrays: dict[str, Any] = {
      name: np.asarray(array) for name, array in self.parameters.items()
    }
    return tables.CodeTable.from_codes(
      np.asarray(self.digits.value), composition=self.composition, **arrays
    )

  @property
  def _arrays(self) -> dict[str, Any]:
    return given.composition_arguments(self.composition, self.parameters)
