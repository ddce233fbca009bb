"""Rows that are computed from the id: nothing is stored for a symbol."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np

from anchor_codes import bits
from anchor_codes.tables import base, checks
from anchor_codes.typing import check_at_least, check_choice

ADDRESSINGS = ("hash", "quotient_remainder")
COMPOSITIONS = ("sum", "product")


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class HashTable(base.Table):
  r"""A table whose symbols share buckets, found from the id alone.

  With bucket tables :math:`B_h`, :math:`e_i = \sum_h B_h[a_h(i)]`, or the
  product. The addresses :math:`a_h(i)` are

  * 'hash': :func:`anchor_codes.bits.hash_ids` with seed `seed` + h (Svenstrup
    et al., "Hash Embeddings", NeurIPS 2017, without their weights);
  * 'quotient_remainder': i // m and i % m, where m is the number of
    remainders; no two symbols share both (Shi et al., "Compositional
    Embeddings Using Complementary Partitions", KDD 2020).

  Attributes:
    buckets: One array [num_buckets, features] for each address, float32 or
      float16, or one array [num_hashes, num_buckets, features]. For
      'quotient_remainder' these are the quotients [ceil(num_embeddings / m),
      features] and the remainders [m, features].
    num_embeddings: Number of symbols.
    addressing: 'hash' or 'quotient_remainder'.
    composition: 'sum' or 'product'.
    seed: Seed of the first hash, with the number of hashes at most
      2 ** 32.
    vocabulary: One different string for each row, or None.

  Raises:
    ValueError: If an option or an array is not like that.

  >>> table = HashTable(
  ...     [np.float32([[10], [20], [30]]), np.float32([[1], [2]])],
  ...     num_embeddings=5,
  ...     addressing="quotient_remainder",
  ...     composition="sum",
  ... )
  >>> print(table.to_dense()[:, 0], table.bits_per_row)
  [11. 12. 21. 22. 31.] 0
  """

  kind: ClassVar[str] = "hash"
  # The tensors do not tell the number of symbols, which have no rows here.
  _OPTIONS: ClassVar = {
    "num_embeddings": int,
    "addressing": str,
    "composition": str,
    "seed": int,
  }

  buckets: Sequence[np.ndarray] | np.ndarray
  _: dataclasses.KW_ONLY
  num_embeddings: int
  addressing: str
  composition: str
  seed: int = 0

  @property
  def tensors(self) -> dict[str, np.ndarray]:
    """The arrays of the file by name, without the vocabulary."""
    return {f"buckets_{i}": array for i, array in enumerate(self.buckets)}

  @property
  def num_params(self) -> int:
    """Numbers in the buckets."""
    return sum(array.size for array in self.buckets)

  @classmethod
  def from_tensors(
    cls,
    tensors: Mapping[str, np.ndarray],
    metadata: Mapping[str, str],
    **options: Any,
  ) -> Self:
    """Builds the table, as :meth:`Table.from_tensors` does."""
    names = [f"buckets_{i}" for i in range(len(tensors))]
    if set(names) != set(tensors):
      raise ValueError(f"Unknown tensors {sorted(tensors)}")
    # By number: in a file `buckets_10` may stand before `buckets_2`.
    buckets = [tensors[name] for name in names]
    return cls(buckets, **cls._parse_options(metadata), **options)

  def _validate(self, verify: bool) -> None:
    check_choice("addressing", self.addressing, ADDRESSINGS)
    check_choice("composition", self.composition, COMPOSITIONS)
    check_at_least("num_embeddings", self.num_embeddings, 1)
    buckets = tuple(checks.as_array("buckets", a, ndim=2) for a in self.buckets)
    if not buckets:
      raise ValueError("`buckets` must hold at least one array, got none.")
    for first, array in itertools.product(buckets[:1], buckets):
      shape = (len(array), first.shape[1])
      checks.check_shape("buckets", array, shape, f"the first {first.shape}")
    self._set(buckets=buckets, features=buckets[0].shape[1])
    if self.addressing == "quotient_remainder":
      self._check_quotients()
    self._addresses(np.arange(0))  # Refuses a seed that is out of range.

  def _check_quotients(self) -> None:
    if len(self.buckets) != 2:
      raise ValueError(
        "`buckets` must be two arrays, quotients and remainders, got "
        f"{len(self.buckets)}."
      )
    quotients, remainders = self.buckets
    shape = (-(-self.num_embeddings // len(remainders)), self.features)
    other = f"{self.num_embeddings} ids and remainders {remainders.shape}"
    checks.check_shape("quotients", quotients, shape, other)

  def _compose(self, ids: np.ndarray) -> np.ndarray:
    combine = np.add if self.composition == "sum" else np.multiply
    addresses = self._addresses(ids)
    composed = self.buckets[0][addresses[0]].astype(np.float32)
    for array, address in zip(self.buckets[1:], addresses[1:], strict=True):
      composed = combine(composed, array[address])
    return composed

  def _joined_rows(self, others: Sequence[Any]) -> dict[str, Any]:
    raise ValueError("Rows that are computed from the ids cannot be joined.")

  def _addresses(self, ids: np.ndarray) -> Sequence[np.ndarray]:
    if self.addressing == "quotient_remainder":
      return np.divmod(ids, len(self.buckets[1]))
    return [
      bits.hash_ids(ids, num_buckets=len(array), seed=self.seed + i)
      for i, array in enumerate(self.buckets)
    ]
