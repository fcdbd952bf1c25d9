"""How far the adapters are from their frameworks: a table framework × architecture × objective, in Markdown.

    KERAS_BACKEND=jax python -m tests.benchmarks.frameworks

Needs all frameworks: pip install -e '.[test,torch,equinox,haiku,keras,hf]' torchvision. Ten minutes on 2 cores.
Writes tests/benchmarks/results/frameworks.md with the versions; differences are relative to the largest number.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version

os.environ.setdefault("KERAS_BACKEND", "jax")

from tests.conftest import ROOT
from tests.subject.frameworks import torch_cases
from tests.subject.frameworks.agreement import measure
from tests.subject.frameworks.cases import Case
from tests.subject.frameworks.jax_cases import equinox_cases, flax_cases, haiku_cases

OUT = ROOT / "tests" / "benchmarks" / "results" / "frameworks.md"
COLUMNS = ("outputs", "gradient", "product", "statistics")
PACKAGES = ("jax", "flax", "equinox", "dm-haiku", "keras", "torch", "torchax", "torchvision", "transformers")
TITLES = {"linen": "Flax Linen", "nnx": "Flax NNX", "equinox": "Equinox", "haiku": "Haiku", "keras": "Keras"}
TITLES |= {"torch": "PyTorch", "torchvision": "torchvision", "hf": "Hugging Face", "functions": "plain functions"}


def all_cases() -> Iterator[Case]:
    """Yield the cases of all frameworks, one framework at a time."""
    makers: list[Callable[[], list[Case]]] = [flax_cases, equinox_cases, haiku_cases]
    makers += [torch_cases.keras_cases, torch_cases.torch_cases]
    for make in makers:
        yield from make()
    library = torch_cases.define_missing_operators()
    yield from torch_cases.torchvision_cases()
    yield from torch_cases.hugging_face_cases()
    del library


def main() -> None:
    """Measure all cases and write the table."""
    lines = ["| framework | architecture | objective | outputs | gradient | Hessian product | BatchNorm |"]
    lines.append("|---|---|---|--:|--:|--:|--:|")
    for case in all_cases():
        found = measure(case)
        shown = [f"{found[name]:.0e}" if name in found else "" for name in COLUMNS]
        lines.append("| " + " | ".join([TITLES[case.framework], case.architecture, case.objective, *shown]) + " |")
        print(lines[-1], flush=True)
    lines += ["", f"Versions: {', '.join(filter(None, map(_installed, PACKAGES)))}."]
    OUT.write_text("\n".join(lines) + "\n")


def _installed(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return ""


if __name__ == "__main__":
    main()
