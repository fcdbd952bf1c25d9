"""Data as people have them become the same arrays, whatever their form."""

import numpy as np
import pytest

from mdtree_jax import UserError
from mdtree_jax.subject import data as data_module
from mdtree_jax.subject.data import read_side
from mdtree_jax.subject.held_out import examples_of

RNG = np.random.default_rng(0)
X = RNG.standard_normal((40, 3, 2)).astype(np.float32)
Y = RNG.integers(0, 4, 40)


class ByIndex:
    """A data set as PyTorch has them, without PyTorch."""

    def __len__(self):
        return len(Y)

    def __getitem__(self, index):
        return X[index], int(Y[index])


def batches():
    for start in range(0, 40, 16):
        yield {"inputs": X[start : start + 16], "label": Y[start : start + 16]}


def load():
    return {"train": (X, Y), "valid": (X[:10], Y[:10]), "test": (X[10:30], Y[10:30])}


def assert_read(data, side="train", x=X, y=Y):
    found = read_side(data, "train", side)
    np.testing.assert_array_equal(found.x, x)
    np.testing.assert_array_equal(found.y, y)
    return found


def test_every_form_gives_the_same_arrays(tmp_path):
    np.savez(tmp_path / "a.npz", x=X, y=Y)
    np.savez(tmp_path / "b.npz", x_train=X, y_train=Y, x_test=X[:5], y_test=Y[:5])
    folder = tmp_path / "arrays"
    folder.mkdir()
    np.save(folder / "x.npy", X)
    np.save(folder / "y.npy", Y)
    forms = [
        (X, Y), {"x": X, "y": Y}, {"images": X, "label": Y}, tmp_path / "a.npz", str(tmp_path / "b.npz"), folder,
        ByIndex(), batches(), list(batches()), "tests.subject.test_data:load",
    ]  # fmt: skip
    for form in forms:
        assert assert_read(form).note == ""
    assert_read(tmp_path / "b.npz", "test", X[:5], Y[:5])
    assert isinstance(read_side(folder, "train").x, np.memmap)


def test_inputs_that_are_trees(tmp_path):
    tree = {"ids": RNG.integers(0, 9, (40, 5)), "mask": np.ones((40, 5), bool)}
    columns = read_side({**tree, "labels": Y}, "train")
    assert set(columns.x) == {"ids", "mask"}
    for name in tree:
        np.save(tmp_path / f"x_{name}.npy", tree[name])
    np.save(tmp_path / "y.npy", Y)
    from_files = read_side(tmp_path, "train")
    items = [({name: array[i] for name, array in tree.items()}, Y[i]) for i in range(40)]

    class Items:
        __len__ = lambda self: 40  # noqa: E731
        __getitem__ = lambda self, index: items[index]  # noqa: E731

    for found in (columns, from_files, read_side(Items(), "train")):
        for name in tree:
            np.testing.assert_array_equal(found.x[name], tree[name])
    two = read_side((tuple(tree.values()), Y), "train")
    assert isinstance(two.x, tuple)
    made, _ = examples_of((tree, Y))
    assert {name: array.dtype for name, array in made.x_train.items()} == {"ids": np.int32, "mask": np.int32}


def test_what_does_not_fit_is_sampled_with_a_fixed_seed_and_said(monkeypatch, tmp_path):
    monkeypatch.setattr(data_module, "MOST_BYTES", 10 * (X[0].nbytes + 8))
    first, second = read_side(ByIndex(), "train"), read_side(ByIndex(), "train")
    assert first.note == "train: a random sample of 10 of 40 examples was read"
    np.testing.assert_array_equal(first.x, second.x)
    rows = [int(np.flatnonzero((one == X).all((1, 2)))[0]) for one in first.x]
    assert len(set(rows)) == 10
    assert rows != list(range(10))
    np.testing.assert_array_equal(Y[rows], first.y)
    stream = read_side(batches(), "train")
    assert stream.note == "train: the first 1 batches were read, as many as fit"


