"""Counts the programs that are compiled, for tests that repeat calls."""

import collections
import contextlib

import jax


@contextlib.contextmanager
def count_compilations():
  """Gives a counter by name of the function: "jit(run)", say.

  The cache of a jitted function does not tell: JAX shares its size among all
  functions, and keeps nothing of new ones in a process that has called many.
  """
  counts = collections.Counter()

  def listen(event, duration, *, fun_name="", **_):
    del duration
    if event == "/jax/core/compile/backend_compile_duration":
      counts[fun_name] += 1

  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    yield counts
  finally:
    jax.monitoring.unregister_event_duration_listener(listen)
