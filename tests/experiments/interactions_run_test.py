"""Tests of recommenders that read their ratings as a stream."""

import csv
import dataclasses
import json

import jax
import numpy as np
import pytest

from anchor_codes import tables, training
from experiments import (
  interaction_options,
  recommending,
  streamed_recommending,
  train_recommender,
)
from experiments.datasets import interactions_made_up
from experiments.datasets import ratings as datasets
from experiments.recommender_options import RecommenderConfig, check_config

NUM_ROWS = 1500


@pytest.fixture(autouse=True, scope="module")
def _usual_promotion():
  # The binaries run without the strict settings of the unit tests.
  with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
    yield


@pytest.fixture(autouse=True, scope="module", name="path")
def _path(tmp_path_factory):
  path = tmp_path_factory.mktemp("data") / "made_up.csv"
  return interactions_made_up.write_interactions(
    path, NUM_ROWS, num_users=30, num_items=20
  )


def tiny(path, **options):
  config = RecommenderConfig(
    dataset=f"interactions:{path}",
    features=4,
    batch_size=64,
    epochs=2,
    decay_epochs=1,
    learning_rate=0.05,
    start_scale=0.3,
    chunk_steps=4,
    checkpoint_chunks=0,
    shuffle_rows=300,
  )
  return dataclasses.replace(config, **options)


def train(
  config, folder, *, run_type=streamed_recommending.StreamedRun, resume=False
):
  mesh = training.data_mesh(jax.devices()[:1])
  return recommending.train_and_evaluate(
    config, folder, run_type=run_type, resume=resume, mesh=mesh
  )


def make_run(config, folder):
  return streamed_recommending.StreamedRun(
    config, folder, mesh=training.data_mesh(jax.devices()[:1])
  )


def quality(result):
  seconds = ("input_seconds", "step_seconds")
  return {n: v for n, v in result.metrics.items() if n not in seconds}


def measured(folder):
  with (folder / "metrics.csv").open(encoding="utf-8") as file:
    return list(csv.DictReader(file))


class Killed(Exception):
  """Stands for a machine that is taken away."""


def killed_before(epoch, begin):
  class KilledRun(streamed_recommending.StreamedRun):
    def batches(self, *position):
      if position[:2] == (epoch, begin):
        raise Killed
      return super().batches(*position)

  return KilledRun


@pytest.fixture(scope="module", name="undisturbed")
def _undisturbed(path, tmp_path_factory):
  folder = tmp_path_factory.mktemp("undisturbed")
  return train(tiny(path, checkpoint_chunks=1), folder), folder


def test_a_run_learns_and_leaves_its_tables(undisturbed, path):
  result, folder = undisturbed
  with path.open(encoding="utf-8") as file:
    values = [float(row["rating"]) for row in csv.DictReader(file)]
  assert result.metrics["test_mse"] < np.var(values)
  assert result.metrics["train_unknown_users"] == 0
  assert json.loads((folder / "result.json").read_text())["dataset"].endswith(
    "made_up.csv"
  )
  table = tables.load(folder / "users.safetensors")
  lines = (folder / "users.txt").read_text().splitlines()
  assert table.vocabulary == (*lines, "<unknown>")
  assert set(lines) <= {f"u{user}" for user in range(30)}


@pytest.mark.parametrize(("epoch", "begin"), [(0, 12), (1, 9)])
def test_a_killed_run_goes_on_bit_for_bit(
  path, undisturbed, tmp_path, epoch, begin
):
  result, folder = undisturbed
  config = tiny(path, checkpoint_chunks=1)
  begins = {b for b, _ in make_run(config, tmp_path / "bounds").bounds}
  begin = min(begins, key=lambda start: abs(start - begin))
  with pytest.raises(Killed):
    train(config, tmp_path, run_type=killed_before(epoch, begin))
  resumed = train(config, tmp_path, resume=True)
  assert quality(resumed) == quality(result)
  assert measured(tmp_path) == measured(folder)
  for name in ("users", "items"):
    stored, expected = (
      (workdir / f"{name}.safetensors").read_bytes()
      for workdir in (tmp_path, folder)
    )
    assert stored == expected


