"""Archives: what is written reads back; damage gives the right arrays or one sentence, and nothing is run."""

import gzip
import io
import os
import pickle
import struct
import sys
import tarfile
import tracemalloc
import zipfile

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mdtree_jax.checks import UserError
from mdtree_jax.data.cifar import load_cifar10, load_cifar100
from mdtree_jax.data.idx import read_idx
from mdtree_jax.data.npz import load_npz
from mdtree_jax.data.source import Source
from tests.data.test_data import CIFAR_MEAN, CIFAR_STD, cifar_batch, python2_pickle, write_cifar10
from tests.refusals import answer_of

resource = pytest.importorskip("resource")
FOLDERS = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
#: Address space that damage may cost beside what the process has, bytes.
ROOM = 2**31


@pytest.fixture(autouse=True)
def little_memory():
    """Let whatever asks for gigabytes fail."""
    try:
        with open("/proc/self/statm") as statm:
            used = int(statm.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # no Linux
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


#: What a file must not make its reader do; such an event is noted while something is read.
HARM = ("os.", "subprocess.", "shutil.", "socket.", "ctypes.")
HARMLESS = ("os.listdir", "os.scandir")
noted, reading = [], []


def note_harm(event, arguments):
    if reading and event.startswith(HARM) and event not in HARMLESS:
        noted.append((event, arguments))


sys.addaudithook(note_harm)


@st.composite
def damages(draw):
    """Return a function that damages bytes: flips some, cuts, puts in, takes out, or says other lengths."""
    kind = draw(st.sampled_from(["flip", "set", "cut", "insert", "delete", "long"]))
    places = draw(st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=4))
    values = draw(st.lists(st.integers(0, 255), min_size=4, max_size=4))
    near_an_end = draw(st.sampled_from([None, 60, 300]))  # where headers and directories are
    at_start = draw(st.booleans())

    def damage(content):
        content, size = bytearray(content), len(content)
        span = min(size, near_an_end or size)
        for share, value in zip(places, values, strict=False):
            place = min(int(share * span) + (0 if at_start else size - span), len(content) - 1)
            if kind == "flip":
                content[place] ^= 1 << value % 8
            elif kind == "set":
                content[place] = value
            elif kind == "cut" and place > 0:
                del content[place:]
            elif kind == "insert":
                content[place:place] = bytes(values)
            elif kind == "delete" and len(content) > value + 1:
                del content[place : place + value]
            elif kind == "long":
                content[place : place + 4] = b"\xff\xff\xff\x7f"[: len(content) - place]
        return bytes(content)

    return damage


def read(load):
    """Return what a reader returns, None where it refuses in one sentence; in any case it only reads."""
    reading.append(True)
    try:
        return answer_of(load)[0]
    finally:
        reading.clear()
        assert not noted


small_bytes = hnp.arrays(np.uint8, st.one_of(hnp.array_shapes(min_dims=1, max_dims=1, max_side=40),
                                             hnp.array_shapes(min_dims=3, max_dims=3, max_side=6)))  # fmt: skip


def idx_content(array, shape=None):
    shape = array.shape if shape is None else shape
    return b"\x00\x00\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *shape) + array.tobytes()


@settings(max_examples=120)
@given(array=small_bytes, pack=st.booleans(), damage=damages(), inside=st.booleans())
def test_idx(tmp_path_factory, array, pack, damage, inside):
    path = tmp_path_factory.getbasetemp() / "array-idx"
    content = idx_content(array)
    path.write_bytes(gzip.compress(content) if pack else content)
    np.testing.assert_array_equal(read_idx(path, array.ndim), array)
    damaged = damage(content) if inside else content
    damaged = gzip.compress(damaged) if pack else damaged
    path.write_bytes(damaged if inside else damage(damaged))
    found = read(lambda: read_idx(path, array.ndim))
    if found is not None:
        assert (found.dtype, found.ndim) == (np.uint8, array.ndim)
        if pack and not inside:  # a checksum stands behind it
            np.testing.assert_array_equal(found, array)


@given(shape=st.tuples(*[st.integers(0, 2**32 - 1)] * 3))
@example(shape=(2**31, 2**31, 4))
@example(shape=(2**16, 2**16, 2**32 - 1))
@example(shape=(0, 2**32 - 1, 2**32 - 1))
@settings(max_examples=50)
def test_idx_of_wrong_lengths(tmp_path_factory, shape):
    path = tmp_path_factory.getbasetemp() / "array-idx"
    for array in (np.zeros((0, 2, 2), np.uint8), np.zeros((3, 2, 2), np.uint8)):
        path.write_bytes(idx_content(array, shape))
        found = read(lambda: read_idx(path, 3))
        size = shape[0] * shape[1] * shape[2]
        assert (found is not None) == (size == array.size > 0)


