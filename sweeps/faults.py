"""Does the diagnosis name faults that were planted, and does it leave healthy networks alone?

    python -m sweeps.faults                        # everything, and what following the advice gains; sweeps/faults.md
    python -m sweeps.faults thirty_examples retrain=false out=some.md    # some, by name

Ten situations that people asked about in public, 35 planted faults and ten healthy networks (`tests.faults`) are
trained and diagnosed through `diagnose_model`, as a user would: the function, two networks, data, loss, settings and
history, `cost=0.1`, without the initial weights. Run it in the folder of the repository.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from mdtree_jax.diagnosis.result import Diagnosis
from mdtree_jax.diagnosis.words.causes import cause_text, short
from mdtree_jax.files import write_text
from mdtree_jax.report.tables import markdown
from sweeps.provenance import provenance
from tests.faults.diagnosed import COST, diagnose
from tests.faults.judged import Judged, advised, gain_of, judged, truth_of
from tests.faults.planted import DEVELOPMENT, FAULTS, FRESH, HEALTHY, HELD_OUT, cured_spec, faulty_spec
from tests.faults.situations import SITUATIONS
from tests.faults.training import Spec, train

GROUPS = {
    "Ten situations that people asked about": SITUATIONS,
    "Planted faults that rules were made on": DEVELOPMENT | HELD_OUT,
    "Planted faults that were named before anything was run on them": FRESH,
    "Healthy networks": HEALTHY,
}
HEADER = ("network", "test error, %", "planted", "named", "other causes told", "right", "what to do", "gain of it")
HEADER = (*HEADER, "gain of the cure", "seconds", "compiling")


class Case(NamedTuple):
    """One network that was diagnosed; gains are points of test error, NaN where nothing was retrained."""

    name: str
    error: float
    diagnosis: Diagnosis
    judged: Judged
    gain: float
    cure: float


def specs_of(name: str) -> tuple[Spec, Spec]:
    """Return a network as trained, and as it is when its fault is mended; the same of a healthy one."""
    if name in SITUATIONS:
        case = SITUATIONS[name]
        return case.spec, case.spec.but(**case.cures[0])
    if name in FAULTS:
        return faulty_spec(name), cured_spec(name)
    return HEALTHY[name], HEALTHY[name]


def run(name: str, retrain: bool) -> Case:
    """Return one network trained and diagnosed."""
    spec, cured = specs_of(name)
    situation = train(spec)
    diagnosis = diagnose(situation)
    gains = (float("nan"),) * 2
    if retrain and name not in HEALTHY:
        gains = gain_of(spec, advised(spec, diagnosis)), gain_of(spec, cured)
    return Case(name, situation.error_mean, diagnosis, judged(name, diagnosis), *gains)


def row(case: Case) -> list[str]:
    """Return the cells of one network."""
    d = case.diagnosis
    assert d.cost is not None  # it was measured
    planted = " or ".join(short(cause) for cause in sorted(truth_of(case.name).right))
    others = "; ".join(f"{short(cause)} {probability:.2f}" for cause, probability in d.causes[1:])
    verdict = "wrong" if case.judged.is_wrong else "yes" if case.judged.is_named else "no"
    gains = ["" if gain != gain else f"{gain:+.1f}" for gain in (case.gain, case.cure)]
    told = f"{cause_text(d)}, {d.probability:.2f}"
    seconds = [f"{value:.1f}" for value in (d.cost.diagnosis_seconds, d.cost.compile_seconds or 0.0)]
    todo = d.action.sentence.split(". ")[0]
    return [case.name.replace("_", " "), f"{case.error:.1f}", planted, told, others, verdict, todo, *gains, *seconds]


def summary(cases: Sequence[Case]) -> str:
    """Return counts and the share of what can be gained; the best of a network is the better of advice and cure."""
    named, wrong = (sum(getattr(case.judged, one) for case in cases) for one in ("is_named", "is_wrong"))
    if all(case.name in HEALTHY for case in cases):
        return f"{len(cases)} healthy networks: {wrong} told a fault."
    said = f"{len(cases)} faults: {named} named, {wrong} with a wrong cause."
    known = [case for case in cases if case.cure == case.cure]
    if not known:
        return said
    best, gained = (sum(one(case) for case in known) for one in (lambda c: max(c.cure, c.gain, 0.0), lambda c: c.gain))
    each = [case.gain / max(case.cure, case.gain) for case in known if max(case.cure, case.gain) > 0]
    return (
        f"{said} Share of the best gain: {gained / best:.2f} of all points together, {sum(each) / len(each):.2f} on "
        "the average of the networks."
    )


def report(cases: Sequence[Case], start: float) -> str:
    """Return the Markdown of everything that ran."""
    parts = [
        "# Planted faults",
        "",
        f"{provenance(start)} Every network was trained from two seeds and diagnosed by `diagnose_model` with "
        f"`cost={COST}`, settings and the history of each seed; not known were the initial weights. *named*: the first "
        "cause with its probability. *right*: `yes` if it is what was planted, `wrong` if a cause that was told is "
        "not, or has a probability above 0.7 beside the first. *gain of it*: points of test error, three seeds, if the "
        "advice is followed; *gain of the cure*: if the fault is taken back. *seconds*, *compiling*: of the diagnosis; "
        "a compilation cache makes the second part short.",
        "",
    ]
    for title, names in GROUPS.items():
        some = [case for case in cases if case.name in names]
        if some:
            parts += [f"## {title}", "", summary(some), "", markdown(HEADER, [row(case) for case in some]), ""]
    faults = [case for case in cases if case.name in FAULTS]
    if len(faults) == len(FAULTS):
        parts += [f"All planted faults together: {summary(faults)}", ""]
    return "\n".join(parts)


def main() -> None:
    """Train, diagnose, write."""
    start = time.perf_counter()
    options = dict(argument.split("=", 1) for argument in sys.argv[1:] if "=" in argument)
    chosen = [argument for argument in sys.argv[1:] if "=" not in argument]
    every = [name for names in GROUPS.values() for name in names]
    cases = []
    for name in chosen or every:
        cases.append(run(name, options.get("retrain", "true") == "true"))
        print(" | ".join(row(cases[-1])), flush=True)
    text = report(cases, start)
    write_text(Path(options.get("out", "sweeps/faults.md")), text)
    print(text)


if __name__ == "__main__":
    main()