def test_other_files_cannot_be_resumed_with(path, tmp_path):
  mine = tmp_path / "mine.csv"
  mine.write_bytes(path.read_bytes())
  config = tiny(mine, checkpoint_chunks=1)
  with pytest.raises(Killed):
    train(config, tmp_path / "run", run_type=killed_before(1, 0))
  with mine.open("a", encoding="utf-8") as file:
    file.write("u1,i1,3,1\n")
  with pytest.raises(ValueError, match="`files` of a stream must be"):
    train(config, tmp_path / "run", resume=True)


def rows_in_memory(path, run):
  """Users, items and ratings of the training part, read at once."""
  data = datasets.load_ratings(f"csv:{path}")
  users = np.array(data.user_names)[data.users]
  items = np.array(data.item_names)[data.items]
  ids = {
    role: {name: i for i, name in enumerate(run.encoders[role].names)}
    for role in ("user", "item")
  }
  return sorted(
    (ids["user"].get(user), ids["item"].get(item), value)
    for user, item, value in zip(
      users.tolist(), items.tolist(), data.values.tolist(), strict=True
    )
  )


def rows_of(run, rows):
  found = []
  for batch in run._read(rows):
    found += zip(*(batch[n].tolist() for n in RATING), strict=True)
  return found


RATING = ("user", "item", "rating")


def test_parts_are_those_of_the_file(path, tmp_path):
  run = make_run(tiny(path), tmp_path)
  parts = [rows_of(run, rows) for rows in run.splits]
  assert [len(part) for part in parts] == [len(rows) for rows in run.splits]
  assert sorted(sum(parts[1:], parts[0])) == rows_in_memory(path, run)
  np.testing.assert_allclose(
    run.mean_rating(), np.mean([r[2] for r in parts[0]])
  )


def test_batches_are_training_rows_for_the_device(path, tmp_path):
  run = make_run(tiny(path), tmp_path)
  users, items, ratings = run.batches(0, 0, run.steps_per_epoch)
  assert [b.dtype for b in (users, items, ratings)] == [
    np.int32,
    np.int32,
    np.float32,
  ]
  assert users.shape == (run.steps_per_epoch, 64)
  left = rows_of(run, run.splits.train)
  for row in zip(
    *(b.ravel().tolist() for b in (users, items, ratings)), strict=True
  ):
    left.remove(row)
  assert len(left) < 64


def test_hashed_ids_have_no_names(path, tmp_path):
  result = train(tiny(path, ids="hash", id_buckets=40, epochs=1), tmp_path)
  assert tables.load(tmp_path / "users.safetensors").vocabulary is None
  assert result.metrics["colliding_users"] > 0
  assert not (tmp_path / "users.txt").exists()


def test_given_vocabularies_and_rare_symbols(path, tmp_path):
  vocabulary = tmp_path / "mine.txt"
  vocabulary.write_text("u1\nu2\nnobody\n")
  config = tiny(path, user_vocabulary=str(vocabulary), max_symbols=5)
  run = make_run(config, tmp_path / "run")
  assert run.table_sizes() == {"users": 4, "items": 6}
  assert run.counts["users"][2] == 0
  assert run.unseen["users"].tolist() == [False, False, True, False]
  refusing = dataclasses.replace(config, unknown="error")
  with pytest.raises(ValueError, match=r"line [0-9]+: `user` is 'u"):
    make_run(refusing, tmp_path / "run")


def write_parts(folder, *names):
  for number, name in enumerate(names):
    path = folder / f"{name}.parquet"
    sizes = {"num_users": 20, "num_items": 10, "seed": number}
    interactions_made_up.write_interactions(path, 300 + number, **sizes)


