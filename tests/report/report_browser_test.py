"""Pages in a browser: search, clicks, hostile words, no network, a phone."""

import json
import shutil
import time

import numpy as np
import pytest
import report_tables

from anchor_codes import report, tables

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
if BROWSER is None or DRIVER is None:
  pytest.skip(
    "needs chromium and chromedriver on the path", allow_module_level=True
  )
webdriver = pytest.importorskip("selenium.webdriver")
# Only now: without selenium these would be errors, and not a skip.
from selenium.common.exceptions import NoAlertPresentException  # noqa: E402
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

ARGUMENTS = (
  "--headless=new",
  "--no-sandbox",
  "--disable-gpu",
  "--disable-dev-shm-usage",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-quic",
  "--disable-sync",
  "--no-first-run",
)
SECONDS = 30


@pytest.fixture(scope="module")
def browser():
  options = webdriver.ChromeOptions()
  options.binary_location = BROWSER
  for argument in ARGUMENTS:
    options.add_argument(argument)
  logs = {"browser": "ALL", "performance": "ALL"}
  options.set_capability("goog:loggingPrefs", logs)
  service = webdriver.ChromeService(DRIVER)
  driver = webdriver.Chrome(options=options, service=service)
  yield driver
  driver.quit()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Writes all pages once."""
  folder = tmp_path_factory.mktemp("pages")
  plain, hostile = report_tables.WORDS, report_tables.HOSTILE
  anchors = report_tables.anchor_table()
  original = np.random.default_rng(0).standard_normal((8, 3))
  report.write_report(
    anchors, folder / "anchors.html", original=original.astype(np.float32)
  )
  for name, words in {"codes": plain, "hostile_codes": hostile}.items():
    table = report_tables.code_table(words)
    report.write_report(table, folder / f"{name}.html")
  table = report_tables.anchor_table(hostile)
  report.write_report(table, folder / "hostile_anchors.html", name=hostile[0])
  vectors = np.eye(5, dtype=np.float32)
  report.write_report(tables.DenseTable(vectors), folder / "dense.html")
  write_run(folder / "run")
  return folder


def write_run(folder):
  folder.mkdir()
  result = {"experiment": "train_recommender", "metrics": {"test_mse": 0.5}}
  (folder / "result.json").write_text(json.dumps(result))
  (folder / "metrics.csv").write_text(
    "step,train_mse,valid_mse,num_anchors_users,objective,time_batch\n"
    "10,1.5,,,,0\n20,1.0,1.25,4,2.0,0\n30,0.75,1.0,3,1.5,1\n"
  )
  report_tables.anchor_table().save(folder / "users.safetensors")
  report_tables.code_table().save(folder / "items.safetensors")
  report.write_run_report(folder)


def wait(driver, script, *arguments):
  """Waits until a script returns something true, and returns it."""
  end = time.monotonic() + SECONDS
  while not (found := driver.execute_script(script, *arguments)):
    assert time.monotonic() < end, f"in vain: {script}"
    time.sleep(0.05)
  return found


def open_page(driver, path, *, width=1280):
  """Opens a page at a width of the screen; returns what it logs."""
  driver.execute_cdp_cmd(
    "Emulation.setDeviceMetricsOverride",
    {
      "width": width,
      "height": 900,
      "deviceScaleFactor": 1,
      "mobile": width < 500,
    },
  )
  for kind in ("browser", "performance"):
    driver.get_log(kind)  # What earlier pages have logged.
  driver.get(path.as_uri())
  wait(driver, "return document.documentElement.dataset.ready")


def texts(driver, selector):
  script = (
    "return [...document.querySelectorAll(arguments[0])]"
    ".map((node) => node.textContent)"
  )
  return driver.execute_script(script, selector)


def find(driver, selector):
  return driver.find_element("css selector", selector)


def members(driver):
  return texts(driver, ".members li bdi")


def test_search_finds_a_symbol_and_its_anchors(browser, folder):
  open_page(browser, folder / "anchors.html")
  search = find(browser, "input[type=search]")
  search.clear()
  search.send_keys("DO")
  # The word itself first, those that begin with it, those that have it inside.
  assert texts(browser, ".suggestions bdi") == ["dog", "Dog", "hot dog"]
  assert texts(browser, ".status") == ["3 found."]
  search.send_keys("g", Keys.ENTER)
  assert texts(browser, ".word bdi") == ["dog"]
  table = report_tables.anchor_table()
  weights = table.to_transform()[2]
  order = np.argsort(-np.abs(weights), kind="stable")
  expected = [f"anchor {k}" for k in order.tolist() if weights[k]]
  assert texts(browser, ".anchors button") == expected
  assert texts(browser, ".suggestions li") == []


def test_search_can_do_without_a_mouse_and_says_if_there_is_nothing(
  browser, folder
):
  open_page(browser, folder / "anchors.html")
  search = find(browser, "input[type=search]")
  search.clear()
  search.send_keys("fo", Keys.TAB, Keys.TAB, Keys.ENTER)
  assert texts(browser, ".word bdi") == ["fox"]
  search.clear()
  search.send_keys("xyz", Keys.ENTER)
  assert texts(browser, ".status") == ["No symbol here contains this text."]
  assert texts(browser, ".word bdi") == ["fox"]


def test_neighbors_before_and_after_stand_side_by_side(browser, folder):
  open_page(browser, folder / "anchors.html")
  assert texts(browser, ".sides h4") == [
    "Neighbours in this table",
    "Neighbours in the original",
  ]
  left, right = browser.find_elements("css selector", ".neighbors")
  assert left.location["y"] == right.location["y"]
  before, after = (set(side.text.split("\n")) for side in (left, right))
  assert len(before) == len(after)
  # There are eight symbols: both lists hold all seven others.
  assert texts(browser, ".symbol > .note") == [
    "7 of 7 neighbours are the same (●)."
  ]
  find(browser, ".neighbors button").click()
  assert texts(browser, ".word bdi") != ["the"]


def test_a_click_on_an_anchor_fills_the_list(browser, folder):
  open_page(browser, folder / "anchors.html")
  table = report_tables.anchor_table()
  transform = table.to_transform()
  assert texts(browser, ".members h4") == ["Anchor 3, 8 symbols"]
  # In the chart: the second bar is that of anchor 0, then come 1 and 2.
  bars = browser.find_elements("css selector", "#t0-use0 .mark-rect path")
  assert len(bars) == 4
  bars[1].click()
  assert texts(browser, ".members h4") == ["Anchor 0, 3 symbols"]
  order = np.argsort(-transform[:, 0], kind="stable")[:3]
  assert members(browser) == [report_tables.WORDS[i] for i in order]
  fills = "return getComputedStyle(arguments[0]).fill"
  assert wait(browser, fills, bars[1]) != wait(browser, fills, bars[2])
  # In the list, by its number, and from a symbol.
  find(browser, '.entries button[data-key="2"]').click()
  assert texts(browser, ".members h4") == ["Anchor 2, 2 symbols"]
  number = find(browser, ".choose input")
  assert number.get_property("value") == "2"
  number.clear()
  number.send_keys("1", Keys.ENTER)
  assert texts(browser, ".members h4") == ["Anchor 1, 3 symbols"]
  find(browser, ".anchors button").click()
  assert texts(browser, ".members h4") == ["Anchor 3, 8 symbols"]


def test_a_digit_fills_the_list_and_codes_are_compared(browser, folder):
  open_page(browser, folder / "codes.html")
  codes = report_tables.code_table().codes
  assert texts(browser, ".digits button") == ["0 0", "0 1", "0 2"]
  shared = (codes == codes[0]).sum(axis=1)
  others = sorted(range(1, 8), key=lambda i: (-shared[i], i))
  others = [report_tables.WORDS[i] for i in others if shared[i]]
  assert texts(browser, ".alike bdi") == others
  cells = browser.find_elements("css selector", "#t0-use0 .mark-rect path")
  assert len(cells) == 3 * 4
  cells[5].click()  # Digit 1 = 1.
  assert texts(browser, ".members h4") == ["Digit 1 = 1, 4 symbols"]
  assert members(browser) == list(report_tables.WORDS[4:])
  browser.find_elements("css selector", ".digits button")[2].click()
  assert texts(browser, ".members h4") == ["Digit 2 = 0, 4 symbols"]


@pytest.mark.parametrize("name", ["hostile_anchors", "hostile_codes"])
def test_hostile_words_stay_text(browser, folder, name):
  open_page(browser, folder / f"{name}.html")
  for i, word in enumerate(report_tables.HOSTILE):
    # As it is typed: control characters would be keys.
    browser.execute_script(
      "const input = document.querySelector('input[type=search]');"
      "input.value = arguments[0];"
      "input.dispatchEvent(new Event('input'));"
      "input.form.requestSubmit();",
      word,
    )
    if word:
      assert texts(browser, ".word bdi") == [word]
      assert texts(browser, ".word small") == [f" row {i}"]
  if name == "hostile_anchors":
    assert members(browser)[0] == report_tables.HOSTILE[0]
    assert texts(browser, "h1") == [report_tables.HOSTILE[0]]
    assert browser.title == report_tables.HOSTILE[0]
  assert_nothing_ran(browser)


def assert_nothing_ran(driver):
  assert texts(driver, "main script, img, main b b, iframe") == []
  with pytest.raises(NoAlertPresentException):
    _ = driver.switch_to.alert.text
  assert driver.get_log("browser") == []


def test_the_words_of_a_tooltip_stay_text(browser, folder):
  open_page(browser, folder / "hostile_anchors.html")
  bar = find(browser, "#t0-use0 .mark-rect path")
  ActionChains(browser).move_to_element(bar).perform()
  selector = "#vg-tooltip-element"
  wait(browser, f"return document.querySelector('{selector}.visible')")
  shown = texts(browser, selector)[0]
  assert "<script>alert(1)</script>, </script>, {{7*7}}" in shown
  assert texts(browser, f"{selector} script, {selector} img") == []
  assert_nothing_ran(browser)


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", ["anchors", "hostile_codes", "dense", "run"])
def test_pages_fit_and_load_nothing(browser, folder, name, width):
  path = folder / f"{name}.html"
  if name == "run":
    path = folder / "run" / "report.html"
  open_page(browser, path, width=width)
  widths = (
    "const r = document.documentElement; return [r.scrollWidth, innerWidth]"
  )
  needed, given = browser.execute_script(widths)
  assert needed <= given == width
  columns = browser.execute_script(
    "return getComputedStyle(document.querySelector('.explorer'))"
    ".gridTemplateColumns.split(' ').length"
  )
  # Of rows without anchors and codes there is no second column.
  assert columns == (2 if width == 1280 and name != "dense" else 1)
  charts = browser.execute_script(
    "return [...document.querySelectorAll('.chart')]"
    ".map((chart) => chart.querySelectorAll('svg').length)"
  )
  assert charts
  assert set(charts) == {1}
  resources = "return performance.getEntriesByType('resource').length"
  assert browser.execute_script(resources) == 0
  assert requested(browser) <= {path.as_uri()}
  assert browser.get_log("browser") == []


def requested(driver):
  """Returns the addresses that the page has asked for."""
  found = set()
  for entry in driver.get_log("performance"):
    message = json.loads(entry["message"])["message"]
    if message["method"] == "Network.requestWillBeSent":
      found.add(message["params"]["request"]["url"])
  return {url for url in found if not url.startswith("data:")}


def test_a_run_shows_its_course(browser, folder):
  open_page(browser, folder / "run" / "report.html")
  headings = texts(browser, "h3")
  assert headings[:3] == ["Number of anchors", "Objective", "MSE"]
  assert texts(browser, "h2") == [
    "Course of the run",
    "items.safetensors",
    "users.safetensors",
  ]
  # Each table has an explorer of its own.
  search = browser.find_elements("css selector", "input[type=search]")[1]
  search.clear()
  search.send_keys("gnu", Keys.ENTER)
  assert texts(browser, ".word bdi") == ["the", "gnu"]


def test_the_policy_refuses_requests_and_other_scripts(browser, folder):
  open_page(browser, folder / "dense.html")
  refused = """
    const done = arguments[arguments.length - 1];
    document.addEventListener("securitypolicyviolation", (event) =>
      done(event.effectiveDirective));
  """
  fetching = "fetch('http://127.0.0.1:9/').catch(() => 0);"
  assert browser.execute_async_script(refused + fetching) == "connect-src"
  adding = """
    const script = document.createElement("script");
    script.textContent = "globalThis.ran = true";
    document.body.append(script);
  """
  found = browser.execute_async_script(refused + adding)
  assert found == "script-src-elem"
  assert browser.execute_script("return globalThis.ran") is None
