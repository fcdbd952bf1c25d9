"""Runs whose time goes to the disk, without the disk."""

import pickle
import shutil
import types

import pytest

from mdtree_jax import files


@pytest.fixture
def pickled(monkeypatch):
    """Have checkpoints pickled, and no file wait for the disk, because both take most of the time."""
    from mdtree_jax.store import checkpoint

    def write(path, tree, about):
        aside = path.with_name(f"{path.name}.orbax-checkpoint-tmp-1")
        for folder in (aside, path):
            shutil.rmtree(folder, ignore_errors=True)
        aside.mkdir(parents=True)
        (aside / "orbax.checkpoint").write_bytes(pickle.dumps((tree, about)))
        files.os.replace(aside, path)

    def read_metadata(path):
        tree, about = pickle.loads((path / "orbax.checkpoint").read_bytes())
        return types.SimpleNamespace(metadata=tree, custom_metadata=about)

    monkeypatch.setattr(files.os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(checkpoint, "_write", write)
    monkeypatch.setattr(checkpoint, "_read_metadata", read_metadata)
    monkeypatch.setattr(checkpoint, "_read", lambda path, tree: tree)
