"""Reports in a real browser: valid, nothing runs or is loaded, readable by machines too, and small enough to send.

Needs Chromium. The validator and axe-core are used where `VNU_JAR` and `AXE_CORE` name their files, as
CONTRIBUTING.md says.
"""

import html
import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest

from mdtree_jax import diagnose_metrics
from mdtree_jax.diagnosis.reference import default_reference
from mdtree_jax.report.html import write_reports

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
#: Bytes of a report.
MOST = 2_000_000
_METRICS = {"train_error": 20.0, "test_error": 30.0, "log_hessian_trace": 6.0, "mode_connectivity_peak": -3.0}
ROWS = (
    _METRICS | {"cka": 0.8, "mode_connectivity": -2.0, "train_loss": 0.5},
    _METRICS | {"train_error": 0.0, "test_error": 0.0, "validation_error": 0.0, "num_classes": 10},
    _METRICS | {"validation_error": 31.0, "num_classes": 10, "train_loss": 0.5, "log_hessian_trace_se": 0.2},
    {"mode_connectivity": -2.0},
)
HOSTILE = '<script>document.title="ran"</script><img src=x onerror="document.title=1">&"\'\x1b[2J'
_VOID = {"meta", "br", "img", "hr", "input", "link", "circle", "rect", "line", "path"}


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Write an index and a page for every kind of diagnosis; return their paths."""
    diagnoses = [diagnose_metrics(row, units="percent")[0] for row in ROWS]
    diagnoses += diagnose_metrics(ROWS[0], units="percent", evidence="landscape")
    named = [(f"{HOSTILE} {i}", diagnosis) for i, diagnosis in enumerate(diagnoses)]
    folder = tmp_path_factory.mktemp("pages")
    write_reports(folder, named, default_reference())
    return sorted(folder.glob("*.html"))


class _Nesting(HTMLParser):
    """Checks that every element is closed where it belongs, ids are unique, and attributes stand once."""

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.loads = [], [], []

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), (tag, attrs)
        assert not [name for name in names if name.startswith("on")], (tag, attrs)
        self.ids += [value for name, value in attrs if name == "id"]
        self.loads += [value for name, value in attrs if name in ("src", "srcset", "action")]
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in _VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in _VOID:
            assert self.open.pop() == tag


def test_pages_are_whole_and_load_nothing(pages):
    assert len(pages) == len(ROWS) + 2
    for path in pages:
        text = path.read_text(encoding="utf-8")
        nesting = _Nesting()
        nesting.feed(text)
        assert nesting.open == []
        assert nesting.loads == []
        assert len(nesting.ids) == len(set(nesting.ids))
        assert "<script" not in text
        assert "\x1b" not in text
        assert len(text.encode()) < MOST
        policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', text)[1]
        assert "default-src 'none'" in policy
        assert "script-src" not in policy
        assert re.search(r'<html lang="en">.*<title>[^<]+</title>', text, re.DOTALL)


def _seen(path, *options):
    """Return the document that Chromium makes of a page, after what runs in it has run."""
    call = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=20000", *options]
    done = subprocess.run([*call, "--dump-dom", path.as_uri()], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-500:]
    return done.stdout


needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")


@needs_chromium
def test_a_script_in_a_page_does_not_run(pages, tmp_path):
    text = pages[1].read_text(encoding="utf-8")
    script = '<script>document.documentElement.id="ran"</script><img src="x" onerror="document.body.id=\'ran\'">'
    (tmp_path / "a.html").write_text(text.replace("</main>", script + "</main>"), encoding="utf-8")
    assert 'id="ran"' not in _seen(tmp_path / "a.html").replace(script, "")
    without = re.sub(r"<meta http-equiv=.*?>", "", text)  # the policy is what forbids it
    (tmp_path / "b.html").write_text(without.replace("</main>", script + "</main>"), encoding="utf-8")
    assert '<html lang="en" id="ran">' in _seen(tmp_path / "b.html")


@needs_chromium
def test_a_page_is_printed(pages, tmp_path):
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--print-to-pdf={tmp_path / 'a.pdf'}"]
    subprocess.run([CHROMIUM, *options, pages[1].as_uri()], check=True, capture_output=True, timeout=120)
    assert (tmp_path / "a.pdf").read_bytes().startswith(b"%PDF")


@needs_chromium
@pytest.mark.skipif("AXE_CORE" not in os.environ, reason="AXE_CORE does not name axe.min.js")
@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_a_screen_reader_and_a_keyboard_can_read_it(pages, tmp_path, scheme):
    with open(os.environ["AXE_CORE"], encoding="utf-8") as file:
        axe = file.read().replace("</script", "<\\/script")
    report = "axe.run(document).then(r => { const p = document.createElement('pre'); p.id = 'axe'; p.textContent ="
    report += " JSON.stringify(r.violations.map(v => [v.id, v.nodes.map(n => n.html)])); document.body.append(p) })"
    for path in pages:
        text = re.sub(r"<meta http-equiv=.*?>", "", path.read_text(encoding="utf-8"))
        copy = tmp_path / path.name
        copy.write_text(text.replace("</body>", f"<script>{axe}</script><script>{report}</script></body>"))
        seen = _seen(copy, f"--blink-settings=preferredColorScheme={int(scheme == 'light')}")
        found = json.loads(html.unescape(re.search(r'<pre id="axe">(.*?)</pre>', seen, re.DOTALL)[1]))
        assert found == [], path.name


@pytest.mark.skipif("VNU_JAR" not in os.environ, reason="VNU_JAR does not name the validator")
def test_pages_are_valid(pages):
    done = subprocess.run(["java", "-jar", os.environ["VNU_JAR"], *map(str, pages)], capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