def test_parts_may_be_files(tmp_path):
  write_parts(tmp_path, "train-0", "train-1", "valid", "test")
  run = make_run(tiny(tmp_path, split="given"), tmp_path / "run")
  assert [len(rows) for rows in run.splits] == [601, 302, 303]


def test_without_validation_the_test_is_recorded(tmp_path):
  write_parts(tmp_path, "train", "test")
  result = train(tiny(tmp_path, split="given", epochs=1), tmp_path / "run")
  assert result.metrics["best_test_mse"] > 0
  assert "valid_mse" not in result.metrics


def test_parts_must_be_there(tmp_path):
  write_parts(tmp_path, "train", "valid")
  with pytest.raises(FileNotFoundError, match="no files of the part 'test'"):
    make_run(tiny(tmp_path, split="given"), tmp_path / "run")


def test_parts_may_be_told_by_time_or_by_a_column(path, tmp_path):
  times = "1000001000,1000001300"
  config = tiny(path, split="chronological", split_times=times)
  run = make_run(config, tmp_path / "run")
  assert [len(rows) for rows in run.splits] == [1000, 300, 200]
  lines = path.read_text().splitlines()
  told = [lines[0] + ",part"]
  told += [
    f"{line},{'test' if n > 1400 else 'train'}"
    for n, line in enumerate(lines[1:])
  ]
  mine = tmp_path / "mine.csv"
  mine.write_text("\n".join(told))
  columns = "user,item,rating,timestamp,part"
  run = make_run(tiny(mine, split="given", columns=columns), tmp_path / "run")
  assert [len(rows) for rows in run.splits] == [1401, 0, 99]


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"ids": "names"}, "`ids` must be one of"),
    ({"unknown": "drop"}, "`unknown` must be one of"),
    ({"split": "published"}, "`split` must be one of"),
    ({"shuffle_rows": 0}, "`shuffle_rows` must be at least 1"),
    ({"loss": "bpr"}, "'interactions:' needs `loss` 'mse', got 'bpr'"),
    ({"sampling": "independent"}, "needs `sampling` 'shuffle'"),
    ({"rule": "marginal"}, "needs `rule` ''"),
    ({"columns": "user,item"}, "`columns` must name that of the rating"),
    ({"split": "chronological"}, "`split_times` must be two numbers"),
  ],
)
def test_options_are_checked(options, message):
  with pytest.raises(ValueError, match=message):
    check_config(tiny("mine.csv", **options))


def test_too_few_rows(path, tmp_path):
  with pytest.raises(ValueError, match="at most the number of training rows"):
    make_run(tiny(path, batch_size=5000), tmp_path)
  late = tiny(path, split="chronological", split_times="2e9,2e9")
  with pytest.raises(ValueError, match="must have test rows, got none"):
    make_run(late, tmp_path)


def test_the_binary_chooses_the_run(path):
  config = tiny(path)
  assert interaction_options.is_streamed(config)
  found = train_recommender.run_type(config)
  assert found is streamed_recommending.StreamedRun
  plain = train_recommender.run_type(RecommenderConfig())
  assert plain is recommending.Run


def test_a_stream_is_not_loaded_whole():
  with pytest.raises(ValueError, match="only `train_recommender` does"):
    datasets.load_ratings("interactions:mine.csv")


def test_another_vocabulary_cannot_be_resumed_with(path, tmp_path):
  mine = tmp_path / "mine.csv"
  text = path.read_text(encoding="utf-8")
  mine.write_text(text, encoding="utf-8")
  config = tiny(mine, checkpoint_chunks=1)
  with pytest.raises(Killed):
    train(config, tmp_path / "run", run_type=killed_before(1, 0))
  # Files and tables keep their sizes.
  mine.write_text(text.replace("u1,", "z1,"), encoding="utf-8")
  with pytest.raises(ValueError, match=r"data of .* must stay the same"):
    train(config, tmp_path / "run", resume=True)
