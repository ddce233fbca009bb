"""Files that are written whole or not at all."""

import os
import pathlib
import secrets


def write_atomically(
  path: str | os.PathLike[str], content: str | bytes
) -> None:
  """Writes a file so that no reader ever sees a part of it.

  Args:
    path: The file to write or to replace; its folder is made if missing.
    content: The text, stored as UTF-8, or the bytes.

  Raises:
    OSError: If the file cannot be written; an old one is then left as it was.
  """
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  # Opened by name, unlike `mkstemp`, the file has the permissions of any other.
  temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}"
  payload = content.encode() if isinstance(content, str) else content
  try:
    with open(temporary, "xb") as file:
      file.write(payload)
      file.flush()
      os.fsync(file.fileno())
    temporary.replace(path)
  finally:
    temporary.unlink(missing_ok=True)
