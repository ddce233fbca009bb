"""Ratings through TensorFlow Datasets (TFDS), without TensorFlow.

TFDS stores MovieLens as one rating per record. To read a record takes about
15 us, and all 25 million of MovieLens 25M several minutes. They are therefore
read once and stored again by `prepare_ratings`, one *user* per record, which
takes less than a minute.

The format is always ``array_record``: others need TensorFlow or, like parquet,
lose records.
"""

import functools
import os
import pathlib
import shutil
import types
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np

from experiments.datasets import files, ratings
from experiments.reporting import progress

_FORMAT = "array_record"
_BUILDER = "ratings_by_user"
_VERSION = "1.0.0"
_SPLIT = "train"
_USERS_AT_ONCE = 1024
_RATINGS_AT_ONCE = 10_000


def prepare_ratings(
  data: ratings.Ratings, data_dir: str | os.PathLike[str]
) -> pathlib.Path:
  """Stores ratings as a TFDS data set with one user per record.

  A record holds the features ``user``, the original id, and ``items``,
  ``ratings`` and ``order``, one value for each rating of the user. The original
  ids of items are in the metadata.

  Args:
    data: The ratings. Earlier ones of the same name are replaced.
    data_dir: The folder of TFDS data sets.

  Returns:
    The folder of the data set, which any program can read by
    ``tfds.builder_from_directory``.

  Raises:
    ImportError: If TFDS is not installed.
  """
  path = prepared_path(data.name, data_dir)
  if path.exists():  # TFDS would keep the old one without a word.
    shutil.rmtree(path)
  builder = _builder_class()(
    data, data_dir=path.parents[1], file_format=_FORMAT
  )
  builder.download_and_prepare()
  return path


def prepared_path(name: str, data_dir: str | os.PathLike[str]) -> pathlib.Path:
  """Returns the folder where `prepare_ratings` stores ratings of a name.

  >>> print(prepared_path("csv:mine/a.csv", "/data").as_posix())
  /data/csv%3Amine%2Fa.csv/ratings_by_user/1.0.0
  """
  folder = pathlib.Path(data_dir).expanduser()
  return folder / urllib.parse.quote(name, safe="") / _BUILDER / _VERSION


@functools.cache  # TFDS registers a class, and does so once for each name.
def _builder_class() -> Any:
  tfds = _import_tfds()

  class RatingsByUser(tfds.core.GeneratorBasedBuilder):
    """Ratings, one user per record."""

    VERSION = tfds.core.Version(_VERSION)

    def __init__(self, data: ratings.Ratings, **kwargs: Any):
      self._ratings = data  # First, since `super` asks for `_info`.
      super().__init__(**kwargs)

    def _info(self) -> Any:
      # As bytes, numbers take a third of the time that they take as a list.
      column = lambda dtype: tfds.features.Tensor(
        shape=(None,), dtype=dtype, encoding="bytes"
      )
      return tfds.core.DatasetInfo(
        builder=self,
        description=self._ratings.source,
        features=tfds.features.FeaturesDict(
          {
            "user": tfds.features.Text(),
            "items": column(np.int32),
            "ratings": column(np.float32),
            "order": column(np.int64),
          }
        ),
        metadata=tfds.core.MetadataDict(_metadata(self._ratings)),
        disable_shuffling=True,  # So that record i is user i.
      )

    def _split_generators(self, dl_manager: Any) -> Mapping[str, Any]:
      del dl_manager  # There is nothing to download.
      return {_SPLIT: self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, Mapping[str, Any]]]:
      yield from enumerate(_records(self._ratings))

  return RatingsByUser


def _metadata(data: ratings.Ratings) -> dict[str, Any]:
  return {
    "name": data.name,
    "source": data.source,
    "num_ratings": len(data.values),
    "num_users": len(data.user_names),
    # Not as the names of a ClassLabel, which no line end may be in.
    "item_names": list(data.item_names),
  }


def _records(data: ratings.Ratings) -> Iterator[Mapping[str, Any]]:
  rows = np.argsort(data.users, kind="stable")
  # Users without ratings have a record, too, so that ids stay as they are.
  counts = np.bincount(data.users, minlength=len(data.user_names))
  by_user = np.split(rows, np.cumsum(counts)[:-1])
  for user, chosen in zip(data.user_names, by_user, strict=True):
    yield {
      "user": user,
      "items": data.items[chosen],
      "ratings": data.values[chosen],
      "order": data.order[chosen],
    }


def read_prepared(
  name: str, data_dir: str | os.PathLike[str]
) -> ratings.Ratings:
  """Reads ratings that `prepare_ratings` stored.

  Args:
    name: Their name.
    data_dir: The folder of TFDS data sets.

  Returns:
    The ratings, those of a user together and users by their ids; the ratings of
    each user keep their order.

  Raises:
    FileNotFoundError: If there are no such ratings.
    ValueError: If the files are damaged or incomplete.
    ImportError: If TFDS is not installed.
  """
  tfds = _import_tfds()
  path = prepared_path(name, data_dir)
  if not (path / "dataset_info.json").is_file():
    raise FileNotFoundError(
      f"The ratings {name!r} are not prepared in {path}. `prepare_ratings` "
      "does so."
    )
  builder = tfds.builder_from_directory(path)
  metadata = dict(builder.info.metadata or {})
  try:
    source = builder.as_data_source(_SPLIT)
    records = list(_read_records(source, _USERS_AT_ONCE, "users"))
    return _join_records(records, metadata)
  except (KeyError, RuntimeError, ValueError) as error:
    # RuntimeError is what array_record raises for files that it cannot read.
    raise ValueError(
      f"The prepared ratings in {path} are damaged or incomplete: {error}. "
      "Delete this folder and prepare them again."
    ) from error