def npz_content(arrays, compressed):
    stream = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(stream, **arrays)
    return stream.getvalue()


@st.composite
def npz_arrays(draw):
    """Return floating-point images, which stay as they are, and labels that begin at 0."""
    train, test, side = draw(st.integers(2, 6)), draw(st.integers(1, 4)), draw(st.integers(1, 4))
    channels = draw(st.sampled_from([(), (1,), (3,)]))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    labels = [rng.integers(0, 2, n).astype(draw(st.sampled_from([np.int64, np.uint8]))) for n in (train, test)]
    labels[0][:2] = 0, 1
    images = [rng.normal(size=(n, side, side, *channels)).astype(dtype) for n in (train, test)]
    return {"x_train": images[0], "y_train": labels[0], "x_test": images[1], "y_test": labels[1]}


@settings(max_examples=80)
@given(arrays=npz_arrays(), compressed=st.booleans(), damage=damages())
def test_npz(tmp_path_factory, arrays, compressed, damage):
    path = tmp_path_factory.getbasetemp() / "arrays.npz"
    source = Source("npz", None, str(path))
    path.write_bytes(npz_content(arrays, compressed))
    right = load_npz(source)
    pairs = [(label, image.tobytes()) for label, image in zip(right.y_train.tolist(), right.x_train, strict=True)]
    written = zip(arrays["y_train"].tolist(), arrays["x_train"], strict=True)
    assert sorted(pairs) == sorted((label, image.tobytes()) for label, image in written)  # in another order
    np.testing.assert_array_equal(right.x_test.ravel(), arrays["x_test"].ravel())
    np.testing.assert_array_equal(right.y_test, arrays["y_test"])
    path.write_bytes(damage(path.read_bytes()))
    found = read(lambda: load_npz(source))
    if found is not None:  # every array has a checksum
        for a, b in zip(found, right, strict=True):
            np.testing.assert_array_equal(a, b)


@settings(max_examples=120)
@given(key=st.sampled_from(["x_train", "y_train", "x_test", "y_test"]), damage=damages(), header=st.booleans())
def test_npz_of_damaged_arrays(tmp_path_factory, key, damage, header):
    """An archive that is whole, of arrays that are not."""
    rng = np.random.default_rng(0)
    arrays = {"x_train": rng.random((4, 2, 2)), "y_train": np.array([0, 1, 1, 0])}
    arrays |= {"x_test": rng.random((2, 2, 2)), "y_test": np.array([1, 0])}
    path = tmp_path_factory.getbasetemp() / "arrays.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            stream = io.BytesIO()
            np.save(stream, array)
            content = stream.getvalue()
            if name == key:
                content = damage(content[:128]) + content[128:] if header else damage(content)
            archive.writestr(f"{name}.npy", content)
    found = read(lambda: load_npz(Source("npz", None, str(path))))
    if found is not None:
        assert all(isinstance(array, np.ndarray) and array.dtype != object for array in found[:4])


@pytest.mark.parametrize(
    "shape", ["(99999999999999,)", "(9999999999999999999999,)", "(1000000, 1000000)", "(", "('a',)"]
)
@pytest.mark.parametrize("descr", ["'<f8'", "'|O'", "[('a', '<f8')]", "'|V999999999'", "'<M8[ns]'"])
def test_npz_whose_header_says_anything(tmp_path, shape, descr):
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + b"\x00" * 64
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        for key in ("x_train", "y_train", "x_test", "y_test"):
            archive.writestr(f"{key}.npy", content)
    with pytest.raises(UserError, match=r"a\.npz is damaged or not an \.npz file of plain arrays"):
        load_npz(Source("npz", None, str(tmp_path / "a.npz")))


def standardised(planes):
    """Return images (n, 32, 32, 3) of CIFAR's rows of 3072 bytes, by loops over pixels and channels."""
    images = np.empty((len(planes), 32, 32, 3))
    for channel, (mean, std) in enumerate(zip(CIFAR_MEAN, CIFAR_STD, strict=True)):
        for row in range(32):
            start = 1024 * channel + 32 * row
            images[:, row, :, channel] = (planes[:, start : start + 32] / 255 - mean) / std
    return images


@settings(max_examples=15)
@given(seed=st.integers(0, 99), sizes=st.lists(st.integers(1, 3), min_size=6, max_size=6), modern=st.booleans(),
       compression=st.sampled_from(["gz", "xz", ""]))  # fmt: skip
