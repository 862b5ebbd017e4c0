"""Hostile names of files and texts of others in pages and paths."""

import csv
import json
import pathlib
import re
import shutil

import numpy as np
import pytest

from tests.commands import run
from tests.conftest import edit
from tests.folders import FOLDER, go_the_road, lay
from tests.pages import Page
from trainer.evaluation.report import charts, page
from unet_tfrecords.command.errors import UserError
from unet_tfrecords.dataset import dataset_info

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'><svg onload=alert(1)>",
    "{{7*7}}{% raw %}",
    r"$\frac$ \1 \g<x>",
    "=1+1",
)


def file_name(text: str) -> str:
    return text.replace("/", "%2f")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> pathlib.Path:
    """Images and masks with hostile names, in a folder with another, worked through."""
    top = tmp_path_factory.mktemp("hostile")
    raw = top / "=HYPERLINK(1)<script>"
    rng = np.random.default_rng(1)
    names = [*map(file_name, HOSTILE), "a..%2f..%2fescape", "-rf ~", "a;touch b"]
    frames = {}
    for name in names:
        mask = np.zeros((40, 40), np.uint8)
        mask[8:20, 8:20], mask[22:36, 22:36] = 1, 2
        image = rng.integers(0, 60, (40, 40)) + 90 * (mask > 0)
        frames[name] = image.astype(np.uint8), mask
    lay(raw, frames)
    settings = [
        *FOLDER,
        "--config.data.labels=instance",
        "--config.data.split.test=0.5",
        f"--config.model.class_names={('background', ' '.join(HOSTILE))!r}",
    ]
    workdir = top / "run<b>"
    go_the_road(raw, top, *settings, workdir=workdir)
    more = {"input": raw / "images", "output": top / "predicted"}
    wanted = "--instances", "--probabilities=npy"
    assert run("predict", *wanted, model=top / "model", **more) == 0
    shutil.copytree(workdir, top / "other<i>")
    assert run("compare", workdir, top / "other<i>", output=top / "compare.html") == 0
    return top


PAGES = ("preview/index.html", "run<b>/report.html", "compare.html")


OURS = {
    *("html", "head", "body", "meta", "title", "link", "style", "div", "p", "span"),
    *("h1", "h2", "h3", "table", "tr", "th", "td", "ul", "li", "details", "summary"),
    *("figure", "figcaption", "img", "pre", "code", "strong", "b", "br"),
    *("svg", "g", "path", "defs", "use", "text", "tspan", "clippath", "rect"),
}


def assert_harmless(text: str) -> Page:
    found = Page(text)
    assert set(found.tags) <= OURS
    for tag, name, value in found.attributes:
        assert not name.startswith("on") and "alert" not in name
        if name in ("src", "href", "xlink:href"):
            assert value.startswith(("data:", "#"))
        if name == "style":
            assert "alert" not in value
        assert tag != "svg" or name in {"viewbox", "width", "role", "aria-label"}
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", PAGES)
def test_no_name_becomes_an_element_of_a_page(hostile, name):
    text = (hostile / name).read_text()
    found = assert_harmless(text)
    assert "49" not in re.findall(r">([^<]*)<", text)  # {{7*7}}
    if name != "compare.html":  # which names classes alone
        for said in HOSTILE:
            assert file_name(said) in found.text or said in found.text


@pytest.mark.slow
def test_no_name_runs_in_a_browser(hostile, browser):
    happened: list[str] = []
    for name in PAGES:
        opened = browser.new_page()
        opened.on("dialog", lambda dialog: happened.append(dialog.message))
        opened.on("request", lambda request: happened.append(request.url))
        opened.goto((hostile / name).as_uri())
        opened.wait_for_timeout(200)
    assert len(happened) >= len(PAGES)  # the pages themselves
    own = tuple((hostile / name).name for name in PAGES)
    assert all(url.startswith("data:") or url.endswith(own) for url in happened)


@pytest.mark.slow
def test_no_name_leads_out_of_a_folder(hostile):
    assert {path.name for path in hostile.iterdir()} == {
        *("=HYPERLINK(1)<script>", "data", "preview", "run<b>", "other<i>", "model"),
        *("predicted", "compare.html"),
    }
    masks = {path.name for path in (hostile / "predicted").glob("*_mask.png")}
    stems = {path.stem for path in (hostile / "=HYPERLINK(1)<script>/images").iterdir()}
    assert masks == {f"{stem}_mask.png" for stem in stems}


@pytest.mark.slow
def test_no_cell_of_a_table_is_a_formula(hostile):
    """Spreadsheets compute what begins with =, +, - or @ (CWE-1236)."""
    path = hostile / "run<b>/evaluation-test-objects.csv"
    rows = list(csv.reader(path.read_text().splitlines()))
    assert len(rows) > 2
    for row in rows:
        for cell in row:
            assert not cell.startswith(("=", "+", "-", "@", "\t", "\r"))
    frames = json.loads((hostile / "run<b>/evaluation-test.json").read_text())["frames"]
    assert {row[0].removeprefix("'") for row in rows[1:]} == set(frames)


EVALUATION = "evaluation-test.json"


@pytest.mark.slow
@pytest.mark.parametrize("evil", [HOSTILE[1], HOSTILE[4]])  # a second or two each
def test_a_crafted_run_makes_a_harmless_report(hostile, tmp_path, evil):
    """As if a stranger had packed a work directory with every text replaced."""
    run = tmp_path / "run"
    shutil.copytree(hostile / "run<b>", run)
    (run / "SHA256SUMS").unlink()  # or made to fit
    edit(run / EVALUATION, lambda c: c.update(step=evil))
    edit(
        run / EVALUATION,
        lambda c: (
            c["scores"].update({evil: 0.5}),
            c["intervals"].update({evil: None}),
        ),
    )
    edit(run / "about.json", lambda c: c.update(device=evil, versions={evil: evil}))
    edit(run / dataset_info.INFO_NAME, lambda c: c["sources"][0].update(frame=evil))
    objects = run / "evaluation-test-objects.csv"
    objects.write_text(objects.read_text().replace("missed", evil.replace('"', '""')))
    assert_harmless(page.html(str(run)))
    edit(run / EVALUATION, lambda c: c.update(split=evil))
    with pytest.raises(UserError, match="broken"):
        page.html(str(run))


@pytest.mark.parametrize("evil", HOSTILE)
def test_no_text_of_a_chart_is_markup_or_a_formula(evil):
    chart = charts.Chart(evil, evil, evil).lines({evil: [(0, 1)], "_b$": [(1, 1)]})
    svg = chart.dots({evil: [(0, 0)]}).svg(evil)
    found = assert_harmless(f"<p>{svg}</p>")
    assert found.text.count(evil) == 4  # two axes, two series
    assert ("svg", "aria-label", evil) in found.attributes
