"""Run folders as the version without records of cohorts left them."""

import json
import shutil


def make_earlier(run):
    """Have a run folder look as that version wrote it: executors and choices in the manifest, no record, no digest."""
    records = [json.loads(path.read_text()) for path in sorted(run.glob("cohorts/*.json"))]
    manifest = json.loads((run / "manifest.json").read_text())
    executors = {name: choice for record in records for name, choice in record["executors"].items()}
    choices = {record["cohort"]: record["choices"]["choices"] for record in records if record["choices"]}
    for name in ("sha256", "tables"):
        manifest.pop(name, None)
    manifest |= {"format": 1, "executors": executors, "choices": choices}
    (run / "manifest.json").write_text(json.dumps(manifest))
    shutil.rmtree(run / "cohorts")
    for state in run.glob("unfinished/*/sha256"):
        state.unlink()
