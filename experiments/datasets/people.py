"""What is known of the users of MovieLens."""

import dataclasses
import os
from collections.abc import Sequence

import numpy as np

from anchor_codes import typing as options
from experiments.datasets import files, released_splits

_AGES = (18, 25, 35, 45, 50, 56)
"""Where age groups begin, but for the first, as MovieLens 1M has them."""


@dataclasses.dataclass(frozen=True)
class _PeopleFile:
  """A published file of users.

  Attributes:
    filename: Name of the file in the folder of the data set.
    sha256: Digest of the file.
    origin: The archive that holds the file.
    separator: What stands between the fields.
    age: Number of the field of the age; the first one is the user.
  """

  filename: str
  sha256: str
  origin: str
  separator: str
  age: int


_FILES = {
  "ml-100k": _PeopleFile(
    filename="u.user",
    sha256="f120e114da2e8cf314fd28f99417c94ae9ddf1cb6db8ce0e4b5995d40e90e62c",
    origin="ml-100k.zip of GroupLens",
    separator="|",
    age=1,
  ),
  "ml-1m": _PeopleFile(
    filename="users.dat",
    sha256="1dc3a95300cb19f7c10e027daf29b8cdf1d908dab65b5edfb45950aa389a10a3",
    origin="ml-1m.zip of GroupLens",
    separator="::",
    age=2,
  ),
}

PEOPLE_NAMES = tuple(_FILES)
"""The data sets whose users are known."""


def load_age_groups(
  name: str,
  *,
  user_names: Sequence[str],
  data_dir: str | os.PathLike[str] | None = None,
) -> np.ndarray:
  """Loads the age group of users.

  Args:
    name: One of `PEOPLE_NAMES`, or a split of one, such as 'ml-1m-sse-mf'.
    user_names: The original ids of the users.
    data_dir: Folder of data sets, see
      :func:`experiments.datasets.files.data_folder`.

  Returns:
    int [num_users]: 0 for those under 18, then 18-24, 25-34, 35-44, 45-49,
    50-55, and 6 for those from 56 on.

  Raises:
    ValueError: If the name is unknown, a user is not in the file, or the file
      is not in its format.
    FileNotFoundError: If the file is missing; it names the path.
  """
  name = released_splits.ORIGINS.get(name, name)
  options.check_choice("name", name, PEOPLE_NAMES)
  known = _FILES[name]
  path = files.find_file(
    known.filename,
    dataset=name,
    sha256=known.sha256,
    origin=known.origin,
    data_dir=data_dir,
  )
  rows = (line.split(known.separator) for line in files.read_lines(path))
  try:
    ages = {row[0]: int(row[known.age]) for row in rows}
  except (ValueError, IndexError) as error:
    raise ValueError(
      f"{path} is not in the format of {known.origin}: {error}."
    ) from error
  missing = next((user for user in user_names if user not in ages), None)
  if missing is not None:
    raise ValueError(
      f"`user_names` must be ids of users of {name!r}, got {missing!r}."
    )
  return np.digitize([ages[user] for user in user_names], _AGES)
