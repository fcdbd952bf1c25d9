"""PyTorch's weights in our networks: against a forward pass of PyTorch's conventions in NumPy, and against PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from scipy.signal import correlate2d

from mdtree_jax.checks import UserError
from mdtree_jax.models import build_model, from_torch, load_torch_file
from tests.torch_resnet import BLOCKS, make_torch_resnet


def random_state_dict(name, width, num_classes=7, channels=3, seed=0):
    """A state dict as PyTorch lays it out, every number random, written down independently of the conversion."""
    rng = np.random.default_rng(seed)
    weights = {}

    def conv(key, outputs, inputs, size):
        weights[f"{key}.weight"] = rng.normal(size=(outputs, inputs, size, size)) / np.sqrt(inputs * size**2)

    def norm(key, size):
        weights[f"{key}.weight"] = 1 + 0.3 * rng.normal(size=size)
        weights[f"{key}.bias"] = 0.3 * rng.normal(size=size)
        weights[f"{key}.running_mean"] = 0.3 * rng.normal(size=size)
        weights[f"{key}.running_var"] = rng.uniform(0.5, 2, size)
        weights[f"{key}.num_batches_tracked"] = np.array(3)

    conv("conv1", width, channels, 3)
    norm("bn1", width)
    inputs = width
    for stage, count in enumerate(BLOCKS[name]):
        outputs = width * 2**stage
        for index in range(count):
            block = f"layer{stage + 1}.{index}"
            conv(f"{block}.conv1", outputs, inputs, 3)
            norm(f"{block}.bn1", outputs)
            conv(f"{block}.conv2", outputs, outputs, 3)
            norm(f"{block}.bn2", outputs)
            if inputs != outputs:
                conv(f"{block}.shortcut.0", outputs, inputs, 1)
                norm(f"{block}.shortcut.1", outputs)
            inputs = outputs
    weights["linear.weight"] = rng.normal(size=(num_classes, inputs)) / np.sqrt(inputs)
    weights["linear.bias"] = rng.normal(size=num_classes)
    return weights


def numpy_forward(name, weights, images, train):
    """Logits by PyTorch's conventions: NCHW, padding 1, output pixel 0 of a stride over input pixel 0."""

    def conv(key, x, stride=1):
        kernel = weights[f"{key}.weight"]
        out = [[sum(correlate2d(c, k, "same") for c, k in zip(x_i, k_o, strict=True)) for k_o in kernel] for x_i in x]
        return np.array(out)[:, :, ::stride, ::stride]

    def norm(key, x):
        mean, var = weights[f"{key}.running_mean"], weights[f"{key}.running_var"]
        if train:
            mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3))
        scale = weights[f"{key}.weight"] / np.sqrt(var + 1e-5)
        return (x - mean[:, None, None]) * scale[:, None, None] + weights[f"{key}.bias"][:, None, None]

    x = np.maximum(norm("bn1", conv("conv1", images)), 0)
    for stage, count in enumerate(BLOCKS[name]):
        for index in range(count):
            block, stride = f"layer{stage + 1}.{index}", 2 if stage > 0 and index == 0 else 1
            y = np.maximum(norm(f"{block}.bn1", conv(f"{block}.conv1", x, stride)), 0)
            y = norm(f"{block}.bn2", conv(f"{block}.conv2", y))
            if f"{block}.shortcut.0.weight" in weights:
                x = norm(f"{block}.shortcut.1", conv(f"{block}.shortcut.0", x, stride))
            x = np.maximum(x + y, 0)
    return x.mean((2, 3)) @ weights["linear.weight"].T + weights["linear.bias"]


