"""The kinds of files that a user has: how a small one is made, and what reads it."""

import gzip
import importlib.util
import io
import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

_AXES = pd.MultiIndex.from_product([[4, 8, 16, 32], [16, 32, 64, 128], [0.25, 0.5, 1.0]])
METRICS = {
    "train_error": 20.0,
    "test_error": 30.0,
    "log_hessian_trace": 6.0,
    "mode_connectivity_peak": -3.0,
    "cka": 0.8,
}


class Kind(NamedTuple):
    """A kind of file.

    Attributes:
        name: as the closing table calls it.
        file: its name within the folder.
        make: `make() -> bytes` of a small whole one.
        read: `read(path)` reads and uses it, as a command does.
        needs: the package without which it cannot be read, '' for none.
    """

    name: str
    file: str
    make: Callable[[], bytes]
    read: Callable[[Path], object]
    needs: str = ""

    @property
    def is_here(self) -> bool:
        return not self.needs or importlib.util.find_spec(self.needs) is not None


def collection() -> pd.DataFrame:
    """Return a complete grid of 48 configurations with every metric of a diagnosis, from a seed."""
    rng = np.random.default_rng(7)
    frame = _AXES.to_frame(index=False, name=["width", "batch_size", "data_fraction"])
    n = len(frame)
    frame["num_samples"] = (1000 * frame["data_fraction"]).astype(int)
    frame["test_error"] = (60 - 4 * np.log2(frame.width) - 15 * frame.data_fraction + 4 * rng.random(n)).round(4)
    frame["train_error"] = (20 * rng.random(n) / np.log2(frame.width)).round(4)
    frame["train_loss"] = (frame.train_error / 20 + 0.01).round(4)
    frame["mode_connectivity"] = frame["mode_connectivity_peak"] = (-20 * rng.random(n)).round(4)
    frame["log_hessian_trace"] = (4 + 5 * rng.random(n)).round(4)
    frame["log_hessian_max_eigenvalue"] = (frame.log_hessian_trace - 1).round(4)
    frame["cka"] = rng.random(n).round(4)
    return frame


def _written(write: Callable[[Path], object], name: str = "file") -> bytes:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / name)
        return (Path(folder) / name).read_bytes()


def _csv() -> bytes:
    return collection().to_csv(index=False).encode()


def _metrics() -> bytes:
    return pd.DataFrame([{"name": "café", **METRICS}, {"name": "b, c", **METRICS}]).to_csv(index=False).encode()


def _parquet() -> bytes:
    return _written(lambda path: collection().to_parquet(path, index=False))


def _reference() -> bytes:
    from mdtree_jax import fit_reference

    return _written(fit_reference(collection()).save)


def _tree() -> bytes:
    from mdtree_jax import MDTreeClassifier

    frame = collection()
    return _written(MDTreeClassifier("size").fit(frame, np.where(frame.width > 8, "temperature", "size")).save)


def _structure() -> bytes:
    from mdtree_jax.trees.members import MEMBERS

    return json.dumps(MEMBERS["size"][0].to_dict()).encode()


def _history() -> bytes:
    rows = [{"epoch": i, "train_loss": 1 / i, "val_acc": 50 + i, "lr": 0.1} for i in range(1, 6)]
    return "\n".join(map(json.dumps, rows)).encode()


def _history_csv() -> bytes:
    return b"epoch,train_loss,val_acc\n" + b"".join(b"%d,%.3f,%d\n" % (i, 1 / i, 50 + i) for i in range(1, 6))


def _arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {"x_train": rng.random((4, 3, 3), np.float32), "y_train": np.array([0, 1, 1, 0]),
            "x_test": rng.random((2, 3, 3), np.float32), "y_test": np.array([1, 0])}  # fmt: skip


def _npz(arrays=None) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, **(_arrays() if arrays is None else arrays))
    return stream.getvalue()


def _weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {"layer.weight": rng.random((4, 3), np.float32), "layer.bias": rng.random(4, np.float32)}


def _idx() -> bytes:
    return b"\x00\x00\x08\x03" + struct.pack(">3I", 2, 4, 4) + bytes(range(32))


def _batch() -> bytes:
    from tests.data.test_data import cifar_batch, python2_pickle

    return python2_pickle(cifar_batch(np.random.default_rng(0), 1, label_key=b"fine_labels", num_classes=100))


def _modern_batch() -> bytes:
    from tests.data.test_data import cifar_batch

    return pickle.dumps(cifar_batch(np.random.default_rng(0), 1, label_key=b"fine_labels", num_classes=100), 4)


