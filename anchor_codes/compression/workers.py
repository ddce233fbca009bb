"""Threads for the fits of several recipes, or the rows of large matrices."""

import concurrent.futures
import contextlib
import os
from collections.abc import Iterator

import threadpoolctl

_MOST_WORKERS = 8


@contextlib.contextmanager
def start(
  count: int,
) -> Iterator[concurrent.futures.ThreadPoolExecutor]:
  """Yields threads for so many pieces of work, whose products use one each.

  Many small products on all cores wait for each other: ten times as long on a
  busy machine.
  """
  workers = min(os.cpu_count() or 1, _MOST_WORKERS, count)
  with (
    threadpoolctl.threadpool_limits(1, user_api="blas"),
    concurrent.futures.ThreadPoolExecutor(workers) as pool,
  ):
    yield pool
