"""How long one diagnosis takes of two PyTorch networks, with default settings, and where the time goes.

    python -m tests.benchmarks.diagnose_checkpoints --width 16 --folder /tmp/checkpoints

Needs `pip install 'mdtree-jax[benchmark]'`. Two ResNet-18 are trained from different seeds by plain SGD on synthetic
images of 32x32 (10 000 and 2 000 of ten noisy prototypes, a tenth of the labels wrong), saved as `.safetensors`, and
diagnosed by the command line, whose report ends up in the folder. An epoch of the training is timed beside.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

from mdtree_jax import diagnose
from mdtree_jax.cli import run
from tests.torch_resnet import make_images, make_torch_resnet

NUM_TRAIN, NUM_TEST, BATCH, RATE = 10_000, 2_000, 128, 0.05


def train(width: int, seed: int, num_epochs: int, x: np.ndarray, y: np.ndarray, path: Path) -> float:
    """Save a trained network; return the seconds of an epoch."""
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(seed)
    network = make_torch_resnet("resnet18", width)
    images, labels = torch.tensor(x), torch.tensor(y)
    optimizer = torch.optim.SGD(network.parameters(), RATE, 0.9, weight_decay=5e-4)
    start = time.perf_counter()
    for _ in range(num_epochs):
        for rows in torch.randperm(len(images)).split(BATCH)[:-1]:
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(network(images[rows]), labels[rows]).backward()
            optimizer.step()
    seconds = time.perf_counter() - start
    save_file(network.state_dict(), path)
    return seconds / num_epochs


def main() -> None:
    """Train, diagnose and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--folder", type=Path, required=True)
    options = parser.parse_args()
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    (x, y), (x_test, y_test) = make_images(1, NUM_TRAIN), make_images(2, NUM_TEST)
    paths = [folder / f"seed{seed}.safetensors" for seed in (0, 1)]
    epochs = [train(options.width, seed, options.epochs, x, y, path) for seed, path in enumerate(paths)]
    last = {name: a.transpose(0, 2, 3, 1) for name, a in (("x_train", x), ("x_test", x_test))}
    np.savez(folder / "data.npz", **last, y_train=y, y_test=y_test)
    arguments = [
        "model=resnet18",
        f"checkpoints=[{paths[0]},{paths[1]}]",
        "dataset=npz",
        f"data_file={folder}/data.npz",
    ]
    arguments += [f"training.batch_size={BATCH}", f"training.learning_rate={RATE}", f"training.epochs={options.epochs}"]
    start = time.perf_counter()
    code = run("diagnose", diagnose.__doc__, diagnose.main, [*arguments, f"out={folder}/report"])
    seconds = time.perf_counter() - start
    cost = json.loads((folder / "report" / "diagnosis.json").read_text())["cost"]
    print(
        f"\nexit code {code}; ResNet-18 of width {options.width}: {seconds / 60:.1f} min in all, of which measuring "
        f"{cost['diagnosis_seconds'] / 60:.1f} and compiling {cost['compile_seconds'] / 60:.1f}; an epoch of training "
        f"in PyTorch {np.mean(epochs):.0f} s"
    )


if __name__ == "__main__":
    main()
