"""Maps of large id spaces to smaller ones."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from anchor_codes.bits import hash_ids
from anchor_codes.typing import check_at_least, check_integer_ids


def hash_buckets(
  ids: Int[Array, "*batch"],
  *,
  num_buckets: int,
  num_hashes: int,
  seed: int = 0,
) -> Int[Array, "*batch num_hashes"]:
  """Hashes each id into a bucket by several functions.

  Function ``h`` is :func:`anchor_codes.bits.hash_ids` with seed ``seed + h``.
  Two ids share all their buckets with a chance of about ``num_buckets **
  -num_hashes`` (hash embeddings; Svenstrup et al., NeurIPS 2017).

  Args:
    ids: Non-negative ids.
    num_buckets: Number of buckets, 1 to 2 ** 31.
    num_hashes: Number of hash functions, at least 1.
    seed: Seed of the first function, 0 to ``2 ** 32 - num_hashes``. Seeds
      that are `num_hashes` apart have no function in common.

  Returns:
    int32 buckets in ``[0, num_buckets)``.

  Raises:
    ValueError: If the ids are not integers or an option is out of range.

  >>> ids = jnp.arange(3)
  >>> print(hash_buckets(ids, num_buckets=100, num_hashes=2).shape)
  (3, 2)
  """
  check_at_least("num_hashes", num_hashes, 1)
  buckets = [
    hash_ids(ids, num_buckets=num_buckets, seed=seed + number)
    for number in range(num_hashes)
  ]
  return jnp.stack(buckets, axis=-1)


def quotient_remainder(
  ids: Int[Array, "*batch"], *, divisor: int
) -> tuple[Int[Array, "*batch"], Int[Array, "*batch"]]:
  r"""Splits ids into quotient and remainder.

  Two small tables then give every id a vector of its own, composed of row
  :math:`\lfloor i / m \rfloor` of one and row :math:`i \bmod m` of the other
  (compositional embeddings; Shi et al., KDD 2020).

  Args:
    ids: Ids; a negative one has a negative quotient.
    divisor: The :math:`m`, from 1 to 2 ** 31 - 1.

  Returns:
    Quotients and remainders, at least int32; of NumPy, if the ids are.

  Raises:
    ValueError: If the ids are not integers or `divisor` is less than 1.

  >>> quotients, remainders = quotient_remainder(jnp.array([9, 23]), divisor=10)
  >>> print(quotients, remainders)
  [0 2] [9 3]
  """
  check_integer_ids(ids)
  check_at_least("divisor", divisor, 1)
  # A narrow type holds small ids, but not the divisor.
  ids = ids.astype(np.int32) if ids.dtype.itemsize < 4 else ids
  # JAX would cut those of the host down to 32 bits before it divides.
  on_host = isinstance(ids, np.ndarray | np.generic)
  divide: Any = np.divmod if on_host else jnp.divmod
  return divide(ids, int(divisor))
