"""The charts of a page, as specifications of Vega-Lite."""

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np

from anchor_codes.accounting import human_bytes
from anchor_codes.report.anchor_use import AnchorUse
from anchor_codes.report.code_use import CodeUse
from anchor_codes.report.runs import Panel

_ACCENT = "#2a9487"  # Seen on white and on black alike.
_CHOSEN = "#e08214"
_BARS = 60  # The most used anchors.
_NAMED_BINS = 25

Rows = Sequence[Mapping[str, Any]]
Spec = dict[str, Any]


def draw_parts(parts: Rows) -> Spec:
  """Draws the bytes of each part of a table, as `facts.part_rows` lists them.

  >>> spec = draw_parts([{"part": "rows", "bytes": 36, "size": "36 B"}])
  >>> spec["layer"][0]["encoding"]["x"]["field"]
  'bytes'
  """
  base = _chart(parts, "Bytes of each part", height=26 * len(parts) + 10)
  # Room for the label of the longest bar.
  scale = alt.Scale(domainMax=1.5 * parts[0]["bytes"], nice=False)
  x = alt.X("bytes:Q", scale=scale, title=None, axis=None)
  names = [part["part"] for part in parts]
  axis = alt.Axis(labelLimit=170, ticks=False, domain=False)
  y = alt.Y("part:N", sort=names, title=None, axis=axis)
  tooltip = [
    "part:N",
    "type:N",
    "shape:N",
    "size:N",
    _tip("share:Q", "share", ".1%"),
  ]
  bars = base.mark_bar(color=_ACCENT, cornerRadiusEnd=3)
  labels = base.mark_text(align="left", dx=5)
  return _layers(
    bars.encode(x, y, tooltip=tooltip), labels.encode(x, y, text="size:N")
  )


def draw_histogram(rows: Rows, *, of: str, counted: str = "rows") -> Spec:
  """Draws a histogram, as `facts.histogram` counts it.

  Args:
    rows: The bins.
    of: What the values are.
    counted: What has these values.
  """
  # Few whole numbers are names: between them there is nothing.
  if rows[0]["bin"].isdecimal() and len(rows) <= _NAMED_BINS:
    names = [row["bin"] for row in rows]
    axis = alt.Axis(labelAngle=0, labelOverlap=True, ticks=False)
    ends = [alt.X("bin:O", sort=names, title=of, axis=axis)]
  else:
    axis = alt.Axis(tickCount=6)
    ends = [
      alt.X("begin:Q", bin="binned", title=of, axis=axis),
      alt.X2("end:Q"),
    ]
  chart = _chart(rows, f"Histogram of {of}").mark_bar(color=_ACCENT)
  tooltip = [_tip("bin:N", of), _tip("count:Q", counted, ",")]
  y = alt.Y("count:Q", title=counted, axis=alt.Axis(tickCount=5))
  return chart.encode(*ends, y, tooltip=tooltip).to_dict()


def draw_anchors(use: AnchorUse, words: Mapping[int, str]) -> Spec:
  """Draws how many symbols use each anchor; a click chooses one.

  Args:
    use: How symbols use anchors.
    words: The symbols by id; of each anchor, the heaviest are named.
  """
  rows = _anchor_rows(use, words)
  names = [row["key"] for row in rows]
  axis = alt.Axis(labels=len(rows) <= 20, ticks=False, labelAngle=0)
  tooltip = [_tip("key:N", "anchor"), _tip("symbols:Q", "symbols", ",")]
  return (
    _chart(rows, "Symbols that use each anchor")
    .mark_bar(cursor="pointer")
    .encode(
      alt.X(
        "key:N", sort=names, title="anchors, the most used first", axis=axis
      ),
      alt.Y("symbols:Q", title="symbols"),
      color=_chosen(alt.value(_ACCENT)),
      tooltip=[*tooltip, _tip("most:N", "most")],
    )
    .add_params(_choice())
    .to_dict()
  )


def _anchor_rows(use: AnchorUse, words: Mapping[int, str]) -> Rows:
  rows = []
  for anchor in np.argsort(-use.uses, kind="stable")[:_BARS].tolist():
    members = use.members[anchor, :3].tolist()
    # Where an anchor has fewer members, their weights are zeros.
    used = use.member_weights[anchor, :3] != 0
    most = [
      words[i] for i, is_used in zip(members, used, strict=True) if is_used
    ]
    count = int(use.uses[anchor])
    rows.append({"key": str(anchor), "symbols": count, "most": ", ".join(most)})
  return rows


def draw_digits(use: CodeUse) -> Spec:
  """Draws how many symbols have each value of each digit; a click chooses."""
  ordered = use.values.shape[1] == use.codebook_size
  rows = _digit_rows(use, ordered=ordered)
  most = f"the {use.values.shape[1]} most used values of each digit"
  tooltip = ["digit:O", "value:O", _tip("symbols:Q", "symbols", ",")]
  axis = alt.Axis(labelOverlap=True, ticks=False, labelAngle=0)
  return (
    _chart(rows, "Symbols by digit", height=min(420, 14 * len(use.values) + 40))
    .mark_rect(cursor="pointer", aria=False)
    .encode(
      alt.X("place:O", title="value" if ordered else most, axis=axis),
      alt.Y("digit:O", title="digit", axis=axis),
      color=_chosen(alt.Color("symbols:Q", legend=None)),
      tooltip=tooltip,
    )
    .add_params(_choice())
    .to_dict()
  )


