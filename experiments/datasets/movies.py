"""Titles and genres of the movies of MovieLens."""

import csv
import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from anchor_codes import typing as options
from experiments.datasets import files, released_splits


class Movie(NamedTuple):
  """What is known of a movie.

  Attributes:
    title: Its title, which ends with the year in parentheses.
    genres: Names of its genres, none for a movie without.
  """

  title: str
  genres: tuple[str, ...]


def _cut_u_item(lines: Iterable[str]) -> Iterator[Sequence[str]]:
  """Cuts lines ``id|title (year)|date||URL|0|1|...``, one flag per genre."""
  for line in lines:
    number, title, _, _, _, *flags = line.rstrip("\n").split("|")
    marks = zip(_FLAGGED_GENRES, flags, strict=True)
    yield number, title, "|".join(genre for genre, flag in marks if flag == "1")


def _cut_movies_dat(lines: Iterable[str]) -> Iterator[Sequence[str]]:
  """Cuts lines ``id::title (year)::genre|genre``."""
  for line in lines:
    yield line.rstrip("\n").split("::")


def _cut_movies_csv(lines: Iterable[str]) -> Iterator[Sequence[str]]:
  """Cuts lines ``id,title (year),genre|genre`` below a header."""
  rows = csv.reader(lines)
  next(rows, None)
  yield from rows


@dataclasses.dataclass(frozen=True)
class _MovieFile:
  """A published file of movies.

  Attributes:
    filename: Name of the file in the folder of the data set.
    sha256: Digest of the file.
    encoding: How its text is encoded.
    origin: The archive that holds the file.
    cut: What cuts its lines into ids, titles and genres between ``|``.
  """

  filename: str
  sha256: str
  encoding: str
  origin: str
  cut: Callable[[Iterable[str]], Iterator[Sequence[str]]]


_FILES = {
  "ml-100k": _MovieFile(
    filename="u.item",
    sha256="553841ebc7de3a0fd0d6b62a204ea30c1e651aacfb2814c7a6584ac52f2c5701",
    encoding="latin-1",
    origin="ml-100k.zip of GroupLens",
    cut=_cut_u_item,
  ),
  "ml-1m": _MovieFile(
    filename="movies.dat",
    sha256="0140fc2356357c1a851d0f52e893a1e4d3696df632c4141cea8d5bc3d621f0b9",
    encoding="latin-1",
    origin="ml-1m.zip of GroupLens",
    cut=_cut_movies_dat,
  ),
  "ml-latest-small": _MovieFile(
    filename="movies.csv",
    sha256="5a5f32dd9bb3797b8e728a1b98958789d2b13f294a69fdfbc5727f8a9611aa07",
    encoding="utf-8",
    origin="ml-latest-small.zip of GroupLens (September 2018)",
    cut=_cut_movies_csv,
  ),
}

MOVIE_NAMES = tuple(_FILES)
"""The data sets whose movies are known."""

# The flags of ml-100k in their order.
_FLAGGED_GENRES = (
  "unknown",
  "Action",
  "Adventure",
  "Animation",
  "Children's",
  "Comedy",
  "Crime",
  "Documentary",
  "Drama",
  "Fantasy",
  "Film-Noir",
  "Horror",
  "Musical",
  "Mystery",
  "Romance",
  "Sci-Fi",
  "Thriller",
  "War",
  "Western",
)
# What the files say of a movie without a genre.
_NO_GENRE = frozenset({"unknown", "(no genres listed)", ""})


def load_movies(
  name: str, *, data_dir: str | os.PathLike[str] | None = None
) -> dict[str, Movie]:
  """Loads the movies of a data set, also those that nobody rated.

  Args:
    name: One of `MOVIE_NAMES`, or a split of one, such as 'ml-1m-sse-mf'.
    data_dir: Folder of data sets, see
      :func:`experiments.datasets.files.data_folder`.

  Returns:
    The movies by their original id. Genres are named as in the file: the older
    ones say "Children's" where ``ml-latest-small`` says "Children".

  Raises:
    ValueError: If the name is unknown, or the file is not in its format.
    FileNotFoundError: If the file is missing; it names the path.
  """
  name = released_splits.ORIGINS.get(name, name)
  options.check_choice("name", name, MOVIE_NAMES)
  known = _FILES[name]
  path = files.find_file(
    known.filename,
    dataset=name,
    sha256=known.sha256,
    origin=known.origin,
    data_dir=data_dir,
  )
  found = {}
  # Not `str.splitlines`, which cuts at 0x85, too: a character of Latin-1.
  with path.open(encoding=known.encoding) as file:
    try:
      for number, title, genres in known.cut(file):
        kept = (g for g in genres.split("|") if g not in _NO_GENRE)
        found[number] = Movie(title, tuple(kept))
    except ValueError as error:
      raise ValueError(
        f"{path} is not in the format of {known.origin}: {error}, after "
        f"{len(found)} movies."
      ) from error
  return found


def load_titles(
  name: str,
  *,
  item_names: Sequence[str],
  data_dir: str | os.PathLike[str] | None = None,
) -> tuple[str, ...]:
  """Loads the titles of items.

  Args:
    name: One of `MOVIE_NAMES`.
    item_names: The original ids of the items, such as those of
      :func:`experiments.datasets.ratings.load_ratings`.
    data_dir: Folder of data sets.

  Returns:
    The title of each item.

  Raises:
    ValueError: As for `load_movies`, or if an item is no movie of this set.
    FileNotFoundError: If the file is missing; it names the path.
  """
  return tuple(movie.title for movie in _find(name, item_names, data_dir))


def load_genres(
  name: str,
  *,
  item_names: Sequence[str],
  data_dir: str | os.PathLike[str] | None = None,
) -> tuple[tuple[str, ...], ...]:
  """Loads the genres of items.

  Args:
    name: One of `MOVIE_NAMES`.
    item_names: The original ids of the items.
    data_dir: Folder of data sets.

  Returns:
    The genres of each item, none for a movie without; see `load_movies`.

  Raises:
    ValueError: As for `load_movies`, or if an item is no movie of this set.
    FileNotFoundError: If the file is missing; it names the path.
  """
  return tuple(movie.genres for movie in _find(name, item_names, data_dir))


def _find(
  name: str,
  item_names: Sequence[str],
  data_dir: str | os.PathLike[str] | None,
) -> list[Movie]:
  movies = load_movies(name, data_dir=data_dir)
  missing = next((item for item in item_names if item not in movies), None)
  if missing is not None:
    raise ValueError(
      f"`item_names` must be ids of movies of {name!r}, got {missing!r}."
    )
  return [movies[item] for item in item_names]
