"""Data sets: the real formats on small files written here byte by byte, the embedded digits, and damaged input."""

import gzip
import hashlib
import io
import pickle
import struct
import tarfile

import numpy as np
import pytest

from mdtree_jax.checks import UserError
from mdtree_jax.data import dataset_shape, load_dataset, redraw_labels

CIFAR_MEAN = np.array([0.4914, 0.4822, 0.4465])
CIFAR_STD = np.array([0.2023, 0.1994, 0.2010])


def python2_pickle(entries):
    """Protocol-2 pickle as Python 2 wrote the official archives: `str` as byte strings, NumPy 1 module names."""

    def short(text):
        return b"U" + bytes([len(text)]) + text

    def number(n):
        return b"K" + bytes([n]) if n < 256 else b"J" + struct.pack("<i", n)

    def array(a):
        shape = b"".join(number(n) for n in a.shape) + (b"\x86" if a.ndim == 2 else b"\x85")
        raw = a.tobytes()
        dtype = b"cnumpy\ndtype\n" + short(b"u1") + b"K\x00K\x01\x87R"
        dtype += b"(K\x03" + short(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        head = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + short(b"b") + b"\x87R"
        return head + b"(K\x01" + shape + dtype + b"\x89T" + struct.pack("<i", len(raw)) + raw + b"tb"

    out = b"\x80\x02}("
    for key, value in entries.items():
        out += short(key)
        if isinstance(value, np.ndarray):
            out += array(value)
        elif isinstance(value, bytes):
            out += short(value)
        else:
            out += b"](" + b"".join(short(v) if isinstance(v, bytes) else number(v) for v in value) + b"e"
    return out + b"u."


def cifar_batch(rng, n=4, labels=None, label_key=b"labels", num_classes=10):
    labels = rng.integers(0, num_classes, n).tolist() if labels is None else labels
    entries = {b"batch_label": b"training batch 1 of 5", label_key: labels}
    entries[b"data"] = rng.integers(0, 256, (n, 3072), dtype=np.uint8)
    entries[b"filenames"] = [b"x.png"] * n
    return entries


def write_cifar10(folder, batches, name="cifar-10-python.tar.gz"):
    with tarfile.open(folder / name, "w:gz") as archive:
        for batch_name, content in batches.items():
            info = tarfile.TarInfo(f"cifar-10-batches-py/{batch_name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


@pytest.fixture
def cifar10_batches():
    rng = np.random.default_rng(0)
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    return {name: cifar_batch(rng) for name in names}


def test_cifar10_archive_is_read_pixel_for_pixel(tmp_path, cifar10_batches):
    write_cifar10(tmp_path, {name: python2_pickle(entries) for name, entries in cifar10_batches.items()})
    data = load_dataset("cifar10", data_dir=str(tmp_path))
    assert data.x_train.shape == (20, 32, 32, 3)
    assert data.x_train.dtype == np.float32
    assert data.y_train.dtype == np.int32
    assert data.y_train[4:8].tolist() == cifar10_batches["data_batch_2"][b"labels"]
    planes = cifar10_batches["data_batch_2"][b"data"]
    for image, row, column, channel in ((0, 0, 0, 0), (1, 3, 17, 1), (3, 31, 30, 2)):
        byte = planes[image, channel * 1024 + row * 32 + column]
        wanted = (byte / 255 - CIFAR_MEAN[channel]) / CIFAR_STD[channel]
        assert data.x_train[4 + image, row, column, channel] == pytest.approx(wanted, abs=1e-6)
    assert data.y_test.tolist() == cifar10_batches["test_batch"][b"labels"]


@pytest.mark.parametrize("protocol", [2, 4])
def test_cifar10_unpacked_folder_pickled_by_python3(tmp_path, cifar10_batches, protocol):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name, entries in cifar10_batches.items():
        planes = entries[b"data"]
        content = python2_pickle(entries) if protocol == 2 else None
        if content is None:  # an archive packed again by hand
            content = pickle.dumps({b"labels": entries[b"labels"], b"data": planes}, protocol=4)
        (folder / name).write_bytes(content)
    for place in (tmp_path, folder):
        assert load_dataset("cifar10", data_dir=str(place)).y_train.shape == (20,)


def test_cifar100_takes_the_fine_labels(tmp_path):
    rng = np.random.default_rng(1)
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    train = cifar_batch(rng, labels=[99, 0, 5, 7], label_key=b"fine_labels") | {b"coarse_labels": [1, 2, 3, 4]}
    (folder / "train").write_bytes(python2_pickle(train))
    (folder / "test").write_bytes(python2_pickle(cifar_batch(rng, label_key=b"fine_labels")))
    data = load_dataset("cifar100", data_dir=str(tmp_path))
    assert data.num_classes == 100
    assert data.y_train.tolist() == [99, 0, 5, 7]


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_a_pickle_that_runs_code_is_refused_and_nothing_runs(tmp_path, cifar10_batches):
    target = tmp_path / "written-by-the-pickle"
    batches = {name: python2_pickle(entries) for name, entries in cifar10_batches.items()}
    batches["data_batch_3"] = pickle.dumps({b"data": Bomb(str(target)), b"labels": [1]})
    write_cifar10(tmp_path, batches)
    with pytest.raises(UserError, match=r"data_batch_3 is damaged .*open"):
        load_dataset("cifar10", data_dir=str(tmp_path))
    assert not target.exists()


def test_damaged_cifar_archives(tmp_path, cifar10_batches):
    batches = {name: python2_pickle(entries) for name, entries in cifar10_batches.items()}
    write_cifar10(tmp_path, batches)
    archive = tmp_path / "cifar-10-python.tar.gz"
    whole = archive.read_bytes()
    for cut in (len(whole) - 3, len(whole) // 2, 10, 0):  # the first lacks a part of the checksum alone
        archive.write_bytes(whole[:cut])
        with pytest.raises(UserError, match=r"damaged") as caught:
            load_dataset("cifar10", data_dir=str(tmp_path))
        assert "\n" not in str(caught.value)
    middle = len(whole) // 2
    archive.write_bytes(whole[:middle] + bytes(b ^ 255 for b in whole[middle : middle + 50]) + whole[middle + 50 :])
    with pytest.raises(UserError, match=r"damaged"):
        load_dataset("cifar10", data_dir=str(tmp_path))
    write_cifar10(tmp_path, {name: content for name, content in batches.items() if name != "test_batch"})
    with pytest.raises(UserError, match=r"has no cifar-10-batches-py/test_batch"):
        load_dataset("cifar10", data_dir=str(tmp_path))


def test_cifar_labels_and_images_are_checked(tmp_path, cifar10_batches):
    wrong = dict(cifar10_batches["data_batch_1"])
    for change, message in (
        ({b"labels": [1, 2, 10, 3]}, r"a training label of data set 'cifar10' is 10; expected 0 to 9"),
        ({b"labels": [1, 2]}, r"training labels of data set 'cifar10' have shape \(18,\)"),
        ({b"data": wrong[b"data"][:, :3000]}, r"images of shape \(4, 3000\); expected \(number, 3072\)"),
    ):
        batches = {name: python2_pickle(entries) for name, entries in cifar10_batches.items()}
        batches["data_batch_1"] = python2_pickle(wrong | change)
        write_cifar10(tmp_path, batches)
        with pytest.raises(UserError, match=message):
            load_dataset("cifar10", data_dir=str(tmp_path))


def write_idx(path, array, pack):
    content = b"\x00\x00\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(content) if pack else content)


def write_mnist(folder, pack=True, n=(6, 3)):
    rng = np.random.default_rng(2)
    arrays = {}
    for side, number in zip(("train", "t10k"), n, strict=True):
        arrays[side] = rng.integers(0, 256, (number, 28, 28), dtype=np.uint8), rng.integers(0, 10, number, np.uint8)
        for array, kind in zip(arrays[side], ("images-idx3", "labels-idx1"), strict=True):
            write_idx(folder / f"{side}-{kind}-ubyte{'.gz' if pack else ''}", array, pack)
    return arrays


@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize(("name", "mean", "std"), [("mnist", 0.1307, 0.3081), ("fashion_mnist", 0.2860, 0.3530)])
def test_idx_files(tmp_path, name, mean, std, pack):
    arrays = write_mnist(tmp_path, pack)
    data = load_dataset(name, data_dir=str(tmp_path))
    assert data.x_train.shape == (6, 28, 28, 1)
    np.testing.assert_allclose(data.x_test[..., 0], (arrays["t10k"][0] / 255 - mean) / std, atol=1e-5)
    np.testing.assert_array_equal(data.y_train, arrays["train"][1])


def test_damaged_idx_files(tmp_path):
    write_mnist(tmp_path)
    images = tmp_path / "train-images-idx3-ubyte.gz"
    whole = images.read_bytes()
    for content, message in (
        (whole[: len(whole) // 2], "damaged"),
        (gzip.compress(gzip.decompress(whole)[:-1]), r"header says 4704; it is damaged"),
        (b"<html>not found</html>", "not an IDX file"),
        (b"", "not an IDX file"),
        ((tmp_path / "train-labels-idx1-ubyte.gz").read_bytes(), "with 3 axes"),
    ):
        images.write_bytes(content)
        with pytest.raises(UserError, match=message):
            load_dataset("mnist", data_dir=str(tmp_path))
    images.unlink()
    with pytest.raises(UserError, match=r"has no train-images-idx3-ubyte.gz"):
        load_dataset("mnist", data_dir=str(tmp_path))


def npz_arrays(**changes):
    rng = np.random.default_rng(3)
    arrays = {f"x_{s}": rng.integers(0, 256, (n, 5, 4, 3), dtype=np.uint8) for s, n in (("train", 9), ("test", 6))}
    arrays |= {f"y_{s}": np.arange(n) % 3 for s, n in (("train", 9), ("test", 6))}
    return {key: value for key, value in (arrays | changes).items() if value is not None}


def test_npz_bytes_are_standardised_and_floats_kept(tmp_path):
    path = tmp_path / "mine.npz"
    np.savez(path, **npz_arrays())
    data = load_dataset("npz", data_file=str(path))
    assert data.num_classes == 3
    np.testing.assert_allclose(data.x_train.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(data.x_train.std((0, 1, 2)), 1, atol=1e-5)
    floats = {key: value.astype(np.float64) for key, value in npz_arrays().items() if key.startswith("x")}
    np.savez_compressed(path, **npz_arrays(x_train=floats["x_train"][..., 0], x_test=floats["x_test"][..., 0]))
    data = load_dataset("npz", data_file=str(path))
    place = [int(np.flatnonzero((floats["x_train"][..., :1] == x).all((1, 2, 3)))[0]) for x in data.x_train]
    assert sorted(place) == list(range(9))
    np.testing.assert_array_equal(data.y_train, npz_arrays()["y_train"][place])
    np.testing.assert_array_equal(data.x_test, floats["x_test"][..., :1])


def test_npz_sorted_by_label_has_all_classes_in_its_first_images(tmp_path):
    labels = np.repeat(np.arange(3), 40)
    np.savez(
        tmp_path / "mine.npz",
        **npz_arrays(
            x_train=np.zeros((120, 5, 4, 3), np.float32), y_train=labels, x_test=np.zeros((6, 5, 4, 3), np.float32)
        ),
    )
    first, again = (load_dataset("npz", data_file=str(tmp_path / "mine.npz")).y_train for _ in range(2))
    assert set(first[:12]) == {0, 1, 2}
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y_train": None}, "has no array 'y_train'"),
        ({"x_train": np.zeros((9, 5, 4, 3, 2)), "x_test": np.zeros((6, 5, 4, 3, 2))}, r"have shape \(9, 5, 4, 3, 2\)"),
        ({"x_test": np.zeros((6, 5, 5, 3), np.uint8)}, r"\(5, 4, 3\) but test images of shape \(5, 5, 3\)"),
        ({"y_train": np.arange(9) - 1}, "a training label of data set 'npz' is -1"),
        ({"y_train": np.arange(9) % 3 + 1, "y_test": np.arange(6) % 3 + 1}, "labels of .* are 1 to 3; expected 0"),
        ({"y_train": np.arange(9) * 10**9}, "a label of .* is 8000000000, but there are only 9 training images"),
        ({"y_train": np.arange(9) / 2}, "labels of data set 'npz' are of type float64; expected integers"),
        ({"x_train": np.zeros((9, 5, 4, 3)) * np.nan, "x_test": np.zeros((6, 5, 4, 3))}, "NaN or infinite"),
        ({"x_train": np.full((9, 5, 4, 3), 1e300), "x_test": np.zeros((6, 5, 4, 3))}, "NaN or infinite"),
        ({"x_train": np.zeros((9, 5, 4, 3), np.int64)}, "images of type int64; expected uint8 or floating point"),
        ({"y_train": np.array([object()] * 9)}, "damaged or not an .npz file of plain arrays"),
    ],
)
def test_npz_mistakes(tmp_path, changes, message):
    path = tmp_path / "mine.npz"
    np.savez(path, **npz_arrays(**changes))
    with pytest.raises(UserError, match=message):
        load_dataset("npz", data_file=str(path))


def test_npz_missing_or_cut_short(tmp_path):
    with pytest.raises(UserError, match="needs data_file=PATH"):
        load_dataset("npz")
    with pytest.raises(UserError, match="does not exist"):
        load_dataset("npz", data_file=str(tmp_path / "none.npz"))
    path = tmp_path / "mine.npz"
    np.savez(path, **npz_arrays())
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(UserError, match="damaged"):
        load_dataset("npz", data_file=str(path))


def test_unknown_names_and_folders(tmp_path):
    with pytest.raises(UserError, match=r"unknown data set 'cifar' \(did you mean 'cifar10'\?\); available: digits,"):
        load_dataset("cifar")
    with pytest.raises(UserError, match="is not a folder"):
        load_dataset("cifar10", data_dir=str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"has no cifar-10-batches-py and no cifar-10-python.tar.gz"):
        load_dataset("cifar10", data_dir=str(tmp_path))


@pytest.mark.parametrize("failure", [ValueError("hash"), ConnectionError("no route")])
def test_a_failed_download_is_one_sentence(monkeypatch, failure):
    def retrieve(*args, **kwargs):
        raise failure

    monkeypatch.setattr("pooch.retrieve", retrieve)
    with pytest.raises(UserError, match=r"cifar-10-python.tar.gz.*data_dir="):
        load_dataset("cifar10")


def test_digits_are_the_same_on_every_machine():
    data = load_dataset("digits")
    pixels = np.round((data.x_train.astype(np.float64) * 0.326 + 0.196) * 255).astype("<i2")
    assert hashlib.sha256(pixels.tobytes()).hexdigest()[:16] == "12390c99a3cd15d9"
    assert data.x_test.shape == (5120, 10, 10, 1)
    assert abs(data.x_train.mean()) < 0.01
    assert abs(data.x_train.std() - 1) < 0.01
    assert min(np.bincount(data.y_train[:320], minlength=10)) >= 15  # even the smallest subset holds every class


def test_shapes_known_without_loading(tmp_path, monkeypatch):
    assert dataset_shape("digits") == load_dataset("digits").shape
    write_mnist(tmp_path)
    assert dataset_shape("mnist", data_dir=str(tmp_path))[:4] == (6, 3, (28, 28, 1), 10)
    monkeypatch.setattr("pooch.retrieve", None)
    assert dataset_shape("cifar100")[:4] == (50_000, 10_000, (32, 32, 3), 100)


def test_digits_sides_share_no_scan(monkeypatch):
    monkeypatch.setattr("mdtree_jax.data.digits._transform", lambda scans, rng: scans[..., None])
    data = load_dataset("digits")
    train, test = ({image.tobytes() for image in images} for images in (data.x_train, data.x_test))
    assert len(train) == 1000
    assert len(test) == 797
    assert not train & test


def test_label_noise_is_one_seeded_list_over_all_classes():
    clean, noisy, other = (
        load_dataset("digits", label_noise_fraction=f, label_noise_seed=s) for f, s in ((0.0, 0), (0.1, 0), (0.1, 1))
    )
    wrong = noisy.y_train != clean.y_train
    assert 0.09 * 3200 - 40 < wrong.sum() <= 320
    assert (other.y_train != noisy.y_train).any()
    np.testing.assert_array_equal(noisy.y_test, clean.y_test)
    np.testing.assert_array_equal(noisy.x_train, clean.x_train)
    labels = redraw_labels(np.zeros(100_000, np.int32), 10, 1.0, seed=3)
    counts = np.bincount(labels, minlength=10)
    assert abs(counts - 10_000).max() < 500  # five standard deviations; a draw that leaves the old class out fails
    with pytest.raises(UserError, match=r"label_noise_fraction=1.5 is outside \[0, 1\]"):
        load_dataset("digits", label_noise_fraction=1.5)


def test_a_validation_set_is_a_fixed_random_part_of_the_test_set():
    whole = load_dataset("digits")
    half, again, less = (load_dataset("digits", validation_fraction=f) for f in (0.5, 0.5, 0.1))
    assert (len(half.x_test), len(half.x_validation), len(less.x_validation)) == (2560, 2560, 512)
    assert half.shape == whole.shape
    np.testing.assert_array_equal(half.x_validation, again.x_validation)
    np.testing.assert_array_equal(half.x_train, whole.x_train)
    pairs = [
        sorted((image.tobytes(), int(label)) for image, label in zip(x, y, strict=True))
        for x, y in (
            (whole.x_test, whole.y_test),
            (np.concatenate([half.x_test, half.x_validation]), np.concatenate([half.y_test, half.y_validation])),
        )
    ]
    assert pairs[0] == pairs[1]
    places = [
        float(np.flatnonzero((whole.x_test == image).all(axis=(1, 2, 3)))[0]) for image in half.x_validation[::25]
    ]
    assert places == sorted(places)  # in the order of the test set …
    assert 2000 < np.mean(places) < 3100  # … and from all of it
    assert (len(whole.y_validation), len(whole.arrays), len(half.arrays)) == (0, 4, 6)
    for fraction in (-0.1, 1e-6, 1.0, np.nan):
        with pytest.raises(UserError, match="leaves the validation set or the test set empty"):
            load_dataset("digits", validation_fraction=fraction)
