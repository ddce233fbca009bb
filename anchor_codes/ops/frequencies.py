"""Frequencies of ids, to draw in proportion to them."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PRNGKeyArray

# Sums are int32, for JAX has no wider integers by default.
_LARGEST = 2**31 - 1


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Frequencies:
  """How often each id of a table occurs; a pytree.

  Attributes:
    cumulative: Sums of the counts of the ids up to each one, as whole numbers
      so that the rarest id is drawn as often as it should.

  >>> frequencies = frequencies_from_counts([1, 0, 3])
  >>> print(frequencies.cumulative, frequencies.num_embeddings)
  [1 1 4] 3
  """

  cumulative: Int[Array, " num_embeddings"]

  @property
  def num_embeddings(self) -> int:
    """Number of ids."""
    return self.cumulative.shape[0]

  def draw(
    self,
    key: PRNGKeyArray,
    ids: Int[Array, "*batch"],
    *,
    exclude_self: bool = True,
  ) -> Int[Array, "*batch"]:
    """Draws ids in proportion to their counts, in logarithmic time.

    Args:
      key: Random key.
      ids: Ids in ``[0, num_embeddings)``.
      exclude_self: Whether each id leaves itself out, which draws from the
        counts of all others exactly; one that has all counts comes out itself.

    Returns:
      Ids like `ids`.
    """
    total = self.cumulative[-1]
    below = jnp.where(ids > 0, self.cumulative[jnp.maximum(ids - 1, 0)], 0)
    own = self.cumulative[ids] - below if exclude_self else jnp.zeros_like(ids)
    point = jax.random.randint(
      key, ids.shape, 0, jnp.maximum(total - own, 1), jnp.int32
    )
    # The counts of the id itself are stepped over.
    point = jnp.where(point >= below, point + own, point)
    drawn = jnp.searchsorted(self.cumulative, point, side="right")
    return jnp.where(own < total, drawn.astype(ids.dtype), ids)


def frequencies_from_counts(counts: Any) -> Frequencies:
  """Makes frequencies from counts, on the host.

  Args:
    counts: Numbers [num_embeddings], not negative, of which one is positive.
      Whole numbers of a sum below 2 ** 31 are kept as they are; others are
      scaled to that sum and rounded.

  Returns:
    The frequencies.

  Raises:
    ValueError: If the counts are not numbers in one row, or one is negative or
      not finite, or all are 0.

  >>> print(frequencies_from_counts([0.5, 0.5]).cumulative)
  [1073741824 2147483647]
  """
  counts = np.asarray(counts)
  if counts.ndim != 1 or not counts.size:
    raise ValueError(f"`counts` must be [num_embeddings], got {counts.shape}.")
  values = counts.astype(np.float64)
  # In this form `nan` is refused, too.
  bad = ~((values >= 0) & (values < np.inf))
  if bad.any():
    place = int(np.argmax(bad))
    raise ValueError(
      "`counts` must be finite and not negative, got "
      f"{counts[place]} at position {place}."
    )
  total = values.sum()
  if total == 0:
    raise ValueError("`counts` must not all be 0.")
  sums = np.cumsum(values)
  # Below 2 ** 53 sums of whole numbers are exact.
  if total > _LARGEST or (values != np.floor(values)).any():
    sums = np.rint(sums * (_LARGEST / sums[-1]))
  return Frequencies(cumulative=jnp.asarray(sums, jnp.int32))
