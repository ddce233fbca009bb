"""Where the chunks of an epoch start and end."""

import itertools


def chunk_bounds(num_steps: int, target: int) -> list[tuple[int, int]]:
  """Cuts an epoch into chunks of about `target` steps, equal if that can be.

  A chunk of another length is compiled again, so that a divisor of the number
  of steps between half and twice the target is taken where there is one.

  Args:
    num_steps: Steps of an epoch.
    target: Steps of a chunk, about.

  Returns:
    The first step of each chunk, and the one after its last.

  >>> chunk_bounds(12, 5)
  [(0, 4), (4, 8), (8, 12)]
  >>> chunk_bounds(13, 5)
  [(0, 4), (4, 8), (8, 13)]
  """
  lengths = range(max(target // 2, 1), min(2 * target, num_steps) + 1)
  divisors = [length for length in lengths if num_steps % length == 0]
  if divisors:
    length = min(divisors, key=lambda length: abs(length - target))
    number = num_steps // length
  else:
    number = max(round(num_steps / target), 1)
  edges = [part * num_steps // number for part in range(number + 1)]
  return list(itertools.pairwise(edges))
