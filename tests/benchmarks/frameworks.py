"""How far the adapters are from their frameworks: a table framework × architecture × objective, in Markdown.

    python -m tests.benchmarks.frameworks [flax equinox haiku keras torch torchvision hf]

Needs all frameworks: pip install -e '.[test,torch,equinox,haiku,keras,hf]' torchvision. Ten minutes on 2 cores.
Writes tests/benchmarks/results/frameworks.md with the versions; differences are relative to the largest number. The
first four columns compare the adapter with the framework; trace and top eigenvalue stand beside a Hessian as a matrix,
barrier and points of a curve beside outputs that the framework computes (`agreement.measure_landscape`).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version

os.environ.setdefault("KERAS_BACKEND", "jax")

from tests.conftest import ROOT
from tests.subject.frameworks import torch_cases
from tests.subject.frameworks.agreement import measure, measure_landscape
from tests.subject.frameworks.cases import Case
from tests.subject.frameworks.jax_cases import equinox_cases, flax_cases, haiku_cases

OUT = ROOT / "tests" / "benchmarks" / "results" / "frameworks.md"
COLUMNS = {
    "outputs": "outputs",
    "gradient": "gradient",
    "product": "Hessian product",
    "statistics": "BatchNorm",
    "trace": "Hessian trace",
    "eigenvalue": "top eigenvalue",
    "barrier": "barrier",
    "curve": "curve",
}
#: Too large to be measured here again and again.
WITHOUT_LANDSCAPE = ("torchvision",)
PACKAGES = ("jax", "flax", "equinox", "dm-haiku", "keras", "torch", "torchax", "torchvision", "transformers")
TITLES = {"linen": "Flax Linen", "nnx": "Flax NNX", "equinox": "Equinox", "haiku": "Haiku", "keras": "Keras"}
TITLES |= {"torch": "PyTorch", "torchvision": "torchvision", "hf": "Hugging Face", "functions": "plain functions"}


#: What was changed in an architecture so that it can be compared at all.
CHANGED = (
    "EfficientNet-B0 is without stochastic depth and dropout: with them PyTorch's statistics differ between two of its "
    "own runs. The weights of ViT's head, which begin as zeros, are drawn at random. Points of a curve are compared by "
    "their error: an example between two classes, which rounding decides, is 6e-02 of 24."
)


def all_cases(frameworks: list[str]) -> Iterator[Case]:
    """Yield the cases of some frameworks, all if none are named."""
    makers: dict[str, Callable[[], list[Case]]] = {
        "flax": flax_cases,
        "equinox": equinox_cases,
        "haiku": haiku_cases,
        "keras": torch_cases.keras_cases,
        "torch": torch_cases.torch_cases,
        "torchvision": torch_cases.torchvision_cases,
        "hf": torch_cases.hugging_face_cases,
    }
    for name in frameworks or makers:
        yield from makers[name]()


def main(frameworks: list[str]) -> None:
    """Measure the cases of some frameworks, or of all, and write their rows; rows of others stay as they are."""
    head = [f"| framework | architecture | objective | {' | '.join(COLUMNS.values())} |"]
    head.append("|---|---|---|" + "--:|" * len(COLUMNS))
    rows = OUT.read_text().splitlines()[2:-2] if OUT.exists() else []
    for case in all_cases(frameworks):
        found = measure(case) | ({} if case.framework in WITHOUT_LANDSCAPE else measure_landscape(case))
        shown = [f"{found[name]:.0e}" if name in found else "" for name in COLUMNS]
        start = "| " + " | ".join([TITLES[case.framework], case.architecture, case.objective])
        row = start + " | " + " | ".join(shown) + " |"
        print(row, flush=True)
        same = [place for place, old in enumerate(rows) if old.startswith(start + " |")]
        rows = [*rows[: same[0]], row, *rows[same[0] + 1 :]] if same else [*rows, row]
        versions = f"Versions: {', '.join(filter(None, map(_installed, PACKAGES)))}. {CHANGED}"
        OUT.write_text("\n".join([*head, *rows, "", versions]) + "\n")


def _installed(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return ""


if __name__ == "__main__":
    main(sys.argv[1:])
