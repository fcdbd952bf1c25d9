"""What is not of this program in or around a run folder is neither changed nor deleted, nor reached through a link."""

import os
import socket

import pytest

from mdtree_jax.checks import UserError
from mdtree_jax.store.exchange import export_parts
from mdtree_jax.store.lock import FolderLock, locked
from tests.fake_training import COHORTS, run_folder
from tests.store.test_store import finish, rows_of


def content(folder):
    """Return every file below a folder with its content, and every link with its target."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            found[path] = os.readlink(path)
        elif path.is_file():
            found[path] = path.read_bytes()
    return found


@pytest.fixture
def elsewhere(tmp_path):
    folder = tmp_path / "elsewhere"
    for name in ("mine", COHORTS[0].key, f"{COHORTS[1].key}.7.partial"):
        (folder / name).mkdir(parents=True)
        (folder / name / "file").write_text("mine")
    (folder / f"{COHORTS[0].key}.parquet").write_text("mine")
    return folder


WRITTEN = ["cohorts", "parts", "parts/members", "checkpoints", "unfinished", "manifest.json", "members.parquet"]


@pytest.mark.parametrize("is_begun", [False, True])
@pytest.mark.parametrize("name", WRITTEN)
def test_a_run_does_not_work_through_a_link(tmp_path, elsewhere, name, is_begun):
    run = tmp_path / "run"
    if is_begun:
        with run_folder(run) as folder:
            finish(folder, COHORTS[:1])
            folder.write_tables()
    path, target = run / name, elsewhere / ("mine" if "." not in name else "mine/file")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        path.rename(tmp_path / "moved")
        if "." in name:
            (elsewhere / "mine/file").write_bytes((tmp_path / "moved").read_bytes())
    path.symlink_to(target)
    before = content(tmp_path)
    with pytest.raises(UserError, match=rf"{name} is a link, and a run writes and deletes only in its own folder"):
        run_folder(run).__enter__()
    assert content(tmp_path) == before


def test_the_run_folder_itself_may_be_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "disk")
    with run_folder(tmp_path / "run") as folder:
        finish(folder, COHORTS[:1])
    assert (tmp_path / "disk/manifest.json").is_file()


def test_foreign_files_in_a_run_folder_stay(tmp_path):
    names = [
        "notes.txt",
        "parts/notes",
        "parts/members/x.parquet.old",
        "checkpoints/mine",
        "unfinished/w9",
        "cohorts/a",
    ]
    names += ["cohorts/a", "checkpoints/w2-b16-e3.old", "a.partial.csv", "checkpoints/my.partial", "collection.csv.bak"]
    with run_folder(tmp_path) as folder:
        finish(folder, COHORTS[:1])
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("mine")
    with run_folder(tmp_path) as folder:
        finish(folder, COHORTS[1:])
        folder.write_tables(csv=True)
    with run_folder(tmp_path) as folder:
        assert len(folder.trained) == 4
    assert {(tmp_path / name).read_text() for name in names} == {"mine"}


@pytest.mark.parametrize(
    "name",
    [
        f"parts/{COHORTS[2].key}.parquet",
        f"parts/pairs/{COHORTS[2].key}.parquet",
        f"checkpoints/{COHORTS[2].key}",
        f"checkpoints/{COHORTS[2].key}+1",
        f"unfinished/{COHORTS[2].key}.new",
        f"unfinished/measured-{COHORTS[2].key}",
    ],
)
def test_a_file_with_the_name_of_ours_that_no_record_names_stops_the_run_before_it_begins(tmp_path, name):
    with run_folder(tmp_path) as folder:
        finish(folder, COHORTS[:1])
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("mine")
    before = content(tmp_path)
    with pytest.raises(UserError, match=r"has the name of a file of this run, but no record says .*; move it away"):
        run_folder(tmp_path).__enter__()
    assert content(tmp_path) == before


def test_a_table_that_a_run_did_not_write_is_not_written_over(tmp_path):
    with run_folder(tmp_path) as folder:
        finish(folder, COHORTS[:1])
        folder.write_tables()
        (tmp_path / "collection.csv").write_text("mine")
        with pytest.raises(UserError, match=r"collection.csv was not written by a run in this folder; move it away"):
            folder.write_tables(csv=True)
        folder.write_tables()
    assert (tmp_path / "collection.csv").read_text() == "mine"


def test_what_a_folder_of_somebody_else_holds_is_named(tmp_path):
    for name in ("thesis.tex", "data", "parts", "checkpoints"):
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoints" / "mine").write_text("mine")
    before = content(tmp_path)
    with pytest.raises(UserError, match=r"is not a run folder \(it holds checkpoints, data, parts and 1 more\)"):
        run_folder(tmp_path).__enter__()
    with run_folder(tmp_path / "run") as folder:
        finish(folder, COHORTS[:1])
        with pytest.raises(UserError, match="is not a run folder"):
            export_parts(folder, tmp_path)
    assert {path: what for path, what in content(tmp_path).items() if "run" not in path.parts} == before


@pytest.mark.parametrize("kind", ["link", "hard link", "other text", "folder", "pipe", "socket"])
def test_a_lock_that_is_not_ours_is_left_as_it_is(tmp_path, kind, monkeypatch):
    monkeypatch.chdir(tmp_path)
    foreign, lock = tmp_path / "foreign", tmp_path / "run" / "run.lock"
    foreign.write_text("mine, and longer than a note of a process")
    lock.parent.mkdir()
    opened = None
    if kind == "link":
        lock.symlink_to(foreign)
    elif kind == "hard link":
        lock.hardlink_to(foreign)
    elif kind == "other text":
        lock.write_text("mine")
    elif kind == "folder":
        lock.mkdir()
    elif kind == "pipe":
        os.mkfifo(lock)
    else:
        opened = socket.socket(socket.AF_UNIX)
        opened.bind("run/run.lock")
    before = content(tmp_path) if kind not in ("pipe", "socket") else None
    with pytest.raises(UserError, match=r"run.lock is (not a lock file of this program|a link, and a run writes)"):
        FolderLock(tmp_path / "run").__enter__()
    assert before in (None, content(tmp_path))
    with pytest.raises(UserError, match=r"run.lock is (not a lock file of this program|a link, and a run writes)"):
        run_folder(tmp_path / "run").__enter__()
    assert before in (None, content(tmp_path))
    (tmp_path / ".table.csv.lock").symlink_to(foreign)
    with pytest.raises(UserError, match="not a lock file of this program"), locked(tmp_path / "table.csv"):
        pass
    if opened is not None:
        opened.close()


def test_what_is_written_aside_is_not_written_through_a_link(tmp_path):
    foreign = tmp_path / "foreign"
    foreign.write_text("mine")
    with run_folder(tmp_path / "run") as folder:
        for name in ("manifest.PID.partial.json", "cohorts/KEY.PID.partial.json", "parts/KEY.PID.partial.parquet"):
            path = tmp_path / "run" / name.replace("PID", str(os.getpid())).replace("KEY", COHORTS[0].key)
            path.parent.mkdir(exist_ok=True)
            path.symlink_to(foreign)
        folder.save_manifest()
        folder.finish(COHORTS[0].key, rows_of(COHORTS[0]), {})
    assert foreign.read_text() == "mine"
    with run_folder(tmp_path / "run") as folder:
        assert folder.trained == (COHORTS[0].key,)
