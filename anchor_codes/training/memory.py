"""Refuses what does not fit before anything is allocated."""

import os
import pathlib

import jax

_GIB = 2**30
_CGROUP_LIMITS = (
  "/sys/fs/cgroup/memory.max",
  "/sys/fs/cgroup/memory/memory.limit_in_bytes",
)


def check_fits(num_bytes: int, *, available: int | None = None) -> None:
  """Raises `ValueError` if something is too large for the memory.

  An operating system may promise more memory than there is, and end the process
  once it is used. So ask before a table is made, with its rows, the state of
  their optimiser, and what a step takes.

  Args:
    num_bytes: The size, in Python's integers, which do not overflow.
    available: The memory to compare with; :func:`available_memory` by default.

  Raises:
    ValueError: If there is less; it names both sizes in GiB.

  >>> check_fits(2**20 * 2**10 * 4, available=2**30)
  Traceback (most recent call last):
  ...
  ValueError: 4.00 GiB must fit into the memory of this process, got 1.00 GiB...
  """
  if available is None:
    available = available_memory()
  if num_bytes > available:
    raise ValueError(
      f"{num_bytes / _GIB:.2f} GiB must fit into the memory of this process, "
      f"got {available / _GIB:.2f} GiB; train sparse rows or codes, split the "
      "rows over more devices, or hash the vocabulary."
    )


def available_memory() -> int:
  """Returns how many bytes this process can still take.

  On accelerators that of all of its devices together, else that of the host,
  or of the control group (such as a container) if that allows less.

  >>> available_memory() > 0
  True
  """
  statistics = [device.memory_stats() for device in jax.local_devices()]
  if all(stats and "bytes_limit" in stats for stats in statistics):
    return sum(
      stats["bytes_limit"] - stats.get("bytes_in_use", 0)
      for stats in statistics
      if stats
    )
  sizes = [os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
  try:
    lines = pathlib.Path("/proc/meminfo").read_text(encoding="ascii")
    fields = dict(line.split(":") for line in lines.splitlines())
    # Unlike free pages this counts the cache of files, which gives way.
    sizes = [int(fields["MemAvailable"].split()[0]) * 1024]
  except (OSError, KeyError):
    pass  # Another operating system.
  return min([*sizes, *_cgroup_limits()])


def _cgroup_limits() -> list[int]:
  limits = []
  for path in _CGROUP_LIMITS:
    try:
      limits.append(int(pathlib.Path(path).read_text(encoding="ascii")))
    except (OSError, ValueError):
      continue  # There is none, or it is "max".
  return limits