def _safetensors() -> bytes:
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, array in _weights().items():
        offsets = [len(data), len(data) + array.nbytes]
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": offsets}
        data += array.tobytes()
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def _msgpack() -> bytes:
    from flax import serialization

    return serialization.msgpack_serialize({"params": {"dense": _weights()}, "step": 3})


def _torch() -> bytes:
    import torch

    return _written(lambda path: torch.save({k: torch.tensor(v) for k, v in _weights().items()}, path))


def _keras_model():
    import keras

    return keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(4)])


def _keras() -> bytes:
    return _written(lambda path: _keras_model().save_weights(path), "a.weights.h5")


def _equinox_model():
    import equinox
    import jax

    return equinox.nn.Linear(3, 4, key=jax.random.key(0))


def _equinox() -> bytes:
    import equinox

    return _written(lambda path: equinox.tree_serialise_leaves(path, _equinox_model()), "a.eqx")


def _read_collection(path: Path) -> object:
    from mdtree_jax import load_collection

    return load_collection(path, allow_missing=True)


def _read_metrics(path: Path) -> object:
    from mdtree_jax.collection.load import read_table
    from mdtree_jax.diagnosis.metrics_table import read_metrics, unused_columns
    from mdtree_jax.diagnosis.table_outlook import table_outlooks

    table = read_table(path, "table of metrics")
    unused_columns(table)
    return table_outlooks(read_metrics(table, "percent"))


def _read_reference(path: Path) -> object:
    from mdtree_jax import diagnose_metrics
    from mdtree_jax.diagnosis.reference import Reference

    return [str(diagnosis) for diagnosis in diagnose_metrics(METRICS, Reference.load(path))]


def _read_tree(path: Path) -> object:
    from mdtree_jax import MDTreeClassifier

    tree = MDTreeClassifier.load(path)
    return tree.predict_proba(collection()), tree.export_text()


def _read_structure(path: Path) -> object:
    from mdtree_jax.trees.structure import Structure

    return Structure.from_yaml(path)


def _read_history(path: Path) -> object:
    from mdtree_jax.collection.history import read_history

    return read_history(path)


def _read_data(path: Path) -> object:
    from mdtree_jax.data.dataset import load_dataset

    return load_dataset("npz", data_file=str(path))


def _read_idx(path: Path) -> object:
    from mdtree_jax.data.idx import read_idx

    return read_idx(path, 3)


def _read_batch(path: Path) -> object:
    from mdtree_jax.data.cifar import load_cifar100
    from mdtree_jax.data.source import Source

    if not path.with_name("test").exists():
        path.with_name("test").write_bytes(_batch())
    return load_cifar100(Source("cifar100", str(path.parent)))


def _read_checkpoint(path: Path, model: object = None) -> object:
    from mdtree_jax.subject.checkpoints import load_checkpoint

    return load_checkpoint(path, model)


KINDS = (
    Kind("collection.csv", "collection.csv", _csv, _read_collection),
    Kind("collection.parquet", "collection.parquet", _parquet, _read_collection),
    Kind("metrics.csv", "metrics.csv", _metrics, _read_metrics),
    Kind("metrics.parquet", "metrics.parquet", _parquet, _read_metrics),
    Kind("reference", "reference.json", _reference, _read_reference),
    Kind("tree", "tree.json", _tree, _read_tree),
    Kind("tree structure", "structure.yaml", _structure, _read_structure),
    Kind("history.jsonl", "history.jsonl", _history, _read_history),
    Kind("history.csv", "history.csv", _history_csv, _read_history),
    Kind("data.npz", "data.npz", _npz, _read_data),
    Kind("idx", "images-idx3-ubyte", _idx, _read_idx),
    Kind("idx.gz", "images-idx3-ubyte.gz", lambda: gzip.compress(_idx()), _read_idx),
    Kind("pickle", "train", _batch, _read_batch),
    Kind("pickle of protocol 4", "train", _modern_batch, _read_batch),
    Kind("safetensors", "a.safetensors", _safetensors, _read_checkpoint),
    Kind("weights.npz", "a.npz", lambda: _npz(_weights()), _read_checkpoint),
    Kind("msgpack", "a.msgpack", _msgpack, _read_checkpoint),
    Kind("pt", "a.pt", _torch, _read_checkpoint, "torch"),
    Kind("Keras", "a.weights.h5", _keras, lambda path: _read_checkpoint(path, _keras_model()), "keras"),
    Kind("Equinox", "a.eqx", _equinox, lambda path: _read_checkpoint(path, _equinox_model()), "equinox"),
)