def test_cifar_archives_read_back(tmp_path_factory, seed, sizes, modern, compression):
    folder, rng = tmp_path_factory.mktemp("cifar"), np.random.default_rng(seed)
    batches = {name: cifar_batch(rng, n) for name, n in zip(FOLDERS, sizes, strict=True)}
    dump = (lambda entries: pickle.dumps(entries, protocol=4)) if modern else python2_pickle
    with tarfile.open(folder / "cifar-10-python.tar.gz", f"w:{compression}") as archive:
        for name, entries in batches.items():
            info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            info.size = len(dump(entries))
            archive.addfile(info, io.BytesIO(dump(entries)))
    data = load_cifar10(Source("cifar10", str(folder)))
    planes = np.concatenate([batches[name][b"data"] for name in FOLDERS])
    np.testing.assert_allclose(np.concatenate([data.x_train, data.x_test]), standardised(planes), atol=1e-6)
    labels = [label for name in FOLDERS for label in batches[name][b"labels"]]
    assert [*data.y_train, *data.y_test] == labels
    assert len(data.x_test) == sizes[-1]


@settings(max_examples=40)
@given(damage=damages(), inside=st.booleans())
def test_damaged_cifar_archives(tmp_path_factory, damage, inside):
    folder, rng = tmp_path_factory.getbasetemp() / "damaged", np.random.default_rng(0)
    folder.mkdir(exist_ok=True)
    write_cifar10(folder, {name: python2_pickle(cifar_batch(rng, 1)) for name in FOLDERS})
    path, source = folder / "cifar-10-python.tar.gz", Source("cifar10", str(folder))
    right, content = load_cifar10(source), path.read_bytes()
    path.write_bytes(gzip.compress(damage(gzip.decompress(content)), 1) if inside else damage(content))
    found = read(lambda: load_cifar10(source))
    if found is not None and not inside:
        for a, b in zip(found, right, strict=True):
            np.testing.assert_array_equal(a, b)


class Call:
    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


@settings(max_examples=200)
@given(protocol=st.sampled_from([None, 4, 5]), damage=damages(), part=st.sampled_from(["head", "tail", "all"]))
def test_damaged_cifar_batches(tmp_path_factory, protocol, damage, part):
    folder, rng = tmp_path_factory.getbasetemp() / "batches" / "cifar-100-python", np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    entries = cifar_batch(rng, 2, label_key=b"fine_labels", num_classes=100)
    content = python2_pickle(entries) if protocol is None else pickle.dumps(entries, protocol)
    (folder / "test").write_bytes(python2_pickle(entries))
    head, tail = {"head": (250, 0), "tail": (0, 300), "all": (len(content), 0)}[part]
    middle = content[head : len(content) - tail]
    damaged = (damage(content[:head]) if head else b"") + middle + (damage(content[-tail:]) if tail else b"")
    (folder / "train").write_bytes(damaged)
    found = read(lambda: load_cifar100(Source("cifar100", str(folder.parent))))
    if found is not None:
        assert found.x_train.shape[1:] == (32, 32, 3)
        assert found.y_train.dtype == np.int64


HOSTILE_PICKLES = {
    "memo of 2^24 entries": b"\x80\x02}r\x00\x00\x00\x01.",
    "array of 2^62 objects": b"\x80\x02}(U\x04datacnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n"
    b"(J\xff\xff\xff\x7fJ\xff\xff\xff\x7ftU\x01OtRu.",
    "bytes of 2^40": b"\x80\x05\x8e" + struct.pack("<Q", 2**40) + b"abc.",
    "bytearray of 2^40": b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"abc.",
    "persistent name": b"Pid\n.",
    "os.system": pickle.dumps({b"data": Call(os.system, "true"), b"fine_labels": [1]}),
    "exec": pickle.dumps({b"data": Call(exec, "raise SystemExit"), b"fine_labels": [1]}),
    "getattr": pickle.dumps({b"data": Call(getattr, np.ndarray, "tofile"), b"fine_labels": [1]}),
    "ndarray called": pickle.dumps({b"data": Call(np.ndarray, (2, 3072), "u1"), b"fine_labels": [1, 2]}),
    "old style": b"cposix\nsystem\n(S'true'\ntR.",
    "instance": b"(i__builtin__\nexec\n.",
}


@pytest.mark.parametrize("content", HOSTILE_PICKLES.values(), ids=HOSTILE_PICKLES)
def test_hostile_pickles(tmp_path, content):
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    for name in ("train", "test"):
        (folder / name).write_bytes(content)
    tracemalloc.start()
    found = read(lambda: load_cifar100(Source("cifar100", str(folder))))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found is None
    assert peak < 2**24
