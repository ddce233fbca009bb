"""The user's own labelled texts, in a CSV file."""

import csv
import pathlib
from collections.abc import Iterable, Iterator

from experiments.datasets import files
from experiments.datasets.classification_files import Rows

PREFIX = "csv:"
COLUMNS = ("text", "label")
_MIN_TEXTS = 10


def load_rows(name: str) -> tuple[Rows, tuple[str, ...], str]:
  """Reads a file with a header and the columns ``text`` and ``label``.

  Args:
    name: ``csv:`` and the path of a file in UTF-8. Other columns are passed
      over. Labels are any strings but empty ones; white space around them does
      not count.

  Returns:
    The texts with the number of their class; the classes, in the order of
    numbers if all are integers, else of their code points; the origin.

  Raises:
    FileNotFoundError: If there is no such file.
    ValueError: If a column is missing or twice in the header, a row has another
      number of fields, or there are not ten different texts and two classes; it
      names the line.
  """
  path = pathlib.Path(name.removeprefix(PREFIX)).expanduser()
  if not path.is_file():
    raise FileNotFoundError(
      f"`{name}` needs the file {path.absolute()}, which does not exist."
    )
  rows = list(_read(path))
  different = len({text for text, _ in rows})
  if different < _MIN_TEXTS:
    raise ValueError(
      f"{path} must have at least {_MIN_TEXTS} different texts, got "
      f"{different}."
    )
  classes = sort_classes(label for _, label in rows)
  if len(classes) < 2:
    raise ValueError(
      f"{path} must have at least 2 classes in the column 'label', got only "
      f"{rows[0][1]!r}."
    )
  number = {label: i for i, label in enumerate(classes)}
  numbered = [(text, number[label]) for text, label in rows]
  return numbered, classes, f"the user's file {path}"


def sort_classes(labels: Iterable[str]) -> tuple[str, ...]:
  """Sorts the different labels, by value if all are integers.

  >>> sort_classes(["10", "9", "10"]), sort_classes(["10", "9", "x"])
  (('9', '10'), ('10', '9', 'x'))
  """
  different = sorted(set(labels))
  if all(label.removeprefix("-").isdecimal() for label in different):
    return tuple(sorted(different, key=int))
  return tuple(different)


def _read(path: pathlib.Path) -> Iterator[tuple[str, str]]:
  # Read as lines at first, for its message about bytes that are not UTF-8.
  lines = (f"{line}\n" for line in files.read_lines(path))
  reader = csv.reader(lines, strict=True)
  try:
    header = [column.strip() for column in next(reader, [])]
    _check_header(path, header)
    text, label = header.index("text"), header.index("label")
    for row in reader:
      if row:
        _check_row(path, row, header, line=reader.line_num)
        yield row[text], row[label].strip()
  except csv.Error as error:
    raise ValueError(f"{path}, line {reader.line_num}: {error}.") from error


def _check_header(path: pathlib.Path, header: list[str]) -> None:
  for column in COLUMNS:
    if header.count(column) != 1:
      raise ValueError(
        f"{path} must have the column {column!r} once in its first line, got "
        f"it {header.count(column)} times in {header}."
      )


def _check_row(
  path: pathlib.Path, row: list[str], header: list[str], *, line: int
) -> None:
  if len(row) != len(header):
    raise ValueError(
      f"{path}, line {line}: must have {len(header)} fields like the header, "
      f"got {len(row)}; a text with a comma must stand between double quotes."
    )
  if not row[header.index("label")].strip():
    raise ValueError(f"{path}, line {line}: the label must not be empty.")
