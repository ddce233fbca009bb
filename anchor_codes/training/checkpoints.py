r"""Checkpoints that notice their own damage.

Orbax stores the arrays. It does not notice a bit that flips in them later, so
that each step has a record with the SHA-256 of every file and of every array;
a step that does not agree with its record is passed over for the one before.

A step is a folder with its number as the name::

  folder/10/record.json  metadata; shape, dtype and SHA-256 of each array
  folder/10/state/       the arrays, in the format of Orbax
"""

import hashlib
import json
import os
import pathlib
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from anchor_codes import typing
from anchor_codes.training import digests, leaves

RECORD = "record.json"
STATE = "state"


class CheckpointError(RuntimeError):
  """There is no checkpoint to go on from."""


class _DamagedError(Exception):
  """A step cannot be trusted."""


class Checkpointer:
  """Writes and reads the checkpoints of a run.

  Saving is synchronous and whole: when :meth:`save` returns the step is there,
  and if it raises, or the process is killed, the steps before are as they were.
  With several processes all of them make the same calls, on a folder that all
  of them see. One run at a time writes to a folder; others may read it.

  Args:
    folder: Where the steps go; made if need be.
    max_to_keep: How many steps are kept, at least 1. With a single one there is
      nothing to fall back to.

  Raises:
    ImportError: If orbax-checkpoint is not installed.

  >>> import tempfile
  >>> checkpointer = Checkpointer(tempfile.mkdtemp())
  >>> state = {"anchors": np.ones((4, 2)), "key": jax.random.key(0)}
  >>> checkpointer.save(10, state, {"num_anchors": 4})
  >>> checkpointer.latest_metadata()
  (10, {'num_anchors': 4})
  >>> step, state, metadata = checkpointer.restore(state)
  >>> print(step, state["anchors"].shape)
  10 (4, 2)
  """

  def __init__(self, folder: str | os.PathLike, *, max_to_keep: int = 3):
    typing.check_at_least("max_to_keep", max_to_keep, 1)
    self.folder = pathlib.Path(folder).absolute()
    self.folder.mkdir(parents=True, exist_ok=True)
    self.max_to_keep = max_to_keep
    self._orbax = _import_orbax()
    # Not the asynchronous one: its errors appear at a later call, while the run
    # believes its last step safe.
    handler = self._orbax.StandardCheckpointHandler()
    self._arrays = self._orbax.Checkpointer(handler)
    self._damaged: set[int] = set()

  def steps(self) -> list[int]:
    """Returns the numbers of the steps in the folder, in order."""
    # `saving-10` and `damaged-10` are no steps.
    names = (path.name for path in self.folder.iterdir())
    return sorted(int(name) for name in names if name.isdecimal())

  def save(
    self,
    step: int,
    state: Any,
    metadata: Mapping[str, Any] | None = None,
    *,
    num_rows: Any = 0,
  ) -> None:
    """Writes one step, and removes the oldest one if there are too many.

    Steps in which :meth:`restore` has found damage are put aside before, as
    ``damaged-<step>``: what follows may have their numbers.

    Args:
      step: Its number, greater than that of the newest step.
      state: A pytree of arrays, typed keys of random numbers among them. Those
        of NumPy come back in native byte order.
      metadata: What JSON can hold: the configuration, the state of a
        controller, sizes that decide shapes in the state, the position of an
        iterator over the data. Those of the first process count.
      num_rows: How many rows of the arrays are no padding, 0 for arrays without
        padding: a pytree of integers that is a prefix of the state.

    Raises:
      ValueError: If there is a step of this number or a later one, or the state
        has no elements.
      TypeError: If the state holds anything but arrays, or the metadata cannot
        be written as JSON.
      Exception: Whatever goes wrong in writing, such as a full disk.
    """
    self._check_newest(step)
    # Through JSON at once: what it cannot hold fails before a file is written,
    # and the record is hashed as it will be read.
    record: dict[str, Any] = {
      "metadata": json.loads(json.dumps(metadata or {}))
    }
    arrays, rows = leaves.flatten(state), leaves.flatten_rows(num_rows, state)
    if not leaves.stored(arrays):
      raise ValueError(
        "the state must hold an array with elements, got "
        f"{sorted(arrays) or 'no arrays'}; put all else into the metadata."
      )
    record["arrays"] = digests.describe_arrays(arrays, rows)
    saving = self.folder / f"saving-{step}"
    _on_one_process(self._prepare, saving)
    self._damaged.clear()
    arguments = self._orbax.args.StandardSave(leaves.stored(arrays))
    self._arrays.save(saving / STATE, args=arguments)
    _on_one_process(self._complete, step, saving, record)

  def latest_metadata(self) -> tuple[int, dict[str, Any]]:
    """Reads the number and the metadata of the newest step.

    Only the metadata are verified. Should the arrays turn out to be damaged,
    :meth:`restore` goes back to a step with other metadata; where they decide
    shapes, give it a function.

    Raises:
      CheckpointError: If there is no step.
    """
    for step, record in self._records(None):
      return step, record["metadata"]
    raise self._error(None)

  def restore(
    self, example: Any, *, step: int | None = None, num_rows: Any = 0
  ) -> tuple[int, Any, dict[str, Any]]:
    """Reads the newest step without damage.

    Args:
      example: What the state looks like: a pytree of arrays, or of
        ``jax.ShapeDtypeStruct``, whose shardings the result takes over. Or a
        function from the metadata of a step to such an example, if shapes
        change from step to step.
      step: The step to read; the newest one by default.
      num_rows: As for :meth:`save`, and the same numbers. The padding of
        arrays of JAX may be another one, for another number of devices; what is
        new in it is zero.

    Returns:
      The number of the step, its state, bit for bit, and its metadata.

    Raises:
      CheckpointError: If there is no step, or all are damaged.
      ValueError: If the step holds other arrays than the example, or the
        example wants one as an array of JAX that JAX cannot hold: 64 bits
        without ``jax_enable_x64``.

    Warns:
      UserWarning: For each damaged step that is passed over.
    """
    for number, record in self._records(step):
      metadata = record["metadata"]
      target = example(metadata) if _is_function(example) else example
      arrays = leaves.flatten(target)
      rows = leaves.flatten_rows(num_rows, target)
      leaves.check_fit(number, record["arrays"], arrays, rows)
      try:
        arrays = self._read_arrays(number, record, arrays)
      except _DamagedError as error:
        self._pass_over(number, error)
        continue
      structure = jax.tree.structure(target)
      return number, jax.tree.unflatten(structure, arrays.values()), metadata
    raise self._error(step)

  def _records(self, step: int | None) -> Iterator[tuple[int, dict[str, Any]]]:
    """The steps to try, newest first, with their verified records."""
    for number in self.steps()[::-1]:
      if step is None or step == number:
        try:
          yield number, _read_record(self.folder / str(number))
        except _DamagedError as error:
          self._pass_over(number, error)

  def _read_arrays(
    self, step: int, record: dict[str, Any], arrays: dict[str, Any]
  ) -> dict[str, Any]:
    """Reads the arrays, verified twice: as files, and as arrays."""
    path = self.folder / str(step)
    # Orbax is not given damaged files: it may crash in a thread of its own.
    _raise_everywhere(_find_damaged_file(path, record["files"]))
    abstract = {
      name: leaves.abstract(leaf)
      for name, leaf in leaves.stored(arrays).items()
    }
    # Not strict about shapes: those that may differ were checked before.
    arguments = self._orbax.args.StandardRestore(abstract, strict=False)
    restored = self._arrays.restore(path / STATE, args=arguments)
    bad = ""
    for name, leaf in restored.items():
      if not bad and not digests.agrees(leaf, record["arrays"][name]):
        bad = f"{name} does not agree with its SHA-256"
    _raise_everywhere(bad)
    # The merge keeps the order of the example, by which leaves are put back.
    return {
      name: leaves.empty(leaf) for name, leaf in arrays.items()
    } | restored

  def _pass_over(self, step: int, error: _DamagedError) -> None:
    self._damaged.add(step)
    warnings.warn(
      f"passed over the damaged checkpoint {step} in {self.folder}: {error}.",
      stacklevel=3,
    )

  def _check_newest(self, step: int) -> None:
    typing.check_at_least("step", step, 0)
    # A run that has gone back past damaged steps comes to their numbers again.
    newest = max(set(self.steps()) - self._damaged, default=-1)
    if step <= newest:
      raise ValueError(
        f"`step` must be greater than {newest}, the newest checkpoint in "
        f"{self.folder}, got {step}; to start again from an earlier step, "
        "remove the later ones."
      )

  def _prepare(self, saving: pathlib.Path) -> None:
    # A user may have removed some by hand.
    for step in self._damaged & set(self.steps()):
      aside = self.folder / f"damaged-{step}"
      shutil.rmtree(aside, ignore_errors=True)
      (self.folder / str(step)).rename(aside)
    # Of a process that was killed while it saved.
    for left_over in self.folder.glob("saving-*"):
      shutil.rmtree(left_over)
    saving.mkdir()

  def _complete(
    self, step: int, saving: pathlib.Path, record: dict[str, Any]
  ) -> None:
    record["files"] = digests.digests_of_files(saving)
    record["sha256"] = _digest_of_record(record)
    (saving / RECORD).write_text(json.dumps(record), encoding="utf-8")
    # The rename is what makes a step: before it nobody sees one, and after it
    # all of it is there.
    saving.rename(self.folder / str(step))
    for old in self.steps()[: -self.max_to_keep]:
      shutil.rmtree(self.folder / str(old))

  def _error(self, step: int | None) -> CheckpointError:
    what = "checkpoint" if step is None else f"checkpoint {step}"
    return CheckpointError(f"there is no intact {what} in {self.folder}.")


