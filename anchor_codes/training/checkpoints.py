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
import math
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
    self, step: int, state: Any, metadata: Mapping[str, Any] | None = None
  ) -> None:
    """Writes one step, and removes the oldest one if there are too many.

    Steps in which :meth:`restore` has found damage are put aside before, as
    ``damaged-<step>``: what follows may have their numbers.

    Args:
      step: Its number, greater than that of the newest step.
      state: A pytree of arrays, typed keys of random numbers among them.
      metadata: What JSON can hold: the configuration, the state of a
        controller, sizes that decide shapes in the state.

    Raises:
      ValueError: If there is a step of this number or a later one.
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
    arrays = _flatten(state)
    record["arrays"] = {name: _describe(leaf) for name, leaf in arrays.items()}
    saving = self.folder / f"saving-{step}"
    _on_one_process(self._prepare, saving)
    self._damaged.clear()
    arguments = self._orbax.args.StandardSave(_stored(arrays))
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
    self, example: Any, *, step: int | None = None
  ) -> tuple[int, Any, dict[str, Any]]:
    """Reads the newest step without damage.

    Args:
      example: What the state looks like: a pytree of arrays, or of
        ``jax.ShapeDtypeStruct``, whose shardings the result takes over. Or a
        function from the metadata of a step to such an example, if shapes
        change from step to step.
      step: The step to read; the newest one by default.

    Returns:
      The number of the step, its state, bit for bit, and its metadata.

    Raises:
      CheckpointError: If there is no step, or all are damaged.
      ValueError: If the step holds other arrays than the example.

    Warns:
      UserWarning: For each damaged step that is passed over.
    """
    for number, record in self._records(step):
      metadata = record["metadata"]
      target = example(metadata) if _is_function(example) else example
      arrays = _flatten(target)
      _check_fit(number, record["arrays"], arrays)
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
    _check_files(path, record["files"])
    abstract = {k: _abstract(leaf) for k, leaf in _stored(arrays).items()}
    arguments = self._orbax.args.StandardRestore(abstract)
    restored = self._arrays.restore(path / STATE, args=arguments)
    for name, leaf in restored.items():
      if _digest(leaf) != record["arrays"][name]["sha256"]:
        raise _DamagedError(f"{name} does not agree with its SHA-256")
    # The merge keeps the order of the example, by which leaves are put back.
    return {name: _empty(leaf) for name, leaf in arrays.items()} | restored

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
    for step in self._damaged:
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
    record["files"] = _digests_of_files(saving)
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


def _flatten(state: Any) -> dict[str, Any]:
  """The leaves of a state by their paths; numbers and text are refused."""
  arrays = {}
  for path, leaf in jax.tree.leaves_with_path(state):
    name = "state" + jax.tree_util.keystr(path)
    if not hasattr(leaf, "shape") or not hasattr(leaf, "dtype"):
      raise TypeError(
        f"{name} must be an array, got {leaf!r}; put it into the metadata."
      )
    arrays[name] = leaf
  return arrays


def _stored(arrays: dict[str, Any]) -> dict[str, Any]:
  """All arrays but those without elements, which Orbax refuses."""
  return {name: leaf for name, leaf in arrays.items() if math.prod(leaf.shape)}


def _empty(leaf: Any) -> Any:
  """An array without elements, which looks like the example."""
  if isinstance(leaf, jax.ShapeDtypeStruct) and not math.prod(leaf.shape):
    return jax.numpy.zeros(leaf.shape, leaf.dtype, device=leaf.sharding)
  return leaf


def _is_key(leaf: Any) -> bool:
  return jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _abstract(leaf: Any) -> Any:
  """What Orbax wants to know of an array that it is to read."""
  if isinstance(leaf, np.ndarray | np.generic):
    return np.asarray(leaf)
  here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  sharding = leaf.sharding or here
  if _is_key(leaf):
    leaf = jax.eval_shape(jax.random.key_data, leaf)
  return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _describe(leaf: Any) -> dict[str, Any]:
  return {
    "shape": list(leaf.shape),
    "dtype": str(leaf.dtype),
    "sha256": _digest(leaf),
  }


def _digest(leaf: Any) -> str:
  """SHA-256 of the bytes of an array, wherever its parts are."""
  data = jax.random.key_data(leaf) if _is_key(leaf) else leaf
  if isinstance(data, jax.Array) and not (
    data.is_fully_addressable or data.is_fully_replicated
  ):
    data = multihost_utils.process_allgather(data, tiled=True)
  flat = np.ascontiguousarray(data).reshape(-1)
  return hashlib.sha256(flat.view(np.uint8).data).hexdigest()


def _digest_of_record(record: dict[str, Any]) -> str:
  content = {k: value for k, value in record.items() if k != "sha256"}
  text = json.dumps(content, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()


def _digests_of_files(folder: pathlib.Path) -> dict[str, str]:
  files = sorted(path for path in folder.rglob("*") if path.is_file())
  return {
    path.relative_to(folder).as_posix(): _digest_of_file(path) for path in files
  }


def _digest_of_file(path: pathlib.Path) -> str:
  with path.open("rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def _check_files(folder: pathlib.Path, recorded: dict[str, str]) -> None:
  for name, digest in recorded.items():
    try:
      intact = _digest_of_file(folder / name) == digest
    except OSError as error:
      raise _DamagedError(f"{name} cannot be read, {error}") from error
    if not intact:
      raise _DamagedError(f"{name} does not agree with its SHA-256")


def _read_record(folder: pathlib.Path) -> dict[str, Any]:
  try:
    record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
  except (OSError, ValueError) as error:
    raise _DamagedError(f"{RECORD} cannot be read, {error}") from error
  if record.get("sha256") != _digest_of_record(record):
    raise _DamagedError(f"{RECORD} does not agree with its SHA-256")
  return record


def _check_fit(
  step: int, recorded: dict[str, Any], arrays: dict[str, Any]
) -> None:
  """Checks that a step holds the arrays of the example."""
  ours = {name: f"{x.dtype}{list(x.shape)}" for name, x in arrays.items()}
  theirs = {name: x["dtype"] + str(x["shape"]) for name, x in recorded.items()}
  for name in ours | theirs:
    if ours.get(name) != theirs.get(name):
      raise ValueError(
        f"checkpoint {step} does not fit the example: {name} is "
        f"{theirs.get(name, 'missing')} in the checkpoint and "
        f"{ours.get(name, 'missing')} in the example. Shapes that change "
        "from step to step need a function of the metadata as the example."
      )
