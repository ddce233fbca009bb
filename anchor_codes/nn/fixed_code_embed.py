"""Codes that are given, with trained codebooks."""

from typing import Any

from flax import nnx
from jax import numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from anchor_codes import tables, typing
from anchor_codes.nn import base, table_parts
from anchor_codes.ops import codes as code_ops
from anchor_codes.ops import compositions, drawing, indexing, reclustering
from anchor_codes.ops import given_codes as given


class FixedCode(nnx.Variable):
  """Digits of given codes.

  They are not rows in the sense of :func:`~anchor_codes.nn.is_row`: there is
  nothing to train in them, so a step that trains rows has none to select. It
  trains the codebooks as a whole, and ids are looked up inside of the layer.
  """


class FixedCodeEmbed(table_parts.FromGivenCodes, base.CompactEmbed):
  r"""Embeds symbols by given codes; only what they share is trained.

  Definition: :math:`e_i = f(W^1[c_i^1], \dots, W^D[c_i^D])` for codes :math:`c`
  that never get a gradient: random ones (the baseline that learned codes have
  to beat; a compositional or "hash" embedding), codes of a pretrained table,
  or codes from :meth:`recluster`. Training takes the memory of the codes, of
  one or two bytes for each digit, and of the codebooks; a full table is never
  built.

  Parameters: `codebooks` [code_length or 1, codebook_size, code_features] and
  the other arrays of the composition, as
  :func:`~anchor_codes.ops.compositions.code_parameters` lists them. The codes
  are the variable `digits` [num_embeddings, code_length], of type
  :class:`FixedCode`.

  Args:
    num_embeddings: Number of symbols.
    features: Width of a vector.
    code_length: Digits of a code.
    codebook_size: Values of a digit, 2 to 65536.
    given_codes: Integers [num_embeddings, code_length] in
      [0, codebook_size); drawn uniformly at random if None.
    composition: How the chosen vectors become one: 'sum', 'concat' (then
      `features` must be divisible by `code_length`), 'linear', 'mlp', 'lstm'.
    code_features: Width of the chosen vectors of 'linear' and 'lstm';
      `features` by default.
    shared_codebook: Whether all digits choose from one codebook.
    hidden: Width of the layers of 'mlp' and 'lstm'; `features` by default.
    num_layers: Number of layers of 'mlp'.
    dtype: Type of the vectors.
    param_dtype: Type of the parameters.
    scale: Standard deviation of an entry of the vectors at the start.
    rngs: Source of randomness of the start.

  Raises:
    ValueError: If an option is outside its range, or the codes are.

  >>> embed = FixedCodeEmbed(3, 8, code_length=2, codebook_size=4,
  ...                        given_codes=[[0, 3], [1, 1], [0, 3]],
  ...                        rngs=nnx.Rngs(0))
  >>> vectors = embed(jnp.array([0, 1, 2]))
  >>> print((vectors[0] == vectors[2]).all(), embed.codes().dtype)
  True uint8
  """

  codebooks: nnx.Param

  def __init__(
    self,
    num_embeddings: int,
    features: int,
    *,
    code_length: int,
    codebook_size: int,
    given_codes: Any = None,
    composition: typing.Composition = "sum",
    code_features: int | None = None,
    shared_codebook: bool = False,
    hidden: int | None = None,
    num_layers: int = 1,
    dtype: base.Dtype | None = None,
    param_dtype: base.Dtype = jnp.float32,
    scale: float = 0.1,
    rngs: nnx.Rngs,
  ):
    super().__init__(num_embeddings, features, dtype=dtype)
    typing.check_at_least("code_length", code_length, 1)
    sizes = {
      "num_embeddings": num_embeddings,
      "code_length": code_length,
      "codebook_size": codebook_size,
    }
    parameters = compositions.code_parameters(
      composition,
      features=features,
      code_length=code_length,
      codebook_size=codebook_size,
      code_features=code_features,
      shared_codebook=shared_codebook,
      hidden=hidden,
      num_layers=num_layers,
      scale=scale,
    )
    self.composition = composition
    if given_codes is None:
      digits = given.random_codes(rngs.params(), **sizes)
    else:
      digits = given.as_codes("given_codes", given_codes, **sizes)
    self.digits = FixedCode(jnp.asarray(digits))
    for name, (shape, std) in parameters.items():
      draws = drawing.normal_rows(
        rngs.params(), shape, scale=std, dtype=param_dtype
      )
      setattr(self, name, nnx.Param(draws))
    self._names = tuple(parameters)

  def _lookup(
    self, ids: Int[Array, "*batch"]
  ) -> Float[Array, "*batch features"]:
    # Integers have no `nan`: an id outside the table reads zeros here, and its
    # vector is marked in the end.
    codes = indexing.take_rows(self.digits[...], ids)
    vectors = code_ops.decode_codes(codes, **self._arrays)
    return indexing.nan_outside(
      vectors, ids, num_embeddings=self.num_embeddings
    )

  def codes(self) -> Int[Array, "num_embeddings code_length"]:
    """Returns the code of each symbol."""
    return self.digits[...]

  def _attend(
    self, query: Float[Array, "*batch features"]
  ) -> Float[Array, "*batch num_embeddings"]:
    """Scores all embeddings: the query meets each codebook entry only once."""
    return code_ops.attend_codes(query, self.digits[...], **self._arrays)

  def to_table(self) -> tables.CodeTable:
    """Returns the artefact: packed codes and codebooks."""
    arrays: dict[str, Any] = {
      name: base.to_numpy(getattr(self, name)) for name in self._names
    }
    return tables.CodeTable.from_codes(
      base.to_numpy(self.digits), composition=self.composition, **arrays
    )

  def recluster(
    self,
    key: PRNGKeyArray,
    *,
    num_iterations: int = 25,
    num_samples: int = 2**16,
  ) -> float:
    """Turns what the codebooks have learned into codes, in place.

    "Clustering the sketch" (Tsang and Ahle, NeurIPS 2023), for the host,
    between steps; see
    :func:`~anchor_codes.ops.reclustering.recluster_codes`. An optimiser should
    start anew: its moments belong to the old codebooks.

    Args:
      key: Random key.
      num_iterations: Steps of k-means.
      num_samples: Vectors to cluster, drawn at random if there are more.

    Returns:
      The mean squared change of an entry of the vectors.

    Raises:
      ValueError: If the composition is not 'sum' with a codebook for each of
        at least two digits.
    """
    reclustering.check_reclustering(
      composition=self.composition,
      code_length=self.digits[...].shape[1],
      num_codebooks=self.codebooks[...].shape[0],
    )
    result = reclustering.recluster_codes(
      key,
      self.digits[...],
      self.codebooks[...],
      num_iterations=num_iterations,
      num_samples=num_samples,
    )
    self.digits[...], self.codebooks[...] = result.codes, result.codebooks
    return float(result.change)

  @property
  def _arrays(self) -> dict[str, Any]:
    parameters = {name: getattr(self, name)[...] for name in self._names}
    return given.composition_arguments(self.composition, parameters)
