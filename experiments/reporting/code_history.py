"""What becomes of codes in training: how many change, and how many are used."""

import dataclasses
from typing import Any

import numpy as np

from experiments.reporting import code_statistics


@dataclasses.dataclass(frozen=True, kw_only=True)
class CodeChanges:
  """How codes differ from what they were.

  Attributes:
    changed_codes: Part of the symbols that have another code.
    changed_digits: Part of the digits that are others, mean over the symbols
      with another code; 0 if there are none.
    by_digit: Part of all symbols for which each digit is another one.
  """

  changed_codes: float
  changed_digits: float
  by_digit: tuple[float, ...]


def code_changes(before: Any, after: Any) -> CodeChanges:
  """Compares codes with what they were.

  Args:
    before: Integers [num_embeddings, code_length].
    after: The same symbols' codes later.

  Returns:
    The changes.

  Raises:
    ValueError: If the shapes differ, or there is no code.

  >>> code_changes([[0, 0], [1, 2], [3, 3], [4, 4]],
  ...              [[0, 1], [1, 2], [4, 4], [4, 4]])
  CodeChanges(changed_codes=0.5, changed_digits=0.75, by_digit=(0.25, 0.5))
  """
  before, after = np.asarray(before), np.asarray(after)
  if before.shape != after.shape or before.ndim != 2 or not before.size:
    raise ValueError(
      "`before` and `after` must be codes of the same symbols, "
      "[num_embeddings, code_length], got the shapes "
      f"{before.shape} and {after.shape}."
    )
  differs = before != after
  changed = differs.any(axis=1)
  by_digit = differs.mean(axis=0)
  share = float(changed.mean())
  return CodeChanges(
    changed_codes=share,
    changed_digits=float(by_digit.mean()) / share if share else 0.0,
    by_digit=tuple(map(float, by_digit)),
  )


class CodeHistory:
  """Remembers codes from one epoch to the next, and measures them.

  Args:
    codebook_size: Number of values that a digit can take.
    shared_codebook: Whether all digits choose from one codebook.
    codes: Codes to compare the first epoch with: those at the start of
      training, or the last ones of a run that goes on.

  Attributes:
    codes: The last codes in their smallest type, None if there were none. A
      checkpoint that keeps them lets a resumed run go on with its comparison.

  >>> history = CodeHistory(codebook_size=2, codes=[[0, 0], [0, 1]])
  >>> history.update([[0, 0], [0, 0]])
  {'unique_codes': 0.5, 'dead_codes': 0.5,
   'changed_codes': 0.5, 'changed_digits': 0.5}
  """

  def __init__(
    self,
    *,
    codebook_size: int,
    shared_codebook: bool = False,
    codes: Any = None,
  ):
    self.codebook_size = codebook_size
    self.shared_codebook = shared_codebook
    self.codes: np.ndarray | None = None
    if codes is not None:
      self.codes = self._check(codes)

  def update(self, codes: Any) -> dict[str, float]:
    """Measures the codes at the end of an epoch, and remembers them.

    Args:
      codes: Integers [num_embeddings, code_length]: JAX's arrays, too.

    Returns:
      Metrics by name: `unique_codes`, the number of different codes for each
      symbol; `dead_codes`, the part of the entries that no symbol uses; and,
      where there are codes to compare with, those of :func:`code_changes`.

    Raises:
      ValueError: If a digit is out of range, or the shape is not the last one.
    """
    codes = self._check(codes)
    groups = code_statistics.collisions(codes)
    usage = code_statistics.count_values(
      codes, codebook_size=self.codebook_size
    )
    metrics = {
      "unique_codes": code_statistics.unique_share(groups, len(codes)),
      "dead_codes": code_statistics.dead_share(
        usage, shared_codebook=self.shared_codebook
      ),
    }
    if self.codes is not None:
      changes = code_changes(self.codes, codes)
      metrics["changed_codes"] = changes.changed_codes
      metrics["changed_digits"] = changes.changed_digits
    self.codes = codes
    return metrics

  def _check(self, codes: Any) -> np.ndarray:
    # A copy: the caller may go on to write into its array.
    return code_statistics.check_codes(codes, self.codebook_size).copy()
