"""The commands of ``anchor-codes``, one module for each.

A module has ``add(commands)``, which tells argparse about it, and a generator
that runs it and yields what to print, line by line. Libraries that take long
to load are imported when a command runs.
"""

__all__: list[str] = []
