"""Files that the user has: where they are, and whether they are the known ones.

Nothing is ever fetched from a network: many data sets may not be passed on.
"""

import hashlib
import os
import pathlib
import warnings

DATA_VARIABLE = "ANCHOR_CODES_DATA"
_DEFAULT_FOLDER = pathlib.Path(__file__).parents[2] / ".." / "shared" / "data"


def data_folder(
  data_dir: str | os.PathLike[str] | None = None,
) -> pathlib.Path | None:
  """Returns the folder of data sets.

  Args:
    data_dir: The folder, by default that of ``$ANCHOR_CODES_DATA``, else
      ``../shared/data`` beside the project.

  Returns:
    The first of these that is given; the last only if it exists, else None.
  """
  chosen = data_dir or os.environ.get(DATA_VARIABLE)
  if chosen:
    return pathlib.Path(chosen).expanduser()
  return _DEFAULT_FOLDER.resolve() if _DEFAULT_FOLDER.is_dir() else None


def find_file(
  filename: str,
  *,
  dataset: str,
  sha256: str,
  origin: str,
  data_dir: str | os.PathLike[str] | None = None,
) -> pathlib.Path:
  """Finds a file of a data set and compares it with the published one.

  Args:
    filename: Name of the file in the folder of its data set.
    dataset: Name of the data set, which is also that of its folder.
    sha256: Expected SHA-256 of the file in hexadecimal digits. Another one
      gives a warning only: the file may have been prepared anew.
    origin: What users should look for, as the end of a sentence.
    data_dir: Folder of data sets, see :func:`data_folder`.

  Returns:
    The path of the file.

  Raises:
    FileNotFoundError: If there is no such file; it names the expected path.
  """
  folder = data_folder(data_dir)
  path = (folder or pathlib.Path("<data_dir>")) / dataset / filename
  if not folder or not path.is_file():
    raise FileNotFoundError(
      f"`{dataset}` needs the file {path}, which does not exist. It comes "
      f"with {origin}. Set the folder <data_dir> that holds "
      f"{dataset}/{filename} by `data_dir` or by ${DATA_VARIABLE}."
    )
  with path.open("rb") as file:
    digest = hashlib.file_digest(file, "sha256").hexdigest()
  if digest != sha256:
    warnings.warn(
      f"{path} is not the published file: its sha256 is {digest}, expected "
      f"{sha256}. Results may differ from published ones.",
      stacklevel=2,
    )
  return path


def read_lines(path: str | os.PathLike[str]) -> list[str]:
  r"""Reads the lines of a UTF-8 file, cut at ``\n`` and nowhere else.

  Args:
    path: The file; a byte order mark at its start is dropped.

  Returns:
    The lines without their ends.

  Raises:
    FileNotFoundError: If there is no such file.
    ValueError: If the file is not UTF-8; it says where.
  """
  content = pathlib.Path(path).read_bytes()
  try:
    decoded = content.decode("utf-8")
  except UnicodeDecodeError as error:
    raise ValueError(
      f"{path} must be UTF-8 text, got byte 0x{content[error.start]:02x} at "
      f"position {error.start} (line {content.count(10, 0, error.start) + 1})."
    ) from error
  # `str.splitlines` also cuts at characters like U+2028, which are text here.
  return decoded.removeprefix("\ufeff").removesuffix("\n").split("\n")
