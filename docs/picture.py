"""Render the picture in the README, `docs/images/report.png`: the top of the report that its example writes.

    python docs/picture.py

Needs Chromium, or another browser named by the environment variable BROWSER.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
OUT = ROOT / "docs" / "images" / "report.png"
#: Pixels of the page that are shown, and pixels of the picture for each of them.
WIDTH, HEIGHT, SCALE = 760, 1164, 1.5
COLOURS = 128


def write_report(folder: Path) -> Path:
    """Run the README's example in a folder; return the report that it writes."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    example = next(block for block in blocks if ".report(" in block)
    with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()):
        exec(example, {})  # our own README
    return folder / "report.html"


def screenshot(page: Path, to: Path) -> None:
    """Write a picture of the top of a page."""
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"]
    options += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    options += [f"--user-data-dir={page.parent / 'browser'}", f"--window-size={WIDTH},{HEIGHT}"]
    options += [f"--force-device-scale-factor={SCALE}", f"--screenshot={to}", page.as_uri()]
    subprocess.run([os.environ.get("BROWSER", "chromium"), *options], check=True, capture_output=True)


def main() -> None:
    """Write the picture with few colours, so that it stays small."""
    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder) / "shot.png"
        screenshot(write_report(Path(folder)), shot)
        OUT.parent.mkdir(exist_ok=True)
        Image.open(shot).convert("RGB").quantize(COLOURS).save(OUT, optimize=True)


if __name__ == "__main__":
    main()