def test_held_out_data_have_their_roles():
    both, facts = examples_of((X, Y), validation=(X[:10], Y[:10]), test=(X[10:30], Y[10:30]))
    np.testing.assert_array_equal(both.x_validation, X[:10])
    np.testing.assert_array_equal(both.y_test, Y[10:30])
    assert facts == []
    whole, _ = examples_of("tests.subject.test_data:load")
    np.testing.assert_array_equal(whole.x_validation, X[:10])
    for name in ("validation", "test"):
        one, facts = examples_of((X, Y), **{name: (X[:11], Y[:11])})
        assert [fact.to_dict() for fact in facts] == [{"kind": "halved", "side": name}]
        halves = np.concatenate([one.x_validation, one.x_test])
        assert sorted(halves[:, 0, 0]) == sorted(X[:11, 0, 0])
        assert abs(len(one.y_validation) - len(one.y_test)) == 1
    none, facts = examples_of((X, Y))
    assert [fact.kind for fact in facts] == ["no_held_out"]
    assert len(none.y_validation) == len(none.y_test) == 0
    old, facts = examples_of(X, Y, x_test=X[:7], y_test=Y[:7])
    assert (len(old.y_test), facts) == (7, [])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (3, r"train is a int; expected \(x, y\), an .npz file"),
        ({"x": X}, "train has no targets: none of its parts x is named y or label"),
        ({"y": Y}, "train has only 'y', and no inputs"),
        ((X, Y[:5]), "train has arrays of different lengths, 40, 5; expected as many rows"),
        ((X[:0], Y[:0]), "train is empty"),
        (iter(()), "train is empty"),
        (iter([X]), r"a batch of train is a ndarray; expected \(x, y\)"),
        ("nowhere.npz", "train: 'nowhere.npz' does not exist"),
        ("tests.subject.test_data:lod", "has no function 'lod'"),
        ([(X[:2], Y[:2]), (X[:2, :1], Y[:2])], r"examples of different shapes, such as \(2, 3, 2\), \(2, 1, 2\)"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_one_sentence(given, message):
    with pytest.raises(UserError, match=message) as error:
        read_side(given, "train")
    assert "\n" not in str(error.value)


def test_files_that_are_damaged(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"a.npz' is damaged or no .npz archive"):
        read_side(tmp_path / "a.npz", "train")
    (tmp_path / "a.npz").rename(tmp_path / "y.npy")
    with pytest.raises(UserError, match="is damaged or holds objects"):
        read_side(tmp_path, "train")
    (tmp_path / "y.npy").unlink()
    with pytest.raises(UserError, match=r"holds neither .npy files nor a folder of images"):
        read_side(tmp_path, "train")


@pytest.mark.frameworks
def test_a_folder_of_images_by_class(tmp_path):
    image = pytest.importorskip("PIL.Image", reason="needs Pillow")
    pixels = RNG.integers(0, 256, (6, 4, 5, 3)).astype(np.uint8)
    for index, one in enumerate(pixels):
        folder = tmp_path / ("cat", "dog")[index % 2]
        folder.mkdir(exist_ok=True)
        image.fromarray(one).save(folder / f"{index}.png")
    found = read_side(tmp_path, "train")
    np.testing.assert_allclose(found.x, pixels[[0, 2, 4, 1, 3, 5]] / 255, rtol=1e-6)
    assert found.y.tolist() == [0, 0, 0, 1, 1, 1]


@pytest.mark.frameworks
def test_pytorch_loaders_and_hugging_face_data_sets():
    torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'mdtree-jax[torch]'")
    inner = torch.utils.data.TensorDataset(torch.as_tensor(X), torch.as_tensor(Y))
    assert_read(inner)
    assert_read(torch.utils.data.DataLoader(inner, batch_size=16, shuffle=True))
    datasets = pytest.importorskip("datasets", reason="needs Hugging Face datasets: pip install 'mdtree-jax[hf]'")
    rows = datasets.Dataset.from_dict({"input_ids": [[1, 2], [3, 4]], "label": [0, 1], "text": ["a", "b"]})
    found = read_side(rows, "train")
    np.testing.assert_array_equal(found.x["input_ids"], [[1, 2], [3, 4]])
    assert found.y.tolist() == [0, 1]
