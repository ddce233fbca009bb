"""Records that are none, and steps that are put aside or removed by hand."""

import shutil

import numpy as np
import pytest

from anchor_codes import training

STATE = {"x": np.ones(3)}


def saved_twice(folder):
  checkpointer = training.Checkpointer(folder)
  for step in (1, 2):
    checkpointer.save(step, STATE)
  return checkpointer


@pytest.mark.parametrize(
  "text", ["[]", "{}", "null", '"text"', "3", "", "[" * 100_000]
)
def test_records_that_are_none_are_passed_over(tmp_path, text):
  checkpointer = saved_twice(tmp_path)
  (tmp_path / "2" / "record.json").write_text(text)
  with pytest.warns(UserWarning, match="passed over the damaged checkpoint 2"):
    assert checkpointer.restore(STATE)[0] == 1


def test_damaged_steps_may_be_removed_by_hand(tmp_path):
  checkpointer = saved_twice(tmp_path)
  (tmp_path / "2" / "record.json").write_text("{}")
  with pytest.warns(UserWarning, match="damaged"):
    checkpointer.restore(STATE)
  shutil.rmtree(tmp_path / "2")
  checkpointer.save(2, STATE)
  assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]


def test_a_step_with_the_number_of_a_damaged_one_is_kept(tmp_path):
  checkpointer = saved_twice(tmp_path)
  (tmp_path / "2" / "record.json").write_text("{}")
  with pytest.warns(UserWarning, match="damaged"):
    checkpointer.restore(STATE)
  for step in (2, 3):
    checkpointer.save(step, STATE)
  assert checkpointer.steps() == [1, 2, 3]


def test_numbers_as_keys_of_metadata_become_text(tmp_path):
  checkpointer = training.Checkpointer(tmp_path)
  # In another order as text than as numbers.
  checkpointer.save(1, STATE, {2: "two", 10: "ten"})
  assert checkpointer.latest_metadata() == (1, {"2": "two", "10": "ten"})
