"""Tests of the benchmark of split rows, and of what it reads from programs."""

import json

import pytest

from experiments.benchmarks import collectives, sharded

SIZES = sharded.Sizes(
  num_embeddings=301,
  features=8,
  batch_size=16,
  num_anchors=16,
  num_nonzeros=4,
  code_length=2,
  steps=2,
  turns=1,
  devices=(2,),
)


def test_measures_all_and_writes_the_numbers(tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(sharded, "EXCHANGES", ("auto", "scatter"))
  tables = {name: sharded.TABLES[name] for name in ("anchors", "codes")}
  monkeypatch.setattr(sharded, "TABLES", tables)
  cells = sharded.run_benchmark(SIZES, tmp_path)
  found = {(cell["table"], cell["exchange"]) for cell in cells}
  assert found == {(t, e) for t in tables for e in sharded.EXCHANGES}
  assert all(cell["milliseconds"] > 0 for cell in cells)
  assert all(0 < cell["row_kilobytes"] <= cell["kilobytes"] for cell in cells)
  row_bytes = {cell["table"]: cell["row_bytes"] for cell in cells}
  assert row_bytes == {"anchors": 4 * 6, "codes": 2}
  content = json.loads((tmp_path / "result.json").read_text())
  assert content["cells"] == cells
  assert set(content["metrics"]) == {
    f"{table}_scatter_wire_ratio" for table in tables
  }
  assert "KB sent/step" in capsys.readouterr().out


def test_lost_ids_are_no_measurement():
  side = sharded.Side(
    {"table": "full"}, lambda *_: (0, {"overflow": [0, 3]}), 0, 0
  )
  with pytest.raises(RuntimeError, match="ids have found no room"):
    sharded.measure([side], 1, 1)


@pytest.mark.parametrize(
  ("line", "kind", "nbytes", "sent"),
  [
    ("%x.1 = u8[4,8]{1,0} reduce-scatter(%y)", "reduce-scatter", 32, 96),
    ("%x = bf16[8]{0} all-reduce(%y), to=%z", "all-reduce", 16, 24),
    ("%x = pred[8]{0} all-gather(%y)", "all-gather", 8, 6),
    (
      "%x = (s32[2]{0}, f32[2,2]{1,0}) all-to-all(%y, %z)",
      "all-to-all",
      24,
      18,
    ),
    ("%x = f32[] collective-permute(%y)", "collective-permute", 4, 4),
    ("%x = f32[4]{0} all-gather-start(%y)", "all-gather", 16, 12),
  ],
)
def test_reads_what_travels(line, kind, nbytes, sent):
  found = collectives.find_collectives(line, num_devices=4)
  assert found == [collectives.Collective(kind, nbytes, sent)]


@pytest.mark.parametrize(
  "line", ["%x = f32[4]{0} add(%all-gather.1, %y)", "ROOT %x = f32[4] tuple()"]
)
def test_other_operations_do_not_travel(line):
  assert collectives.find_collectives(line) == []
