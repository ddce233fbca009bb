"""Digests of data sets: the same for the same, and no other."""

from typing import NamedTuple

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from experiments.datasets import fingerprints


class Data(NamedTuple):
  """A data set."""

  ids: np.ndarray
  names: tuple[str, ...]
  source: str = ""


LEAVES = st.none() | st.integers() | st.text(max_size=3)
PARTS = st.recursive(
  LEAVES,
  lambda parts: (
    st.lists(parts, max_size=3).map(tuple)
    | st.dictionaries(st.text(max_size=2), parts, max_size=2)
  ),
  max_leaves=6,
)


@hypothesis.given(PARTS, PARTS)
def test_equal_if_and_only_if_the_data_are(first, second):
  found = [fingerprints.fingerprint(part) for part in (first, second)]
  assert (found[0] == found[1]) == (first == second)


OTHERS = [
  Data(np.array([1, 3]), ("a", "b")),
  Data(np.array([1, 2], np.int32), ("a", "b")),
  Data(np.array([[1, 2]]), ("a", "b")),
  Data(np.array([1, 2]), ("ab", "")),
  Data(np.array([1, 2]), ("a", "b", "")),
  Data(np.array(["1", "2"], object), ("a", "b")),
]


def test_where_data_come_from_does_not_count():
  ids = np.array([1, 7, 2, 7])[::2]
  found = {
    fingerprints.fingerprint(Data(ids, ("a", "b"), source))
    for source in ("here", "there")
  }
  assert len(found) == 1
  assert not found & {fingerprints.fingerprint(other) for other in OTHERS}
  assert len({fingerprints.fingerprint(other) for other in OTHERS}) == 6


def test_what_it_cannot_read_is_refused():
  with pytest.raises(TypeError, match="data must not hold a set"):
    fingerprints.fingerprint((1, {2}))
