"""Codes made of what random codes have learned, between steps of training."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt

from anchor_codes import typing
from anchor_codes.ops.clustering import residual_kmeans
from anchor_codes.ops.codes import decode_codes
from anchor_codes.ops.given_codes import random_codes
from anchor_codes.ops.reductions import wide

# Codes must not depend on how a device rounds the factors of a product.
_FULL = jax.lax.Precision.HIGHEST
_BLOCK_ENTRIES = 2**22  # Numbers to hold at a time: 16 MiB.


class Reclustered(NamedTuple):
  """Codes and codebooks after a clustering.

  Attributes:
    codes: The new codes, of the type of the old ones.
    codebooks: The new codebooks, of the type of the old ones.
    change: Mean squared change of the entries of the vectors.
  """

  codes: UInt[Array, "num_embeddings code_length"]
  codebooks: Float[Array, "code_length codebook_size features"]
  change: Float[Array, ""]


def residual_codes(
  points: Float[Array, "num_points features"],
  codebooks: Float[Array, "code_length codebook_size features"],
) -> UInt[Array, "num_points code_length"]:
  """Chooses codes stage by stage, each for what the stages before it leave.

  The codes of :func:`~anchor_codes.ops.clustering.residual_kmeans` for points
  that were not clustered, in blocks.

  Args:
    points: What to quantise.
    codebooks: One for each stage.

  Returns:
    Codes in the smallest unsigned type, for the composition ``"sum"``.

  >>> codebooks = jnp.array([[[0.0], [10.0]], [[-1.0], [1.0]]])
  >>> print(residual_codes(jnp.array([[0.7], [9.0]]), codebooks))
  [[0 1]
   [1 0]]
  """
  dtype = typing.code_dtype(codebooks.shape[1])
  choose = lambda point: _residual_code(point, wide(codebooks))
  block = _block_size(codebooks)
  return jax.lax.map(choose, wide(points), batch_size=block).astype(dtype)


def recluster_codes(
  key: PRNGKeyArray,
  codes: UInt[Array, "num_embeddings code_length"],
  codebooks: Float[Array, "code_length codebook_size features"],
  *,
  num_iterations: int = 25,
  num_samples: int = 2**16,
) -> Reclustered:
  r"""Turns what codebooks have learned into codes, and makes room for more.

  "Clustering the sketch" (CCE; Tsang and Ahle, NeurIPS 2023): the vectors
  :math:`e_i = \sum_j W_{j c_{ij}}` of random codes are clustered. The first
  half of the digits then says where a vector lies (residual k-means, which
  for one digit is the k-means of the paper); the other half is drawn anew, and
  its codebooks start at zero, so that training can tell symbols of a cluster
  apart. The vectors of all symbols are never stored at once.

  Args:
    key: Random key.
    codes: The code of each symbol, of at least two digits.
    codebooks: One for each position, for the composition ``"sum"``.
    num_iterations: Steps of k-means.
    num_samples: Vectors to cluster, drawn at random if there are more; at
      least as many as a codebook has entries.

  Returns:
    New codes and codebooks, and how much the vectors have changed.

  Raises:
    ValueError: If there are too few digits, symbols or samples.

  >>> codes = jnp.array([[0, 0], [0, 1], [1, 0], [1, 1]], jnp.uint8)
  >>> codebooks = jnp.array([[[0.0], [9.0]], [[-1.0], [1.0]]])
  >>> result = recluster_codes(jax.random.key(0), codes, codebooks)
  >>> print(jnp.sort(result.codebooks[:, :, 0]), result.change)
  [[0. 9.]
   [0. 0.]] 1.0
  """
  chex.assert_rank([codes, codebooks], [2, 3])
  num_embeddings, length = codes.shape
  typing.check_at_least("code_length", length, 2)
  typing.check_at_least("num_samples", num_samples, 1)
  chex.assert_axis_dimension(codebooks, 0, length)
  sample_key, cluster_key, code_key = jax.random.split(key, 3)
  sample = codes
  if num_embeddings > num_samples:
    shape = (num_samples,)
    chosen = jax.random.choice(sample_key, num_embeddings, shape, replace=False)
    sample = codes[chosen]
  num_stages, size = length // 2, codebooks.shape[1]
  stages, _ = residual_kmeans(
    cluster_key,
    wide(decode_codes(sample, codebooks, "sum")),
    code_length=num_stages,
    codebook_size=size,
    num_iterations=num_iterations,
  )
  stages = stages.astype(codebooks.dtype)
  digits, change = _recode(codes, codebooks, stages)
  fresh = random_codes(
    code_key,
    num_embeddings=num_embeddings,
    code_length=length - num_stages,
    codebook_size=size,
  )
  new_codes = jnp.concatenate([digits.astype(fresh.dtype), fresh], axis=1)
  zeros = jnp.zeros_like(codebooks[num_stages:])
  return Reclustered(
    new_codes.astype(codes.dtype), jnp.concatenate([stages, zeros]), change
  )


def check_reclustering(
  *, composition: str, code_length: int, num_codebooks: int
) -> None:
  """Raises `ValueError` unless codes of such a layer can be clustered.

  >>> check_reclustering(composition="concat", code_length=4, num_codebooks=4)
  Traceback (most recent call last):
  ...
  ValueError: `composition` must be 'sum' to cluster the codes, got 'concat'.
  """
  if composition != "sum":
    raise ValueError(
      f"`composition` must be 'sum' to cluster the codes, got {composition!r}."
    )
  typing.check_at_least("code_length", code_length, 2)
  if num_codebooks != code_length:
    raise ValueError(
      "`shared_codebook` must be False to cluster the codes: each digit takes "
      "a codebook of its own."
    )


@jax.jit
def _recode(
  codes: Array, codebooks: Array, stages: Array
) -> tuple[Int[Array, "num_embeddings stages"], Float[Array, ""]]:
  """Codes the vectors of old codes anew, and compares the vectors."""

  def recode(code: Array) -> tuple[Array, Array]:
    old = wide(decode_codes(code, codebooks, "sum"))
    digits = _residual_code(old, wide(stages))
    new = wide(decode_codes(digits, stages, "sum"))
    return digits, jnp.mean(jnp.square(new - old))

  block = _block_size(codebooks)
  digits, changes = jax.lax.map(recode, codes, batch_size=block)
  return digits, jnp.mean(changes)


def _residual_code(
  point: Float[Array, " features"],
  codebooks: Float[Array, "code_length codebook_size features"],
) -> Int[Array, " code_length"]:
  def stage(residual: Array, codebook: Array) -> tuple[Array, Array]:
    dots = jnp.dot(codebook, residual, precision=_FULL)
    norms = jnp.sum(jnp.square(codebook), axis=-1)
    digit = jnp.argmin(norms - 2 * dots).astype(jnp.int32)
    return residual - codebook[digit], digit

  return jax.lax.scan(stage, point, codebooks)[1]


def _block_size(codebooks: Float[Array, "_ codebook_size features"]) -> int:
  # A point holds a vector, and the scores of one stage at a time.
  return max(_BLOCK_ENTRIES // max(codebooks.shape[1:]), 1)
