"""What the readers of files say of one that they refuse."""

import pytest

from anchor_codes import formats


def refused(path, **options):
  """Returns what is wrong with a file, without its name."""
  with pytest.raises(formats.FormatError) as error:
    formats.read(path, **options)
  message = str(error.value)
  assert message.startswith(f"{path}: ")
  assert message.count(str(path)) == 1
  return message.removeprefix(f"{path}: ")