@pytest.mark.parametrize(("name", "size"), [("resnet8", (7, 10)), ("resnet18", (9, 8))])
def test_logits_are_those_of_a_forward_pass_in_numpy(name, size):
    weights = random_state_dict(name, 2)
    images = np.random.default_rng(1).normal(size=(3, 3, *size))
    with jax.enable_x64(True):
        variables, width, num_classes = from_torch(name, weights, "float64")
        assert (width, num_classes) == (2, 7)
        model = build_model(name, width, num_classes, (*size, 3), "float64")
        start = jax.eval_shape(model.init, jax.random.key(0))
        assert jax.tree.structure(variables) == jax.tree.structure(start)
        assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(variables))
        for train in (False, True):
            expected = numpy_forward(name, weights, images, train)
            found = jax.jit(lambda v, x, m=model, t=train: m.apply(v, x, t)[0])(variables, images.transpose(0, 2, 3, 1))
            np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_spellings_and_wrappings_are_understood():
    weights = random_state_dict("resnet8", 3, channels=1)
    expected = from_torch("resnet8", weights)
    assert expected.width == 3
    assert expected.variables["params"]["stem"]["kernel"].dtype == np.float32
    renamed = {f"module.{k.replace('shortcut', 'downsample').replace('linear', 'fc')}": v for k, v in weights.items()}
    assert any("downsample.0" in key for key in renamed)
    for wrapped in (
        renamed,
        {"epoch": 3, "state_dict": renamed},
        {"net": weights, "acc": 91.2},
        {"model": {"model_state_dict": weights}},
        {f"_orig_mod.module.{k}": v for k, v in weights.items()},
    ):
        assert_same(from_torch("resnet8", wrapped), expected)


def test_safetensors_come_back(tmp_path):
    weights = {k: v.astype(np.float32) for k, v in random_state_dict("resnet8", 2).items()}
    safetensors.numpy.save_file(weights, tmp_path / "net.safetensors")
    loaded = load_torch_file(tmp_path / "net.safetensors")
    assert loaded.keys() == weights.keys()
    assert_same(from_torch("resnet8", loaded), from_torch("resnet8", weights))


def test_half_precision_is_read(tmp_path):
    weights = {k: v.astype(jnp.bfloat16) for k, v in random_state_dict("resnet8", 2).items()}
    safetensors.numpy.save_file(weights, tmp_path / "net.safetensors")
    variables, *_ = from_torch("resnet8", load_torch_file(tmp_path / "net.safetensors"))
    expected = weights["linear.bias"].astype(np.float32)
    np.testing.assert_array_equal(variables["params"]["head"]["bias"], expected)


def changed(**changes):
    weights = random_state_dict("resnet8", 2)
    for name, value in changes.items():
        key = name.replace("__", ".")
        weights[key] = value(weights[key])
    return weights


def with_value(value, dtype=float):
    def change(array):
        array = array.astype(dtype)
        array.flat[0] = value
        return array

    return change


WEIGHTS = random_state_dict("resnet8", 2)
MISTAKES = [
    ("mlp", WEIGHTS, r"unknown model for PyTorch weights 'mlp'; available: resnet18, resnet8"),
    (
        "resnet18",
        WEIGHTS,
        r"not the weights of a resnet18: they lack layer1.1.bn1.running_mean, .* and \d+ more; supported",
    ),
    ("resnet8", random_state_dict("resnet18", 2), r"resnet8: they also hold layer1.1.conv1.weight, .* more; supported"),
    ("resnet8", {"features.0.weight": np.ones((2, 3, 3, 3))}, r"\(features.0.weight\).*measured metrics can be given"),
    ("resnet8", {}, r"no network of the supported kind is in these weights \(nothing\)"),
    ("resnet8", [1, 2], "a state dict of names and arrays is needed, not a list"),
    ("resnet8", changed(conv1__weight=lambda a: a[:, :, :2]), r"conv1.weight \(2, 3, 2, 3\) instead of \(2, 3, 3, 3\)"),
    ("resnet8", changed(conv1__weight=lambda a: a[:1]), r"of resnet8 of width 1, .*: .*instead of .*, .* \.\.\."),
    ("resnet8", changed(linear__weight=lambda a: a[:, :5]), r"linear.weight \(7, 5\) instead of \(7, 8\)"),
    ("resnet8", changed(linear__bias=with_value(np.nan)), "linear.bias has 1 of 7 values that are not finite"),
    ("resnet8", changed(linear__bias=with_value(1e300)), "linear.bias has 1 of 7 values .* not finite in float32"),
    ("resnet8", changed(linear__bias=with_value(1, int)), "linear.bias holds numbers of type int64"),
    ("resnet8", changed(bn1__running_var=with_value(-1)), "bn1.running_var has a negative variance -1"),
    ("resnet8", WEIGHTS | {"fc.bias": WEIGHTS["linear.bias"]}, "linear.bias and fc.bias are two names of the same"),
]


