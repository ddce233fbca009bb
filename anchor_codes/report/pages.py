"""Fills the template of a page: text escaped, data as JSON, charts inlined."""

import base64
import functools
import hashlib
import importlib.resources
import json
from collections.abc import Sequence
from typing import Any

import jinja2
import markupsafe
import vl_convert

import anchor_codes
from anchor_codes.report import charts
from anchor_codes.report.anchor_use import AnchorUse
from anchor_codes.report.runs import Run
from anchor_codes.report.sections import Section

_TEMPLATES = importlib.resources.files(anchor_codes) / "report" / "templates"
_SCRIPTS = ("components.js", "explorer.js", "start.js")
# What ends or opens an element of a script, and ends a line in JavaScript.
_UNSAFE = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


def render(sections: Sequence[Section], *, run: Run | None = None) -> str:
  """Returns a page as HTML that loads nothing from anywhere.

  Args:
    sections: What there is to show of each table.
    run: The training run that the tables are of, or None.
  """
  drawn: dict[str, charts.Spec] = {}
  run_cards = [] if run is None else _run_cards(run, drawn)
  cards = [_cards(n, section, drawn) for n, section in enumerate(sections)]
  title = sections[0].name if run is None else run.name
  data = {"charts": drawn, "tables": [section.data for section in sections]}
  environment = jinja2.Environment(
    autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
  )
  scripts = [_bundle(), _script()]
  return environment.from_string(_read("page.html")).render(
    title=title,
    run=run,
    run_cards=run_cards,
    sections=list(zip(sections, cards, strict=True)),
    policy=_policy(scripts),
    style=markupsafe.Markup(_read("page.css")),
    scripts=[markupsafe.Markup(script) for script in scripts],
    data=markupsafe.Markup(to_island(data)),
    version=anchor_codes.__version__,
  )


def to_island(value: Any) -> str:
  r"""Writes JSON that can stand in a script element, whatever the strings say.

  >>> print(to_island(["</script>", "&amp;"]))
  ["\u003c/script\u003e","\u0026amp;"]
  """
  text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
  # Only strings have such characters, in which each may be written like this.
  return text.translate(_UNSAFE)


def _cards(
  n: int, section: Section, drawn: dict[str, charts.Spec]
) -> list[dict[str, Any]]:
  """Draws the charts of a table; returns their titles, and where they go."""
  specs = {
    ("Bytes by part", ""): charts.draw_parts(section.parts),
    ("Lengths of the vectors", ""): charts.draw_histogram(
      section.norms, of="length"
    ),
  }
  if section.curve:
    note = "The dashed line is the budget."
    specs["Size against quality", note] = charts.draw_curve(section.curve)
  for use, rows in zip(section.uses, section.histograms, strict=True):
    where = f" of {use.name}" if use.name else ""
    if isinstance(use, AnchorUse):
      title, of, counted = (
        "Anchors of each row",
        "anchors with a weight",
        "rows",
      )
    else:
      title, of, counted = "Use of the entries", "symbols", "codebook entries"
    specs[title + where, ""] = charts.draw_histogram(
      rows, of=of, counted=counted
    )
  for m, use in enumerate(section.uses):
    drawn[f"t{n}-use{m}"] = (
      charts.draw_anchors(use, section.words)
      if isinstance(use, AnchorUse)
      else charts.draw_digits(use)
    )
  return _add(f"t{n}-chart", specs, drawn)


def _run_cards(run: Run, drawn: dict[str, charts.Spec]) -> list[dict[str, Any]]:
  specs = {}
  for panel in run.panels():
    note = "Dashed lines: other data came." if panel.breaks else ""
    title = panel.title[0].upper() + panel.title[1:]
    specs[title, note] = charts.draw_panel(panel)
  return _add("run", specs, drawn)


def _add(
  prefix: str,
  specs: dict[tuple[str, str], charts.Spec],
  drawn: dict[str, charts.Spec],
) -> list[dict[str, Any]]:
  cards = []
  for n, ((title, note), spec) in enumerate(specs.items()):
    drawn[f"{prefix}{n}"] = spec
    cards.append({"id": f"{prefix}{n}", "title": title, "note": note})
  return cards


def _policy(scripts: Sequence[str]) -> str:
  """Allows these scripts alone, and nothing from a network."""
  hashes = (hashlib.sha256(script.encode()).digest() for script in scripts)
  sources = (f"'sha256-{base64.b64encode(h).decode()}'" for h in hashes)
  return (
    f"default-src 'none'; script-src {' '.join(sources)}; "
    "style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    "form-action 'none'"
  )


def _script() -> str:
  """Returns the scripts of the page as one, whose names nobody else sees."""
  source = "\n".join(map(_read, _SCRIPTS))
  return f'"use strict";\n(() => {{\n{source}}})();\n'


def _read(name: str) -> str:
  return (_TEMPLATES / name).read_text(encoding="utf-8")


@functools.cache
def _bundle() -> str:
  """Returns Vega, Vega-Lite and vega-embed in one script."""
  return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;").replace(
    "\r\n", "\n"
  )
