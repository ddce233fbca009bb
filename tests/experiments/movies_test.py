"""Tests of titles and genres of movies."""

import re

import pytest

from experiments.datasets import movies, ratings

FLAGS = "0|0|0|1|1|1|0|0|0|0|0|0|0|0|0|0|0|0|0"
UNKNOWN = "1" + "|0" * 18
FILES = {
  "ml-100k/u.item": (
    f"1|Toy Story (1995)|01-Jan-1995||http://x|{FLAGS}\n"
    f"7|Mis\xe9rables, Les (1995)|||http://x|{FLAGS}\n"
    f"267|unknown||||{UNKNOWN}\n"
  ).encode("latin-1"),
  "ml-1m/movies.dat": (
    "1::Toy Story (1995)::Animation|Children's|Comedy\n"
    "7::Mis\xe9rables, Les: A\x85 (1995)::Drama\n"
  ).encode("latin-1"),
  "ml-latest-small/movies.csv": (
    "movieId,title,genres\r\n"
    "1,Toy Story (1995),Adventure|Children\r\n"
    '7,"Mis\xe9rables, Les (1995)",Drama\r\n'
    "9,Nameless,(no genres listed)\r\n"
  ).encode(),
}
COUNTS = {
  # Movies, movies without a genre, names of genres.
  "ml-100k": (1_682, 2, 18),
  "ml-1m": (3_883, 0, 18),
  "ml-latest-small": (9_742, 34, 19),
}

pytestmark = pytest.mark.filterwarnings(
  "ignore:.*is not the published file:UserWarning"
)


@pytest.fixture(name="data_dir")
def fixture_data_dir(tmp_path):
  for name, content in FILES.items():
    path = tmp_path / name
    path.parent.mkdir()
    path.write_bytes(content)
  return tmp_path


def load_real(load, name, **options):
  try:
    return load(name, **options)
  except FileNotFoundError as error:
    pytest.skip(str(error))


@pytest.mark.parametrize("name", COUNTS)
def test_published_movies_have_their_known_counts(name):
  found = load_real(movies.load_movies, name)
  num_movies, without, num_genres = COUNTS[name]
  assert len(found) == num_movies
  assert sum(not movie.genres for movie in found.values()) == without
  assert (
    len({g for movie in found.values() for g in movie.genres}) == num_genres
  )
  assert found["1"].title == "Toy Story (1995)"
  assert {"Animation", "Comedy"} <= set(found["1"].genres)


@pytest.mark.parametrize("name", COUNTS)
def test_every_rated_movie_is_known(name):
  items = load_real(ratings.load_ratings, name).item_names
  titles = load_real(movies.load_titles, name, item_names=items)
  genres = load_real(movies.load_genres, name, item_names=items)
  assert len(titles) == len(genres) == len(items)
  assert all(titles)


def test_ml_1m_has_the_known_combinations_of_genres():
  found = load_real(movies.load_movies, "ml-1m")
  assert len({movie.genres for movie in found.values()}) == 301


def test_letters_with_accents_are_read():
  found = load_real(movies.load_movies, "ml-1m")
  assert found["73"].title == "Mis\xe9rables, Les (1995)"


@pytest.mark.parametrize("name", movies.MOVIE_NAMES)
def test_titles_and_genres_follow_the_items(data_dir, name):
  found = movies.load_movies(name, data_dir=data_dir)
  for items in (["7", "1"], ["1", "7", "1"], []):
    titles = movies.load_titles(name, item_names=items, data_dir=data_dir)
    genres = movies.load_genres(name, item_names=items, data_dir=data_dir)
    assert titles == tuple(found[item].title for item in items)
    assert genres == tuple(found[item].genres for item in items)


@pytest.mark.parametrize(
  ("name", "expected"),
  [
    (
      "ml-100k",
      {
        "1": ("Toy Story (1995)", ("Animation", "Children's", "Comedy")),
        "7": (
          "Mis\xe9rables, Les (1995)",
          ("Animation", "Children's", "Comedy"),
        ),
        "267": ("unknown", ()),
      },
    ),
    (
      "ml-1m",
      {
        "1": ("Toy Story (1995)", ("Animation", "Children's", "Comedy")),
        "7": ("Mis\xe9rables, Les: A\x85 (1995)", ("Drama",)),
      },
    ),
    (
      "ml-latest-small",
      {
        "1": ("Toy Story (1995)", ("Adventure", "Children")),
        "7": ("Mis\xe9rables, Les (1995)", ("Drama",)),
        "9": ("Nameless", ()),
      },
    ),
  ],
)
def test_formats(data_dir, name, expected):
  assert movies.load_movies(name, data_dir=data_dir) == expected


@pytest.mark.parametrize("name", movies.MOVIE_NAMES)
def test_unknown_item_is_named(data_dir, name):
  for load in (movies.load_titles, movies.load_genres):
    with pytest.raises(ValueError, match=f"movies of '{name}', got '5'"):
      load(name, item_names=["1", "5"], data_dir=data_dir)


@pytest.mark.parametrize("name", ["ml-25m", "csv:mine", ""])
def test_unknown_name_lists_the_known(name):
  message = (
    f"must be one of 'ml-100k', 'ml-1m', 'ml-latest-small', got '{name}'"
  )
  with pytest.raises(ValueError, match=message):
    movies.load_titles(name, item_names=[])


@pytest.mark.parametrize(
  ("path", "content"),
  [
    ("ml-100k/u.item", f"1|A||||{FLAGS}\n2|B|0\n"),
    ("ml-100k/u.item", f"1|A||||{FLAGS}\n2|B||||{FLAGS}|0\n"),
    ("ml-1m/movies.dat", "1::A::Drama\n2::B\n"),
    ("ml-1m/movies.dat", "1::A::Drama\n2::B::C::Drama\n"),
    ("ml-latest-small/movies.csv", "movieId,title,genres\n1,A,Drama\n2,B\n"),
  ],
)
def test_damaged_file_is_located(data_dir, path, content):
  (data_dir / path).write_text(content)
  expected = f"{data_dir / path} is not in the format of "
  with pytest.raises(ValueError, match=re.escape(expected)) as caught:
    movies.load_movies(path.split("/", maxsplit=1)[0], data_dir=data_dir)
  assert str(caught.value).endswith("after 1 movies.")


@pytest.mark.parametrize(
  ("name", "filename"),
  [
    ("ml-100k", "u.item"),
    ("ml-1m", "movies.dat"),
    ("ml-latest-small", "movies.csv"),
  ],
)
def test_missing_file_says_what_to_do(tmp_path, name, filename):
  with pytest.raises(FileNotFoundError) as caught:
    movies.load_genres(name, item_names=[], data_dir=tmp_path)
  for part in (str(tmp_path / name / filename), f"{name}.zip", "GroupLens"):
    assert part in str(caught.value)


@pytest.mark.filterwarnings("error")
def test_unpublished_file_is_told(data_dir):
  with pytest.warns(UserWarning, match="not the published file"):
    movies.load_movies("ml-1m", data_dir=data_dir)
