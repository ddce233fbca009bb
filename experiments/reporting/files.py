"""Files that are written whole or not at all."""

import os
import pathlib
import secrets


def write_atomically(path: str | os.PathLike[str], content: str) -> None:
  """Writes a text file so that no reader ever sees a part of it.

  Args:
    path: The file to write or to replace; its folder is made if missing.
    content: The text, stored as UTF-8.

  Raises:
    OSError: If the file cannot be written; an old one is then left as it was.
  """
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  # Opened by name, unlike `mkstemp`, the file has the permissions of any other.
  temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}"
  try:
    with open(temporary, "x", encoding="utf-8", newline="") as file:
      file.write(content)
      file.flush()
      os.fsync(file.fileno())
    temporary.replace(path)
  finally:
    temporary.unlink(missing_ok=True)