def _read_records(source: Any, at_once: int, unit: str) -> Iterator[Any]:
  starts = range(0, len(source), at_once)
  unit = f"x {at_once} {unit}"
  for start in progress(starts, description="reading", unit=unit):
    stop = min(start + at_once, len(source))
    # One request for many records is ten times as fast as many requests.
    yield from source.__getitems__(range(start, stop))


def _join_records(
  records: Sequence[Mapping[str, Any]], metadata: Mapping[str, Any]
) -> ratings.Ratings:
  counts = [len(record["items"]) for record in records]
  for key, found in ("num_users", len(counts)), ("num_ratings", sum(counts)):
    if found != metadata[key]:
      raise ValueError(f"`{key}` must be {metadata[key]}, got {found}")
  join = lambda key: np.concatenate([record[key] for record in records])
  return ratings.make_ratings(
    metadata["name"],
    users=np.repeat(np.arange(len(counts)), counts),
    items=join("items"),
    values=join("ratings"),
    order=join("order"),
    user_names=[record["user"].decode() for record in records],
    item_names=metadata["item_names"],
    source=metadata["source"],
  )


def load_movielens(
  config: str = "25m-ratings",
  *,
  data_dir: str | os.PathLike[str] | None = None,
) -> ratings.Ratings:
  """Loads MovieLens from TFDS's own data set, and keeps a fast copy beside it.

  The first call reads one record for each rating, which takes a while; later
  ones read the copy, ``ml-25m/ratings_by_user`` in the same folder.

  Args:
    config: A configuration of ``movielens`` that ends in ``-ratings``.
    data_dir: The folder of TFDS data sets, by default the folder of
      :func:`experiments.datasets.files.data_folder`, else ``$TFDS_DATA_DIR`` or
      ``~/tensorflow_datasets``.

  Returns:
    The ratings by (user, time, movie).

  Raises:
    FileNotFoundError: If the data set is not prepared; it says how to do so.
    ImportError: If TFDS is not installed.
    NotImplementedError: If it was prepared in another format.
    PermissionError: If the copy cannot be written.
    ValueError: If there is no such configuration, or a file is damaged.
  """
  if not config.endswith("-ratings"):
    raise ValueError(f"`config` must end in '-ratings', got {config!r}.")
  folder = _tfds_folder(data_dir)
  name = f"ml-{config.removesuffix('-ratings')}"
  if prepared_path(name, folder).exists():
    return read_prepared(name, folder)
  builder = _find_movielens(config, folder)
  if not os.access(folder, os.W_OK):  # Said before the long wait, not after.
    raise PermissionError(
      f"The folder {folder} must be writable for a copy of "
      f"`movielens/{config}` that is fast to read."
    )
  result = _read_movielens(name, builder)
  prepare_ratings(result, folder)
  return result


def _tfds_folder(data_dir: str | os.PathLike[str] | None) -> pathlib.Path:
  default = os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
  folder = files.data_folder(data_dir) or pathlib.Path(default)
  return folder.expanduser()


def _find_movielens(config: str, folder: pathlib.Path) -> Any:
  tfds = _import_tfds()
  # TFDS finds the builder only once its module is imported.
  from tensorflow_datasets.structured import movielens  # noqa: F401

  builder = tfds.builder(f"movielens/{config}", data_dir=folder)
  if not builder.is_prepared():
    raise FileNotFoundError(
      f"`movielens/{config}` is not prepared in {builder.data_path}. To "
      "download and prepare it, run in Python (TensorFlow is needed for this "
      "step alone, to unpack the download):\n"
      "  import tensorflow_datasets as tfds\n"
      "  from tensorflow_datasets.structured import movielens\n"
      f'  tfds.builder("movielens/{config}", data_dir="{folder}", '
      f'file_format="{_FORMAT}").download_and_prepare()'
    )
  return builder


def _read_movielens(name: str, builder: Any) -> ratings.Ratings:
  tfds = _import_tfds()
  # Decoding by TFDS takes four times as long, also of the titles and genres
  # that each record repeats.
  from tensorflow_datasets.proto import tf_example_pb2

  source = builder.as_data_source(
    _SPLIT, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
  )
  parse = cast(Any, tf_example_pb2).Example.FromString
  users, items = np.empty((2, len(source)), np.int32)
  values = np.empty(len(source), np.float32)
  order = np.empty(len(source), np.int64)
  try:
    records = _read_records(source, _RATINGS_AT_ONCE, "ratings")
    for row, record in enumerate(records):
      found = parse(record).features.feature
      users[row] = int(found["user_id"].bytes_list.value[0])
      items[row] = int(found["movie_id"].bytes_list.value[0])
      values[row] = found["user_rating"].float_list.value[0]
      order[row] = found["timestamp"].int64_list.value[0]
  except RuntimeError as error:
    raise ValueError(
      f"{builder.data_path} is damaged: {error}. Delete this folder and "
      "prepare it again."
    ) from error
  # TFDS has shuffled the ratings; splits should not depend on how.
  rows = np.lexsort((items, order, users))
  return ratings.number_movielens(
    name,
    users=users[rows],
    items=items[rows],
    values=values[rows],
    order=order[rows],
    source=f"{builder.info.full_name} of TFDS, GroupLens, for research only",
  )


def _import_tfds() -> types.ModuleType:
  try:
    import tensorflow_datasets
  except ImportError as error:
    raise ImportError(
      "Ratings through TFDS need tensorflow-datasets and array_record: "
      "pip install 'anchor-codes[experiments]'."
    ) from error
  return tensorflow_datasets
