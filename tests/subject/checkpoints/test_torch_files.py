"""PyTorch's checkpoints as training code writes them, read into a module: outputs against the module's own."""

import argparse
import copy
import importlib.util
import json
import os

import numpy as np
import pytest

from mdtree_jax import UserError
from mdtree_jax.subject.adapted import subject_of
from mdtree_jax.subject.checkpoints import load_checkpoint

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'mdtree-jax[torch]'")
if importlib.util.find_spec("torchax") is None:  # it cannot be imported without what the adapter does
    pytest.skip("needs torchax: pip install 'mdtree-jax[torch]'", allow_module_level=True)
pytestmark = pytest.mark.frameworks

X = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)


def build(width=5):
    return torch.nn.Sequential(
        torch.nn.Linear(4, width), torch.nn.BatchNorm1d(width), torch.nn.ReLU(), torch.nn.Linear(width, 3)
    )


def trained(seed):
    """A module after a step, its running averages moved, and the optimizer."""
    torch.manual_seed(seed)
    module = build()
    optimizer = torch.optim.AdamW(module.parameters())
    module(torch.as_tensor(X) + seed).square().mean().backward()
    optimizer.step()
    return module.eval(), optimizer


MODULE, OPTIMIZER = trained(0)
AVERAGED, _ = trained(1)


def prefixed(prefix, module=MODULE):
    return {f"{prefix}{name}": tensor for name, tensor in module.state_dict().items()}


def lightning(prefix):
    """What Lightning's trainer writes: the module is an attribute of the LightningModule."""
    return {
        "epoch": 9,
        "global_step": 100,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": prefixed(prefix) | {"loss.weight": torch.ones(3), "train_acc.total": torch.zeros(())},
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 10}}}},
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_score": torch.ones(()), "best_k_models": {}}},
        "optimizer_states": [OPTIMIZER.state_dict()],
        "lr_schedulers": [],
        "hyper_parameters": {"width": 5, "lr": 1e-3},
        "hparams_name": "kwargs",
    }


def training_state(**parts):
    return {"epoch": 3, "arch": "mlp", "best_acc1": torch.ones(()), "optimizer": OPTIMIZER.state_dict(), **parts}


def assert_is(path, module=MODULE, **options):
    subject = subject_of(build(), [path], X, **options)
    with torch.no_grad():
        expected = module(torch.as_tensor(X))
    found = subject.model.apply(subject.variables[0], X, False)[0]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    return subject.notes


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("a.pt", MODULE.state_dict(), []),
        ("pytorch_model.bin", MODULE.state_dict(), []),
        ("a.pth", training_state(state_dict=prefixed("")), []),
        ("checkpoint.pth.tar", training_state(state_dict=prefixed("module.")), ["without module."]),
        ("compiled.pt", training_state(model=prefixed("_orig_mod.module.")), ["without _orig_mod. and module."]),
        ("last.ckpt", lightning("model."), ["without model.", "not used of the checkpoint: loss/weight"]),
        ("epoch=9-step=100.ckpt", lightning("net."), ["without net.", "not used of the checkpoint: loss/weight"]),
    ],
)
def test_a_checkpoint_is_the_network_that_was_saved(file, content, said, tmp_path):
    torch.save(content, tmp_path / file)
    notes = assert_is(tmp_path / file)
    assert len(notes) == len(said)
    assert all(words in note for words, note in zip(said, notes, strict=True))


@pytest.mark.parametrize(
    "content",
    [
        training_state(state_dict=prefixed(""), state_dict_ema=prefixed("", AVERAGED)),  # timm
        training_state(model=prefixed("module."), model_ema=prefixed("module.", AVERAGED)),  # torchvision
        training_state(model=prefixed(""), ema={"module": prefixed("", AVERAGED), "decay": 0.999, "updates": 7}),
        {"model": prefixed(""), "ema": torch.optim.swa_utils.AveragedModel(AVERAGED).state_dict()},
    ],
)
def test_averaged_weights(content, tmp_path):
    torch.save(content, tmp_path / "a.pth.tar")
    notes = assert_is(tmp_path / "a.pth.tar")
    assert any("averaged weights" in note and "weights=ema chooses" in note for note in notes)
    notes = assert_is(tmp_path / "a.pth.tar", AVERAGED, weights="ema")
    assert any("the weights are those under" in note for note in notes)


def test_averaged_weights_of_lightning_are_the_state_dict(tmp_path):
    """Its callback of averaging puts them there, and the ones of the last step beside them."""
    content = lightning("model.") | {"current_model_state": prefixed("model.", AVERAGED)}
    torch.save(content, tmp_path / "a.ckpt")
    assert_is(tmp_path / "a.ckpt")
    assert_is(tmp_path / "a.ckpt", AVERAGED, weights="current_model_state")


def test_half_precision_is_measured_in_float32_and_said(tmp_path):
    half = copy.deepcopy(MODULE).bfloat16()
    torch.save({"state_dict": half.state_dict()}, tmp_path / "a.pth")
    assert assert_is(tmp_path / "a.pth", half.float()) == ("the weights are of bfloat16 and are measured in float32",)


def test_files_in_parts(tmp_path):
    state = MODULE.state_dict()
    names = list(state)
    parts = {"pytorch_model-1.bin": names[:4], "pytorch_model-2.bin": names[4:]}
    for file, there in parts.items():
        torch.save({name: state[name] for name in there}, tmp_path / file)
    index = {"weight_map": {name: file for file, there in parts.items() for name in there}}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    assert_is(tmp_path / "pytorch_model.bin.index.json")


def test_another_architecture_is_named_with_both_shapes(tmp_path):
    torch.save({"state_dict": build(6).state_dict()}, tmp_path / "wide.ckpt")
    with pytest.raises(UserError, match=r"wide.ckpt' is not of this model: '0/weight' has shape \(6, 4\) instead of"):
        subject_of(build(), [tmp_path / "wide.ckpt"], X)
    renamed = {name.replace("3.bias", "3.biass"): tensor for name, tensor in MODULE.state_dict().items()}
    torch.save(renamed, tmp_path / "renamed.pt")
    message = r"it lacks 3/bias \(3,\) \(did you mean '3/biass'\?\) and holds 3/biass \(3,\)"
    with pytest.raises(UserError, match=message):
        subject_of(build(), [tmp_path / "renamed.pt"], X)


def test_code_in_a_file_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "ran"),))

    for content in ({"state_dict": MODULE.state_dict(), "hook": Evil()}, {"args": argparse.Namespace(lr=1)}):
        torch.save(content, tmp_path / "a.ckpt")
        with pytest.raises(UserError, match="damaged or hold more than tensors, which is not read") as error:
            load_checkpoint(tmp_path / "a.ckpt")
        assert "\n" not in str(error.value)
    assert not (tmp_path / "ran").exists()
    torch.save(MODULE.state_dict(), tmp_path / "cut.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "cut.pth").read_bytes()[:800])
    with pytest.raises(UserError, match="damaged"):
        load_checkpoint(tmp_path / "cut.pth")
