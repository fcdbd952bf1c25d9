"""Checkpoints of every format, and what is wrong with them; PyTorch's are in `test_torch_files`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import flax.linen as nn
import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
import safetensors.numpy

from mdtree_jax import UserError
from mdtree_jax.subject.adapted import subject_of
from mdtree_jax.subject.checkpoints import FORMATS, load_checkpoint
from mdtree_jax.subject.frameworks.base import named_leaves

X = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = nn.BatchNorm(use_running_average=not train)(nn.Dense(5)(x))
        return nn.Dense(3)(nn.relu(x))


def network(seed):
    return Net().init(jax.random.key(seed), X)


def outputs(path, **options):
    subject = subject_of(Net(), [path], X, **options)
    return np.asarray(subject.model.apply(subject.variables[0], X, False)[0]), subject.notes


def assert_is(path, seed, **options):
    found, notes = outputs(path, **options)
    np.testing.assert_allclose(found, Net().apply(network(seed), X), rtol=1e-6)
    return notes


def flat(tree):
    return {name: np.asarray(leaf) for name, leaf in named_leaves(tree).items()}


def test_numpy_msgpack_and_safetensors(tmp_path):
    np.savez(tmp_path / "a.npz", **flat(network(0)))
    np.savez(tmp_path / "dots.npz", **{name.replace("/", "."): leaf for name, leaf in flat(network(1)).items()})
    (tmp_path / "a.msgpack").write_bytes(flax.serialization.to_bytes(network(0)))
    safetensors.numpy.save_file(flat(network(0)), tmp_path / "a.safetensors")
    for name in ("a.npz", "a.msgpack", "a.safetensors"):
        assert assert_is(tmp_path / name, 0) == ()
    assert_is(tmp_path / "dots.npz", 1)


def test_safetensors_in_parts_and_in_half_precision(tmp_path):
    arrays = flat(network(0))
    names = sorted(arrays)
    parts = {"part1.safetensors": names[:3], "part2.safetensors": names[3:]}
    for file, there in parts.items():
        safetensors.numpy.save_file({name: arrays[name] for name in there}, tmp_path / file)
    index = {"metadata": {}, "weight_map": {name: file for file, there in parts.items() for name in there}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert_is(tmp_path / "model.safetensors.index.json", 0)
    assert_is(tmp_path, 0)
    half = {name: leaf.astype(jnp.bfloat16) for name, leaf in arrays.items()}
    safetensors.numpy.save_file(half, tmp_path / "half.safetensors")
    found, notes = outputs(tmp_path / "half.safetensors")
    assert notes == ("the weights are of bfloat16 and are measured in float32",)
    np.testing.assert_allclose(found, Net().apply(network(0), X), atol=0.05)
    (tmp_path / "part2.safetensors").unlink()
    with pytest.raises(UserError, match=r"part2.safetensors' does not exist, which the index .* names"):
        load_checkpoint(tmp_path / "model.safetensors.index.json")


def test_training_states_of_orbax_by_step(tmp_path):
    with ocp.CheckpointManager(tmp_path / "manager") as manager:
        for step in (1, 3, 20):
            state = {"step": step, "opt_state": [jnp.ones(3)], **network(step), "ema_params": network(9)["params"]}
            manager.save(step, args=ocp.args.StandardSave(state))
        manager.wait_until_finished()
    notes = assert_is(tmp_path / "manager", 20)
    assert any("'ema_params'" in note and "weights=ema" in note for note in notes)
    assert_is(tmp_path / "manager", 3, step=3)
    assert_is(tmp_path / "manager" / "1", 1)
    found, notes = outputs(tmp_path / "manager", weights="ema")
    expected = Net().apply({"params": network(9)["params"], "batch_stats": network(20)["batch_stats"]}, X)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert any("under 'ema_params'" in note for note in notes)
    with pytest.raises(UserError, match=r"has no step 7; available: 1, 3, 20"):
        load_checkpoint(tmp_path / "manager", step=7)
    with pytest.raises(UserError, match=r"step=7 is given, but .* has no folders of steps"):
        load_checkpoint(tmp_path / "manager" / "1", step=7)
    with pytest.raises(UserError, match=r"weights=teacher: .* has no such weights"):
        load_checkpoint(tmp_path / "manager", weights="teacher")


WRITER = """
import jax, numpy as np, orbax.checkpoint as ocp, sys
from jax.sharding import NamedSharding, PartitionSpec
from pathlib import Path
mesh = jax.make_mesh((8,), ("data",))
arrays = dict(np.load(sys.argv[1]))
put = lambda a, axes: jax.device_put(a, NamedSharding(mesh, PartitionSpec(*axes)))
tree = {name: put(a, ("data",) if a.shape[:1] == (16,) else ()) for name, a in arrays.items()}
ocp.PyTreeCheckpointer().save(Path(sys.argv[2]).absolute(), tree)
"""


def test_checkpoints_that_were_sharded_over_devices_that_are_not_here(tmp_path):
    wide = nn.Dense(3).init(jax.random.key(0), jnp.ones((2, 16)))["params"]
    np.savez(tmp_path / "arrays.npz", **wide)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "XLA_"))}
    environment["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
    command = [sys.executable, "-c", WRITER, str(tmp_path / "arrays.npz"), str(tmp_path / "sharded")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    file = tmp_path / "sharded" / "_sharding"
    named = json.loads(file.read_text())
    assert all('"id": 7' in text for text in named.values())
    # No device here has such a number.
    file.write_text(json.dumps({name: text.replace('"id": ', '"id": 51') for name, text in named.items()}))
    for _ in range(2):
        found = load_checkpoint(tmp_path / "sharded").network
        jax.tree.map(np.testing.assert_array_equal, found, jax.tree.map(np.asarray, dict(wide)))
        file.unlink(missing_ok=True)


def test_equinox_modules_with_and_without_a_first_line(tmp_path):
    eqx = pytest.importorskip("equinox", reason="needs Equinox: pip install 'mdtree-jax[equinox]'")
    model, other, wider = (eqx.nn.MLP(4, 3, width, 1, key=jax.random.key(s)) for s, width in ((0, 5), (1, 5), (2, 6)))
    eqx.tree_serialise_leaves(tmp_path / "a.eqx", model)
    with (tmp_path / "b.eqx").open("wb") as file:
        file.write(b'{"width": 5}\n')
        eqx.tree_serialise_leaves(file, model)
    for name in ("a.eqx", "b.eqx"):
        subject = subject_of(other, [tmp_path / name], X)
        found = subject.model.apply(subject.variables[0], X, False)[0]
        np.testing.assert_allclose(found, jax.vmap(model)(X), rtol=1e-6)
    with pytest.raises(UserError, match=r"a.eqx' is not of this Equinox module, or damaged"):
        subject_of(wider, [tmp_path / "a.eqx"], X)
    with pytest.raises(UserError, match="in the order of an Equinox module, so model= must be one, not a Net"):
        subject_of(Net(), [tmp_path / "a.eqx"], X)


def test_what_a_file_holds_is_not_executed(tmp_path):
    ran = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return (open, (str(ran), "w"))

    np.savez(tmp_path / "evil.npz", weights=np.array([Evil()], dtype=object))
    np.save(tmp_path / "evil.npy", np.array([Evil()], dtype=object))
    (tmp_path / "evil.npy").rename(tmp_path / "evil.eqx")
    with pytest.raises(UserError, match=r"damaged or no .npz archive of plain arrays"):
        load_checkpoint(tmp_path / "evil.npz")
    eqx = sys.modules.get("equinox")
    if eqx is not None:
        with pytest.raises(UserError, match="is not of this Equinox module, or damaged"):
            load_checkpoint(tmp_path / "evil.eqx", eqx.nn.Linear(1, 1, key=jax.random.key(0)))
    assert not ran.exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.npz", "damaged or no .npz archive"),
        ("a.msgpack", "damaged or not of Flax's msgpack format"),
        ("a.safetensors", "damaged or not a safetensors file"),
        ("a.xyz", r"of an unknown format; known are \.safetensors, .*\.npz, .* and folders of Orbax"),
        ("absent.npz", "does not exist"),
    ],
)
def test_files_that_are_no_checkpoints_are_one_sentence(name, message, tmp_path):
    if not name.startswith("absent"):
        (tmp_path / name).write_bytes(b"\x93nothing of the kind")
    with pytest.raises(UserError, match=message) as error:
        load_checkpoint(tmp_path / name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("cut", [0.3, 0.9])
def test_files_that_were_cut_are_one_sentence(cut, tmp_path):
    np.savez(tmp_path / "a.npz", **flat(network(0)))
    (tmp_path / "a.msgpack").write_bytes(flax.serialization.to_bytes(network(0)))
    safetensors.numpy.save_file(flat(network(0)), tmp_path / "a.safetensors")
    for path in sorted(Path(tmp_path).iterdir()):
        content = path.read_bytes()
        path.write_bytes(content[: int(cut * len(content))])
        with pytest.raises(UserError, match="damaged"):
            load_checkpoint(path)


def test_another_architecture_is_named(tmp_path):
    np.savez(tmp_path / "a.npz", **flat(nn.Dense(3).init(jax.random.key(0), X)))
    message = (
        r"'.*a.npz' is not of this model: it lacks batch_stats/BatchNorm_0/mean \(5,\).* and holds params/bias \(3,\)"
    )
    with pytest.raises(UserError, match=message):
        outputs(tmp_path / "a.npz")
    assert len({one.name for one in FORMATS}) == len(FORMATS)