@pytest.mark.parametrize(("name", "weights", "message"), MISTAKES, ids=range(len(MISTAKES)))
def test_mistakes_are_one_sentence(name, weights, message):
    with pytest.raises(UserError, match=message) as caught:
        from_torch(name, weights)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_files_that_are_none_are_one_sentence(tmp_path):
    for name, content, message in (
        ("net.safetensors", b"\x08\0\0\0\0\0\0\0{broken}", "damaged or not a safetensors file"),
        ("empty.safetensors", b"", "damaged or not a safetensors file"),
        ("net.npz", b"", r"unknown kind; give a \.safetensors, \.pt or \.pth file"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=message):
            load_torch_file(tmp_path / name)
    with pytest.raises(UserError, match="do not exist or are not a file"):
        load_torch_file(tmp_path / "absent.pt")


def test_without_pytorch_the_extra_and_the_alternative_are_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    (tmp_path / "net.pt").write_bytes(b"x")
    with pytest.raises(UserError, match=r"needs PyTorch: pip install 'mdtree-jax\[torch\]', or save .* safetensors"):
        load_torch_file(tmp_path / "net.pt")


def randomised(network, seed):
    """Give every number of a PyTorch network another value, running statistics too."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    for key, value in network.state_dict().items():
        if key.endswith("running_var"):
            value.uniform_(0.5, 2, generator=generator)
        elif value.is_floating_point():
            value.add_(0.3 * torch.randn(value.shape, generator=generator) * value.abs().mean().clamp(0.1))
    return network


@pytest.mark.slow
@pytest.mark.frameworks
@pytest.mark.parametrize(("name", "width"), [("resnet18", 2), ("resnet18", 4), ("resnet18", 16), ("resnet8", 4)])
def test_logits_are_pytorchs(name, width, tmp_path):
    torch = pytest.importorskip("torch", reason="needs PyTorch: pip install -e '.[benchmark]'")
    network = randomised(make_torch_resnet(name, width), seed=width)
    torch.save({"net": torch.nn.DataParallel(network).state_dict(), "epoch": 7}, tmp_path / "net.pth")
    variables, found_width, num_classes = from_torch(name, load_torch_file(tmp_path / "net.pth"))
    assert (found_width, num_classes) == (width, 10)
    images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    model = build_model(name, width, 10, (32, 32, 3))
    for train in (False, True):
        with torch.no_grad():
            expected = network.train(train)(images).numpy()
        found, *_ = model.apply(variables, images.permute(0, 2, 3, 1).numpy(), train)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    assert expected.std() > 0.1


@pytest.mark.slow
@pytest.mark.frameworks
def test_pytorch_files_that_are_no_weights(tmp_path):
    torch = pytest.importorskip("torch", reason="needs PyTorch: pip install -e '.[benchmark]'")
    ran = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return (open, (str(ran), "w"))

    torch.save({"state_dict": Evil()}, tmp_path / "evil.pt")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    whole = (tmp_path / "module.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.pt").write_text("weights")
    (tmp_path / "empty.pth").write_bytes(b"")
    for name in ("evil.pt", "module.pt", "cut.pt", "text.pt", "empty.pth"):
        with pytest.raises(UserError, match="damaged or hold more than tensors") as caught:
            load_torch_file(tmp_path / name)
        assert "\n" not in str(caught.value)
    assert not ran.exists()
    with pytest.raises(UserError, match="a state dict of names and arrays is needed, not a list"):
        load_torch_file(tmp_path / "list.pt")
