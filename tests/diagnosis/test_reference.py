"""References: those of the package, a user's own, saved and loaded, and files that are none."""

import json
from pathlib import Path

import numpy as np
import pytest

from mdtree_jax import Reference, diagnose_metrics, fit_reference
from mdtree_jax.causes import joint
from mdtree_jax.causes.labels import cause_labels
from mdtree_jax.checks import UserError
from mdtree_jax.collection.grid import make_grid
from mdtree_jax.collection.load import load_collection
from mdtree_jax.collection.tasks import TASKS, task_rows
from mdtree_jax.diagnosis.reference import get_reference, reference_names
from tests.causes.test_joint import small  # noqa: F401 (a fixture)
from tests.conftest import ROOT
from tests.diagnosis.test_from_metrics import COLD


def test_reference_of_the_package(reference):
    text = Path(ROOT, "mdtree_jax/diagnosis/reference_files/published_F.json").read_text(encoding="utf-8")
    assert len(text.encode()) < 200_000
    data = json.loads(text)
    assert data["provenance"]["collection"] == "published/F"
    accuracy = data["provenance"]["accuracy"]
    for task, least in (("optimizer", 96), ("size", 88), ("data", 84)):
        assert accuracy[task]["surest_80_percent"] >= least
    assert accuracy["joint"]["one_checkpoint"]["all"] < accuracy["joint"]["all"]
    by_cause = accuracy["joint"]["by_cause"].values()
    assert sum(found["answers"] for found in by_cause) == accuracy["joint"]["models"]
    right = sum(found["answers"] * found["right"] for found in by_cause) / accuracy["joint"]["models"]
    assert right == pytest.approx(accuracy["joint"]["all"], abs=0.1)
    assert {"commit", "date", "rows", "test"} <= set(data["provenance"])
    assert set(data["trees"]) == {"optimizer", "size", "data"}
    assert sum(map(sum, data["summary"]["bins"][0]["counts"]["too_little_data"])) == pytest.approx(
        data["summary"]["share_of_causes"]["too_little_data"] * 1690, abs=1
    )
    assert reference.summary() == data["summary"]
    assert_alike(json.loads(json.dumps(reference.to_dict()["trees"])), data["trees"])


def assert_alike(a, b):
    """Assert that two trees of plain values are equal, numbers but for rounding on another machine."""
    if isinstance(a, dict):
        assert a.keys() == b.keys()
    if isinstance(a, (dict, list)):
        assert len(a) == len(b)
        for one, other in zip(*(x.values() if isinstance(x, dict) else x for x in (a, b)), strict=True):
            assert_alike(one, other)
    else:
        assert a == pytest.approx(b, rel=1e-3) if isinstance(a, float) else a == b


def test_a_diagnosis_is_worth_what_its_reference_says(reference, F_noise):
    """All of F' through the front door, against its labels: the numbers that every report states."""
    found = diagnose_metrics(F_noise[list(joint.COLUMNS)], reference, units="percent")
    stated = reference.provenance["accuracy"]
    right = np.array([d.cause for d in found]) == cause_labels(make_grid(F_noise)).to_numpy()
    assert 100 * right.mean() == pytest.approx(stated["joint"]["all"], abs=0.3)
    for task in TASKS.values():
        rows = task_rows(F_noise, task).index
        chances = [found[row].questions[task.name] for row in rows]
        right = np.array([max(c, key=c.get) for c in chances]) == F_noise[task.label][rows].to_numpy()
        assert 100 * right.mean() == pytest.approx(stated[task.name]["all"], abs=0.3)
        surest = np.argsort([-max(c.values()) for c in chances], kind="stable")[: int(0.8 * len(rows))]
        assert 100 * right[surest].mean() == pytest.approx(stated[task.name]["surest_80_percent"], abs=0.5)


def test_reference_of_the_package_is_the_published_collection(reference, F):
    np.testing.assert_allclose(reference.rows[list(joint.COLUMNS)], F[list(joint.COLUMNS)], rtol=1e-4, atol=1e-9)
    assert reference.rows.label_optimizer.tolist() == F.label_optimizer.tolist()


def test_the_digits_reference_is_the_record():
    reference, record = get_reference("digits"), load_collection("digits")
    np.testing.assert_allclose(reference.rows[list(joint.COLUMNS)], record[list(joint.COLUMNS)], rtol=1e-4, atol=1e-9)
    assert reference.rows.label_optimizer.tolist() == record.label_optimizer.tolist()
    assert reference.track_record["test"].startswith("half of its own cells")
    assert reference_names() == ["digits", "published_F"]


def test_a_saved_reference_gives_the_same_answers(small, tmp_path):  # noqa: F811
    made = fit_reference(small.drop(columns=["cka"]), name="mine")
    made.save(tmp_path / "mine.json")
    loaded = Reference.load(tmp_path / "mine.json")
    assert loaded.provenance == made.provenance
    assert loaded.provenance["test"].startswith("half of its own cells")
    assert "cka" not in loaded.columns
    table = small.iloc[::9]
    answers = [[d.to_dict() for d in diagnose_metrics(table, which)] for which in (made, loaded)]
    assert answers[0] == answers[1]
    assert answers[0][0]["reference"] == "mine"
    assert {"kind": "metrics_unused", "metrics": ["cka"], "reference": "mine"} in answers[0][0]["remarks"]
    assert any("similarity is not used: the reference collection 'mine'" in note for note in answers[0][0]["notes"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "is not a reference: its format is None"),
        ("[1]", "is not a reference: its format is 'list'"),
        ("{", "cannot be read"),
        ('{"format": "mdtree_jax reference 1"}', "cannot be read: KeyError 'rows'"),
    ],
)
def test_files_that_are_no_reference(text, message, tmp_path):
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(UserError, match=message):
        Reference.load(tmp_path / "bad.json")


def test_a_collection_without_metrics_is_no_reference(small):  # noqa: F811
    with pytest.raises(UserError, match="has none of the metrics that a diagnosis uses"):
        fit_reference(small[["width", "batch_size", "data_fraction", "test_error"]])


def test_a_reference_by_name_or_by_file(small, tmp_path):  # noqa: F811
    fit_reference(small, measure=False, name="mine").save(tmp_path / "mine.json")
    assert diagnose_metrics(COLD, "published_F") == diagnose_metrics(COLD)
    found = diagnose_metrics(COLD, tmp_path / "mine.json")[0]
    assert found.reference == "mine"
    assert found.report(tmp_path / "r.html", reference=tmp_path / "mine.json").is_file()
    with pytest.raises(UserError, match=r"reference=nope\.json is neither a file nor a reference of the package: "):
        diagnose_metrics(COLD, "nope.json")
    with pytest.raises(UserError, match=r"reference=3 is a int; expected a Reference"):
        diagnose_metrics(COLD, 3)


def test_a_report_is_of_the_reference_that_was_asked(tmp_path, small):  # noqa: F811
    found = diagnose_metrics(COLD, fit_reference(small, measure=False, name="mine"))[0]
    with pytest.raises(UserError, match="was made with reference 'mine', but the report would show 'published/F'"):
        found.report(tmp_path / "r.html")
    assert not list(tmp_path.iterdir())
