"""The page, Markdown and figures, as files."""

import json
import re
import sys
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import pytest

from fedsparsify_jax.cli import main
from fedsparsify_jax.errors import InputError
from fedsparsify_jax.report import ReportConfig, report
from fedsparsify_jax.report.drawing import WIDTH

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'&|`"
VOID = {"meta", "link", "br"}


class Reader(HTMLParser):
    """Elements in order, after checking that each is closed where it should be."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.words = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    def named(self, tag):
        return [attrs for name, attrs in self.elements if name == tag]


def written(tmp_path, *paths, **options):
    out = tmp_path / "out" / "page.html"
    report(ReportConfig(paths, out=out, **options))
    return out.read_text(encoding="utf-8")


def test_the_page_stands_alone(write_sweep, tmp_path, capsys):
    text = written(tmp_path, write_sweep(tmp_path / "sweep"))
    page = Reader(text)
    assert "http" not in text.replace("http-equiv", "")
    for _, attrs in page.elements:
        assert attrs.get("href", "#").startswith(("#", "data:,"))
        assert not any(name == "src" or name.startswith("on") for name in attrs)
    assert "report of 8 runs" in capsys.readouterr().out
    # Every chart has words for those who do not see it, every column a heading.
    charts = [a for a in page.named("svg") if "viewbox" in a and "role" in a]
    assert charts and all(a["aria-label"] for a in charts)
    assert all(a["scope"] in ("col", "row") for a in page.named("th"))
    assert len(page.named("caption")) == len(page.named("table"))
    links = {a["href"][1:] for a in page.named("a")}
    assert links <= {a["id"] for _, a in page.elements if "id" in a}


def test_what_files_say_is_text_and_nothing_else(write_run, change, tmp_path):
    path = write_run(tmp_path / "<img src=x onerror=alert(2)>")
    inside = json.dumps(EVIL)[1:-1]
    change(
        path / "config.json",
        lambda text: (
            text.replace('"digits"', f'"{inside}"')
            .replace('"momentum"', f'"{inside}"')
            .replace('"jax"', f'"{inside}"')
        ),
    )
    change(
        path / "metrics.jsonl",
        lambda text: text.replace("Dense_0/kernel", inside).replace(
            '"seconds"', f'"{inside}"'
        ),
    )
    (path / "model" / "model.safetensors").unlink()
    second = write_run(tmp_path / "second", dataset="fashion_mnist")
    text = written(tmp_path, path, second, title=EVIL)
    page = Reader(text)
    assert len(page.named("script")) == 2 and page.named("img") == []
    assert EVIL in "".join(page.words)
    assert not any(name.startswith("on") for _, a in page.elements for name in a)
    out = tmp_path / "evil"
    report(ReportConfig((path, second), format="markdown", out=out, title=EVIL))
    said = (out / "report.md").read_text()
    assert re.search(r"(?<!\\)[<`]", said) is None
    for file in (out / "figures").iterdir():
        assert re.fullmatch(r"\d\d-[a-z0-9.-]+\.svg", file.name)
        names = {
            element.tag.split("}")[1] for element in ElementTree.parse(file).iter()
        }
        assert names <= {
            "svg",
            "title",
            "style",
            "text",
            "polyline",
            "polygon",
            "rect",
            "circle",
        }


def test_the_numbers_in_the_page_are_those_of_the_run(write_run, tmp_path):
    text = written(tmp_path, write_run(tmp_path / "run"))
    (found,) = re.findall(r'id="data">(.*?)</script>', text)
    data = json.loads(found)
    rounds = data["tables"]["rounds"]
    column = rounds["columns"].index("test_accuracy")
    assert [row[column] for row in rounds["rows"]] == pytest.approx(
        [0.5 + 0.04 * n for n in range(1, 11)]
    )
    table = data["tables"]["runs"]
    runs = dict(zip(table["columns"], table["rows"][0], strict=True))
    assert runs["run"] == "run" and runs["final"] == pytest.approx(0.9)
    assert runs["learning_rate"] == 0.1 and runs["finished"] is True
    chart = data["charts"]["c0"]
    assert chart["series"][0]["y"] == pytest.approx([r[column] for r in rounds["rows"]])
    words = " ".join(Reader(text).words)
    assert "90.00 %" in words and "Examples of each class" in words


def test_a_run_without_anything_is_a_page_that_says_so(write_run, tmp_path):
    path = write_run(tmp_path / "run", played=0)
    for name in ("config.json", "partition.json"):
        (path / name).unlink()
    words = " ".join(Reader(written(tmp_path, path)).words)
    for said in (
        "config.json is missing or cannot be read",
        "metrics.jsonl has no readable round",
        "not finished: 0 rounds are there",
        "There is no round to draw.",
        "No run has a readable config.json.",
        "kept no partition.json",
    ):
        assert said in words


def test_a_partition_that_makes_no_sense_is_not_shown(write_run, tmp_path):
    path = write_run(tmp_path / "run")
    for content in ('{"sizes": [1, "2"]}', '{"sizes": {"a": 1}}', "[]", "{"):
        (path / "partition.json").write_text(content)
        assert "kept no partition.json" in written(tmp_path, path)
    (path / "partition.json").write_text('{"sizes": [4, 2], "counts": [[1], "x"]}')
    words = written(tmp_path, path)
    assert "Examples</caption>" in words and "kept no partition.json" not in words


ODD = [None, True, -1, 0, 1e308, 10**400, float("nan"), "x\ud800\0<b>", [], {"a": [{}]}]


def test_odd_values_anywhere_do_no_harm(write_run, tmp_path):
    """Each value takes the place of another one in every file, turn by turn."""
    path = write_run(tmp_path / "run", rounds=3)
    files = [path / name for name in ("config.json", "partition.json", "metrics.jsonl")]
    texts = {file: file.read_text() for file in files}
    for turn, odd in enumerate(ODD):
        for file, text in texts.items():
            lines = text.splitlines() if file.suffix == ".jsonl" else [text]
            changed = []
            for line in lines:
                content = json.loads(line)
                inner = content.get("options") or content.get("kept") or content
                for level in (content, inner):
                    keys = sorted(set(level) - {"round", "options"})
                    for key in keys[turn % 3 :: 3]:
                        level[key] = odd
                changed.append(json.dumps(content))
            file.write_text("\n".join(changed))
        page = Reader(
            written(tmp_path, path, write_run(tmp_path / f"{turn}", rounds=1))
        )
        assert len(page.named("script")) == 2 and page.named("b") == []
        report(ReportConfig((path,), format="svg", out=tmp_path / "svg"))
    for file in (tmp_path / "svg").iterdir():
        ElementTree.parse(file)  # well formed, whatever the names were


def test_big_sweeps_stay_small(write_run, tmp_path):
    """240 runs of 200 rounds in a page of about a megabyte."""
    first = write_run(tmp_path / "s" / "first", rounds=200)
    text = {p.name: p.read_text() for p in first.iterdir() if p.is_file()}
    for algorithm in (
        "one-shot",
        "snip",
        "grasp",
        "feddst",
        "prunefl",
        "synflow",
        "fedsparsify-global",
        "fedsparsify-local",
    ):
        for sparsity in (0.8, 0.85, 0.95, 0.98, 0.99):
            for partition in ("iid", "dirichlet"):
                for seed in range(3):
                    copy = tmp_path / "s" / f"{algorithm}{sparsity}{partition}{seed}"
                    copy.mkdir()
                    config = json.loads(text["config.json"])
                    config["options"] |= {
                        "algorithm": algorithm,
                        "final_sparsity": sparsity,
                        "partition": partition,
                        "seed": seed,
                    }
                    files = text | {"config.json": json.dumps(config)}
                    for name, content in files.items():
                        (copy / name).write_text(content)
    page = written(tmp_path, tmp_path / "s")
    assert len(page) < 1_300_000
    lines = max(part.count('stroke-width="1.75"') for part in page.split("<figure"))
    assert lines == 8  # a mean an algorithm, and no line a run


def test_markdown_links_its_figures(write_sweep, tmp_path):
    out = tmp_path / "md"
    report(ReportConfig((write_sweep(tmp_path / "s"),), format="markdown", out=out))
    text = (out / "report.md").read_text()
    links = re.findall(r"!\[.*?\]\((figures/.*?)\)", text)
    assert sorted(links) == sorted(
        f"figures/{path.name}" for path in (out / "figures").iterdir()
    )
    row = next(
        line for line in text.splitlines() if line.startswith("| one-shot | 0.8 |")
    )
    assert "± 1.41 %" in row  # the standard deviation of two seeds .02 apart
    for link in links:
        root = ElementTree.parse(out / link).getroot()
        assert root.attrib["width"] == f"{WIDTH:g}"


def test_png_figures_are_drawn(write_run, tmp_path):
    from PIL import Image

    out = tmp_path / "png"
    report(ReportConfig((write_run(tmp_path / "run"),), format="png", out=out))
    files = sorted(out.iterdir())
    assert len(files) == 7 and {path.suffix for path in files} == {".png"}
    for path in files:
        image = Image.open(path)
        assert image.width == 3 * WIDTH
        colours = {colour for _, colour in image.getcolors(1 << 20)}
        # Paper, and the blue of the first line or of the fullest strip.
        assert (255, 255, 255) in colours
        assert {(0, 0x72, 0xB2), (0x6F, 0xA8, 0xCB)} & colours


@pytest.mark.parametrize(
    ("command", "message"),
    {
        "report": "report needs the directory of a run or of a sweep",
        "report none": "no directory none: name runs or sweeps",
        "report .": ". is no run and no sweep",
        "report run --format htm": "unknown format 'htm': did you mean 'html'?",
        "report run --out .": "--out . is a directory: name a file",
        "report run --out notes.txt": "--out notes.txt is there already and no report",
        "report run --format svg --out notes.txt": "--out notes.txt is a file: na",
        "report run --out notes.txt/a.html": "cannot write --out notes.txt/a.html",
    }.items(),
)
def test_bad_input_is_one_line(
    command, message, write_run, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("precious")
    write_run(tmp_path / "elsewhere" / "run")
    here = command.replace("report run", "report elsewhere/run")
    assert main(here.split()) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert (tmp_path / "notes.txt").read_text() == "precious"


@pytest.mark.parametrize("package", ["jinja2", "pandas", "PIL"])
def test_a_missing_package_is_one_line(package, write_run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    path = write_run(tmp_path / "run")
    with pytest.raises(InputError, match=rf"report needs {package}: pip install"):
        report(ReportConfig((path,), out=tmp_path / "page.html"))


def test_a_report_is_replaced_by_the_next(write_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "elsewhere" / "run")
    for title in ("One", "Two"):
        assert main(["report", "elsewhere/run", "--title", title]) == 0
    assert "<h1>Two</h1>" in (tmp_path / "report.html").read_text()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["elsewhere", "report.html"]
