"""Checks of the folder of a run, before it starts or goes on."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any


def check_new(workdir: pathlib.Path, *, has_checkpoints: bool) -> None:
  """Refuses a folder that has what another run has left.

  Args:
    workdir: The folder.
    has_checkpoints: Whether there are checkpoints in it.

  Raises:
    ValueError: If there are, or it holds a result.
  """
  if has_checkpoints:
    raise ValueError(
      f"{workdir} holds the checkpoints of another run: go on with it "
      "by --resume, or choose another --workdir."
    )
  if (workdir / "result.json").exists():
    raise ValueError(
      f"{workdir} holds the result of another run: choose another --workdir, "
      "or remove it."
    )


def check_same(
  workdir: pathlib.Path,
  saved: Mapping[str, Any],
  *,
  config: Any,
  fingerprint: str,
) -> None:
  """Refuses to go on with other options or data than those of the start.

  Args:
    workdir: The folder.
    saved: What a checkpoint says of its run.
    config: Options of the run that is to go on.
    fingerprint: The digest of its data.

  Raises:
    ValueError: If they differ; it names the option.
  """
  given, before = dataclasses.asdict(config), saved["config"]
  for name in given:
    if name != "data_dir" and given[name] != before.get(name):
      raise ValueError(
        f"`{name}` must stay {before.get(name)!r} when a run is resumed, "
        f"got {given[name]!r}."
      )
  if saved.get("data", fingerprint) != fingerprint:
    raise ValueError(
      f"the data of {workdir} must stay the same when a run is resumed, "
      f"got another {config.dataset!r} (other symbols or examples): "
      "bring the old files back, or start anew in another --workdir."
    )
