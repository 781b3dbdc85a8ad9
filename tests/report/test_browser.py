"""The page in a real browser, driven through ChromeDriver's own HTTP interface."""

import base64
import io
import json
import re
import shutil
import subprocess
import urllib.error
import urllib.request

import pytest

from fedsparsify_jax.report import ReportConfig, report

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    # No attempt to reach anybody: it costs time where there is no network.
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


class Browser:
    """A session of Chromium without a window."""

    def __init__(self, port, profile):
        self._base = f"http://127.0.0.1:{port}/session"
        options = {"args": [*FLAGS, f"--user-data-dir={profile}"]}
        wanted = {
            "browserName": "chrome",
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL"},
        }
        made = self._ask("", {"capabilities": {"alwaysMatch": wanted}})
        self._base += "/" + made["sessionId"]

    def _ask(self, path, content=None, method=None):
        body = None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(
            self._base + path, body, {"Content-Type": "application/json"}, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(error.read().decode()[:1000]) from error

    def visit(self, path, width=1280, height=900, dark=False):
        """Opens a file at a window's size."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1}
        self.devtools("Emulation.setDeviceMetricsOverride", size | {"mobile": False})
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.devtools("Emulation.setEmulatedMedia", {"features": [scheme]})
        self._ask("/url", {"url": path.as_uri()})

    def devtools(self, command, parameters):
        content = {"cmd": command, "params": parameters}
        return self._ask("/goog/cdp/execute", content)

    def run(self, script):
        """What a script returns."""
        return self._ask("/execute/sync", {"script": script, "args": []})

    def complaints(self):
        """What the console says, and since when it was last asked."""
        return [entry["message"] for entry in self._ask("/se/log", {"type": "browser"})]

    def move(self, x, y):
        """Puts the pointer somewhere in the window."""
        step = {"type": "pointerMove", "duration": 0, "x": round(x), "y": round(y)}
        pointer = {"type": "pointer", "id": "mouse", "actions": [step]}
        self._ask("/actions", {"actions": [pointer]})

    def keys(self, *codes):
        """Presses keys, as WebDriver calls them."""
        steps = [
            {"type": kind, "value": code}
            for code in codes
            for kind in ("keyDown", "keyUp")
        ]
        keyboard = {"type": "key", "id": "keys", "actions": steps}
        self._ask("/actions", {"actions": [keyboard]})

    def picture(self):
        """The window as a PNG file."""
        return base64.b64decode(self._ask("/screenshot"))

    def close(self):
        self._ask("", method="DELETE")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    for name in ("chromedriver", "chromium"):
        if shutil.which(name) is None:
            pytest.fail(f"no {name}: apt-get install chromium chromium-driver")
    driver = subprocess.Popen(
        ["chromedriver", "--port=0"], stdout=subprocess.PIPE, text=True
    )
    try:
        for line in driver.stdout:
            if found := re.search(r"started successfully on port (\d+)", line):
                break
        opened = Browser(found[1], tmp_path_factory.mktemp("profile"))
        yield opened
        opened.close()
    finally:
        driver.terminate()
        with driver:
            pass


@pytest.fixture(scope="module")
def pages(tmp_path_factory, write_run, write_sweep):
    folder = tmp_path_factory.mktemp("pages")
    sources = {
        "run": write_run(folder / "runs" / "run", partition="label-shards"),
        "sweep": write_sweep(folder / "sweep"),
    }
    for name, source in sources.items():
        report(ReportConfig((source,), out=folder / f"{name}.html"))
    return folder


READY = "return document.documentElement.dataset.ready"
SIZES = """return [...document.querySelectorAll(".plot svg")].map(svg => {
  const details = svg.closest("details");
  if (details) details.open = true;
  const area = svg.getBoundingClientRect();
  return [area.width, area.height, svg.querySelectorAll("polyline, rect").length];
})"""


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("name", ["run", "sweep"])
def test_charts_are_drawn_and_fit(name, width, browser, pages):
    browser.visit(pages / f"{name}.html", width)
    sizes = browser.run(SIZES)
    assert int(browser.run(READY)) == len(sizes) >= 7
    for across, down, shapes in sizes:
        assert 250 < across <= 440 and down > 100 and shapes > 5
    # Nothing sticks out, so that nobody has to scroll sideways.
    assert browser.run("return document.documentElement.scrollWidth") <= width
    letters = browser.run(
        """const svg = document.querySelector(".plot svg");
        return svg.getScreenCTM().a * 12"""
    )
    assert letters >= 10  # dots high, also on a phone
    assert browser.complaints() == []


def test_pages_are_light_or_dark(browser, pages):
    for dark in (False, True):
        browser.visit(pages / "run.html", dark=dark)
        shades = browser.run(
            """const style = name => getComputedStyle(document.querySelector(name));
            const grey = text => text.match(/\\d+/g).slice(0, 3)
              .reduce((sum, value) => sum + Number(value), 0) / 3;
            return [grey(style("body").backgroundColor), grey(style("h1").color),
                    grey(style("svg text").fill)]"""
        )
        ground, *letters = shades
        assert (ground < 60) == dark
        assert all(abs(shade - ground) > 100 for shade in letters)
    assert browser.complaints() == []


TIP = """const tip = document.querySelector(".tip");
return tip.hidden ? null : tip.innerText"""
PLACE = """const area = document.querySelector(".plot svg").getBoundingClientRect();
return [area.left, area.top, area.width, area.height]"""


def test_values_are_under_the_pointer_and_the_arrow_keys(browser, pages):
    browser.visit(pages / "run.html", height=1500)
    assert browser.run(TIP) is None
    left, top, width, height = browser.run(PLACE)
    browser.move(left + width * 0.99, top + height / 2)
    assert browser.run(TIP).split("\n") == ["round 10", "accuracy", "90.00 %"]
    browser.move(left + width * 54 / 360, top + height / 2)  # where the axis begins
    assert browser.run(TIP).split("\n") == ["round 1", "accuracy", "54.00 %"]
    browser.move(left + width * 0.99, top + height / 2)
    browser.move(left + width * 0.5, 5)
    assert browser.run(TIP) is None
    browser.run('document.querySelector(".plot").focus()')
    browser.keys("\ue012", "\ue012")  # the left arrow, from the end
    assert browser.run(TIP).split("\n")[0] == "round 8"
    browser.keys("\ue00c")  # escape
    assert browser.run(TIP) is None
    assert browser.complaints() == []


def test_lines_can_be_switched_off(browser, pages):
    browser.visit(pages / "sweep.html")
    shown = """const section = document.querySelector("section[id^=curves]");
    return [...section.querySelectorAll("polyline.t1")]
      .filter(line => line.style.display !== "none").length"""
    click = """document.querySelector(
      'section[id^=curves] button[data-tone="1"]').click()"""
    before = browser.run(shown)
    assert before > 0
    browser.run(click)
    assert browser.run(shown) == 0
    browser.run(click)
    assert browser.run(shown) == before


def test_tables_are_sorted_by_their_headings(browser, pages):
    browser.visit(pages / "sweep.html")
    column = """const table = document.querySelector("#results table");
    const heads = [...table.tHead.rows[0].cells];
    const at = heads.findIndex(head => head.textContent === "Final accuracy");
    heads[at].querySelector("button").click();
    return [heads[at].getAttribute("aria-sort"),
            [...table.tBodies[0].rows].map(row => Number(row.cells[at].dataset.v))]"""
    for order in ("descending", "ascending"):
        said, values = browser.run(column)
        assert said == order and len(set(values)) == 4
        assert values == sorted(values, reverse=order == "descending")


def test_data_can_be_saved(browser, pages):
    browser.visit(pages / "run.html")
    caught = browser.run(
        """const found = [];
        URL.createObjectURL = blob => { found.push(blob); return "#"; };
        for (const button of document.querySelectorAll(".save button")) button.click();
        return Promise.all(found.map(blob => blob.text()))"""
    )
    assert len(caught) == 4
    runs, _, rounds, as_json = caught
    lines = rounds.splitlines()
    assert lines[0].startswith("run,round,test_accuracy") and len(lines) == 11
    assert lines[-1].startswith("run,10,0.9,")
    assert runs.splitlines()[0].startswith("run,dataset,")
    assert [row["round"] for row in json.loads(as_json)] == list(range(1, 11))
    assert browser.complaints() == []


def test_nothing_is_fetched_and_no_other_script_runs(browser, pages):
    browser.visit(pages / "run.html")
    script = """const made = document.createElement("script");
    made.textContent = "window.intruder = true";
    document.body.append(made);
    return [window.intruder === undefined,
            performance.getEntriesByType("resource").length]"""
    assert browser.run(script) == [True, 0]
    (said,) = browser.complaints()
    assert "Content Security Policy" in said


def test_the_page_has_colours(browser, pages):
    from PIL import Image

    browser.visit(pages / "run.html", height=1500)
    image = Image.open(io.BytesIO(browser.picture())).convert("RGB")
    colours = {colour for _, colour in image.getcolors(1 << 24)}
    assert {(0, 0x72, 0xB2), (0xD5, 0x5E, 0)} <= colours  # lines of two charts
