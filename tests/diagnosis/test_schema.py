"""The JSON schema of diagnosis.json: it takes what diagnoses write, knows every key, and refuses what is wrong."""

import json
from importlib.resources import files

import pytest

from mdtree_jax import diagnose_metrics, load_collection

jsonschema = pytest.importorskip("jsonschema")
SCHEMA = json.loads((files("mdtree_jax.diagnosis") / "diagnosis.schema.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def written():
    """Diagnoses of all kinds that a table leads to: with and without an outlook, sure and unsure, of nothing at all."""
    rows = load_collection("digits_vit", allow_missing=True).iloc[::12].copy()
    found = diagnose_metrics(rows) + diagnose_metrics(load_collection("digits").iloc[::100], evidence="landscape")
    found += diagnose_metrics({"train_error": 12.0}) + diagnose_metrics({"train_error": float("nan"), "cka": 0.5})
    facts = [{"name": "a"} | one.to_dict() | {"reference_provenance": {}} for one in found]
    return json.loads(json.dumps(facts, allow_nan=False))


def test_schema_takes_what_is_written_and_knows_every_key(written):
    validator = jsonschema.Draft202012Validator(SCHEMA)
    validator.check_schema(SCHEMA)
    assert {one["abstains"] for one in written} == {True, False}
    assert {bool(one["moves"]) for one in written} == {True, False}
    validator.validate(written)
    for one in written:
        validator.validate(one)
        assert set(one) == set(SCHEMA["$defs"]["diagnosis"]["properties"])


@pytest.mark.parametrize(
    "wrong",
    [{"probability": 1.5}, {"cause": None}, {"new": 1}, {"abstention": {"why": 1}}, {"action": {"kind": "guess"}}],
)
def test_schema_refuses_what_is_wrong(written, wrong):
    assert not jsonschema.Draft202012Validator(SCHEMA).is_valid(written[0] | wrong)
    lacking = {key: value for key, value in written[0].items() if key not in wrong}
    if "new" not in wrong:
        assert not jsonschema.Draft202012Validator(SCHEMA).is_valid(lacking)
