"""What benchmarks share: records of runs, and settings chosen by validation."""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
from absl import app, flags, logging

from anchor_codes import typing
from experiments import command_line, reporting

Tried = TypeVar("Tried")


class Row(NamedTuple):
  """One row of a table.

  Attributes:
    settings: The options in which it differs from the others.
    tries: The settings to choose from, with validation data.
  """

  settings: dict[str, Any]
  tries: tuple[dict[str, Any], ...]


def grid(name: str, *values: Any) -> tuple[dict[str, Any], ...]:
  """Returns tries that differ in one option.

  >>> grid("l2", 0.1, 0.2)
  ({'l2': 0.1}, {'l2': 0.2})
  """
  return tuple({name: value} for value in values)


def run_once(
  config: Any,
  workdir: str | os.PathLike[str],
  train: Callable[[Any, pathlib.Path], reporting.RunResult],
) -> reporting.RunResult:
  """Reads the record of a run, or trains if there is none with its options.

  Args:
    config: Options of the run, a dataclass.
    workdir: Folder of the run.
    train: What trains, from the options and the folder.

  Returns:
    The record.
  """
  workdir = pathlib.Path(workdir)
  if (workdir / "result.json").exists():
    result = reporting.read_result(workdir)
    options = dataclasses.asdict(config)
    # Data may have moved, and an option that the record lacks is newer than it.
    if all(
      name == "data_dir" or options.get(name) == value
      for name, value in result.config.items()
    ):
      return result
    # Of other options: the new run takes its place.
    (workdir / "result.json").unlink()
  return train(config, workdir)


def choose(tries: Sequence[Tried], errors: Sequence[float]) -> Tried:
  """Returns the try of the least error; one that has diverged is none.

  >>> choose(("a", "b", "c"), (2.0, 1.0, float("nan")))
  'b'
  """
  return tries[int(np.argmin(np.nan_to_num(errors, nan=np.inf)))]


def folder_name(tried: Mapping[str, Any]) -> str:
  """Returns the name of the folder of a try.

  >>> folder_name({"rank": 2, "l2": 0.1})
  'rank_2_l2_0.1'
  """
  return "_".join(f"{name}_{value}" for name, value in tried.items())


def describe(tried: Mapping[str, Any]) -> str:
  """Returns what a table says of a try.

  >>> describe({"rank": 2, "l2": 0.10})
  'rank 2, l2 0.1'
  """
  return ", ".join(f"{name} {value:g}" for name, value in tried.items())


def mean_and_spread(values: Sequence[float], *, digits: int = 2) -> str:
  """Returns the mean, and the standard deviation if there are several.

  >>> mean_and_spread([1.0, 3.0])
  '2.00 ± 1.41'
  >>> mean_and_spread([0.25], digits=4)
  '0.2500'
  """
  mean = f"{np.mean(values):.{digits}f}"
  if len(values) == 1:
    return mean
  return f"{mean} ± {np.std(values, ddof=1):.{digits}f}"


def define_names(
  flag: str,
  names: Iterable[str],
  text: str,
  *,
  default: Iterable[str] = (),
  flag_values: flags.FlagValues = flags.FLAGS,
) -> None:
  """Defines a flag that takes some of given names, divided by commas.

  Args:
    flag: The name of the flag.
    names: What is allowed.
    text: What `--help` says, before it lists the names.
    default: The names without the flag.
    flag_values: Where the flag is defined.
  """
  allowed = tuple(names)
  text = f"{text} Of: {', '.join(allowed)}."
  flags.DEFINE_list(flag, list(default), text, flag_values=flag_values)

  def check(given: Sequence[str]) -> bool:
    try:
      for name in given:
        typing.check_choice(flag, name, allowed)
    except ValueError as error:
      raise flags.ValidationError(str(error)) from error
    return True

  flags.register_validator(flag, check, flag_values=flag_values)


def run_app(work: Callable[[], None]) -> None:
  """Runs what the flags describe; mistakes of the user end with a usage."""

  def main(argv: list[str]) -> None:
    if len(argv) > 1:
      raise app.UsageError(f"Unexpected arguments: {argv[1:]}.")
    logging.set_verbosity(logging.WARNING)
    try:
      work()
    except command_line.USER_ERRORS as error:
      raise app.UsageError(str(error)) from error

  app.run(main)