def _import_orbax() -> Any:
  try:
    import orbax.checkpoint
  except ImportError as error:
    raise ImportError(
      "checkpoints need orbax-checkpoint: "
      "pip install 'anchor-codes[experiments]'."
    ) from error
  return orbax.checkpoint


def _on_one_process(function: Callable[..., None], *args: Any) -> None:
  """Calls a function in the first process, while the others wait for it."""
  if jax.process_index() == 0:
    function(*args)
  multihost_utils.sync_global_devices(function.__name__)


def _is_function(example: Any) -> bool:
  # A module may be callable, too, but it is not a leaf of itself.
  return callable(example) and jax.tree_util.all_leaves([example])


def _digest_of_record(record: dict[str, Any]) -> str:
  content = {k: value for k, value in record.items() if k != "sha256"}
  text = json.dumps(content, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()


def _find_damaged_file(folder: pathlib.Path, recorded: dict[str, str]) -> str:
  """Says what is wrong with the files, of which each process looks at some."""
  names = sorted(recorded)[jax.process_index() :: jax.process_count()]
  for name in names:
    try:
      intact = digests.digest_of_file(folder / name) == recorded[name]
    except OSError as error:
      return f"{name} cannot be read, {error}"
    if not intact:
      return f"{name} does not agree with its SHA-256"
  return ""


def _raise_everywhere(damage: str) -> None:
  """Raises an error in all processes if there is damage in one of them."""
  damaged = np.asarray(bool(damage))
  if jax.process_count() > 1:
    damaged = np.any(multihost_utils.process_allgather(damaged))
  if damaged:
    raise _DamagedError(damage or "another process has found damage")


def _read_record(folder: pathlib.Path) -> dict[str, Any]:
  try:
    record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
  except (OSError, ValueError, RecursionError) as error:
    raise _DamagedError(f"{RECORD} cannot be read, {error}") from error
  if not isinstance(record, dict):
    raise _DamagedError(f"{RECORD} must hold an object")
  if record.get("sha256") != _digest_of_record(record):
    raise _DamagedError(f"{RECORD} does not agree with its SHA-256")
  return record