def _digit_rows(use: CodeUse, *, ordered: bool) -> Rows:
  return [
    {
      "key": f"{digit}:{value}",
      "digit": digit,
      "value": value,
      "place": value if ordered else place,
      "symbols": count,
    }
    for digit, (values, counts) in enumerate(
      zip(use.values.tolist(), use.uses.tolist(), strict=True)
    )
    for place, (value, count) in enumerate(zip(values, counts, strict=True))
  ]


def draw_curve(curve: Mapping[str, Any]) -> Spec:
  """Draws the quality of all that was tried against its size.

  Args:
    curve: What `Report.to_json` of a compression says, parsed. What was chosen
      has the quality of the table that was made of it.
  """
  metric = curve["metric"]
  rows = [
    {
      "recipe": trial["recipe"],
      "bytes": trial["nbytes"],
      "size": human_bytes(trial["nbytes"]),
      "quality": (curve if trial["chosen"] else trial)["quality"][metric],
      "what": "chosen" if trial["chosen"] else "tried",
    }
    for trial in curve["trials"]
  ]
  base = _chart(rows, f"{metric} against bytes", height=240)
  scale, color = (
    alt.Scale(zero=False),
    alt.Color(
      "what:N",
      legend=alt.Legend(title=None, orient="top"),
      scale=alt.Scale(domain=["tried", "chosen"], range=[_ACCENT, _CHOSEN]),
    ),
  )
  log = alt.Scale(type="log", nice=False, padding=12)
  points = base.mark_point(filled=True, size=70, opacity=0.85).encode(
    alt.X(
      "bytes:Q",
      title="bytes",
      scale=log,
      axis=alt.Axis(format="~s", tickCount=4),
    ),
    alt.Y("quality:Q", title=metric, scale=scale),
    color=color,
    tooltip=["recipe:N", "size:N", _tip("quality:Q", metric, ".4f")],
  )
  budget = alt.Chart(alt.InlineData([{"bytes": curve["budget"]}]))
  rule = budget.mark_rule(strokeDash=[4, 4], opacity=0.6).encode(x="bytes:Q")
  return _layers(points, rule)


def draw_panel(panel: Panel) -> Spec:
  """Draws the metrics of a run that measure one thing."""
  values = [row["y"] for row in panel.rows]
  log = min(values) > 0 and max(values) > 20 * min(values)
  scale = alt.Scale(type="log") if log else alt.Scale(zero=False)
  lines = list(dict.fromkeys(row["line"] for row in panel.rows))
  legend = alt.Legend(title=None, orient="top", columns=3)
  color = alt.Color(
    "line:N", sort=lines, legend=legend if len(lines) > 1 else None
  )
  chart = _chart(panel.rows, panel.title).mark_line(
    point=alt.OverlayMarkDef(size=22), interpolate="linear"
  )
  layers = [
    chart.encode(
      alt.X(
        "x:Q",
        title=panel.axis,
        axis=_axis_of(panel),
        scale=alt.Scale(nice=False),
      ),
      alt.Y("y:Q", title=None, scale=scale),
      color=color,
      tooltip=[
        _tip("line:N", "line"),
        _tip("x:Q", panel.axis),
        _tip("y:Q", panel.title, ".4~g"),
      ],
    )
  ]
  if panel.breaks:
    data = alt.InlineData([{"x": step} for step in panel.breaks])
    rule = alt.Chart(data).mark_rule(strokeDash=[3, 3], opacity=0.5)
    layers.append(rule.encode(x="x:Q"))
  return _layers(*layers)


def _chart(rows: Rows, description: str, *, height: int = 190) -> alt.Chart:
  return alt.Chart(
    alt.InlineData(list(rows)),
    description=description,
    width="container",
    height=height,
  )


def _layers(first: alt.Chart, *others: alt.Chart) -> Spec:
  # What screen readers say is looked for at the top only.
  layers = alt.layer(first, *others)
  return layers.properties(description=first.description).to_dict()


def _choice() -> alt.Parameter:
  # The page sets it to the key of what is chosen, there or elsewhere.
  return alt.param(name="chosen", value="")


def _chosen(otherwise: Any) -> Any:
  """Returns the color of what is chosen, and of all else."""
  chosen = alt.when("datum.key === chosen").then(alt.value(_CHOSEN))
  return chosen.otherwise(otherwise)


def _tip(field: str, title: str, form: str | None = None) -> alt.Tooltip:
  tip = alt.Tooltip(field, title=title)
  return tip if form is None else tip.format(form)


def _axis_of(panel: Panel) -> alt.Axis:
  places = sorted({row["x"] for row in panel.rows})
  if panel.axis == "epoch" and len(places) <= _NAMED_BINS:
    # Other ticks would fall between the epochs.
    return alt.Axis(format="d", values=places)
  return alt.Axis(format="d", tickCount=6)
