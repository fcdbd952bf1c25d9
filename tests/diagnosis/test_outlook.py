"""Error budget, moves, probabilities and answers, against values worked out by hand and on a reference made here."""

import numpy as np
import pandas as pd
import pytest

from mdtree_jax.causes.evidence import EVIDENCE, evidence_frame
from mdtree_jax.causes.gain_answers import FREE_SHARE
from mdtree_jax.causes.gain_model import GainModel
from mdtree_jax.diagnosis.gain_reference import GainReference, Policy, gain_reference
from mdtree_jax.diagnosis.outlook import Term, error_budget, outlook_of, outlooks_of
from mdtree_jax.registry.remedies import REMEDIES

ROW = {
    "validation_error": 30.0,
    "train_error": 12.0,
    "validation_loss": 1.0,
    "train_loss": 0.4,
    "chance_error": 90.0,
    "chance_loss": 2.3,
}
PROBED = {
    "refreshed_train_error": 11.0,
    "same_train_error": 10.0,
    "refreshed_validation_error": 27.0,
    "refreshed_validation_error_change_se": 0.5,
    "same_validation_error": 28.0,
    "same_validation_error_change_se": 0.25,
    "cool_validation_error": 24.0,
    "cool_validation_error_change_se": 1.0,
    "cool_train_error": 6.0,
}


def test_the_budget_adds_up_and_negative_terms_stay_negative():
    terms = error_budget(ROW | PROBED)
    assert [(term.name, term.points) for term in terms] == [
        ("stale_statistics", 3.0),
        ("unfinished", -1.0),
        ("optimizer_noise", 4.0),
        ("not_fitted", 6.0),
        ("gap", 18.0),
    ]
    assert sum(term.points for term in terms) == pytest.approx(ROW["validation_error"])
    assert terms[0].interval == pytest.approx((3 - 0.98, 3 + 0.98))
    assert [term.interval for term in terms[3:]] == [None, None]
    assert not any(term.joined for term in terms)


@pytest.mark.parametrize(
    "left_out", [(), ("refreshed",), ("same",), ("cool",), ("refreshed", "same"), ("same", "cool")]
)
def test_a_term_without_its_probe_joins_the_next(left_out):
    known = {name: value for name, value in PROBED.items() if not name.startswith(left_out or ("-",))}
    terms = error_budget(ROW | known)
    assert sum(term.points for term in terms) == pytest.approx(ROW["validation_error"])
    names = {"refreshed": "stale_statistics", "same": "unfinished", "cool": "optimizer_noise"}
    joined = [name for term in terms for name in term.joined]
    assert joined == [names[probe] for probe in names if probe in left_out]
    assert not {term.name for term in terms} & set(joined)


def test_without_probes_three_terms_join_what_is_not_fitted():
    known = ROW | {"train_error_se": 0.3, "validation_error_se": 0.4}
    fitted, gap = error_budget(known)
    assert fitted == Term("not_fitted", 12.0, 0.3, ("stale_statistics", "unfinished", "optimizer_noise"))
    assert gap == Term("gap", 18.0, pytest.approx(0.5))
    (whole,) = error_budget({"validation_error": 30.0})
    assert whole == Term("gap", 30.0, None, ("stale_statistics", "unfinished", "optimizer_noise", "not_fitted"))
    assert error_budget({"train_error": 3.0}) == ()


def reference_of(gains, noise=0.0):
    """Return a reference whose networks gain shares of their error, plus noise (points), whatever their features."""
    rng = np.random.default_rng(0)
    rows = 120
    error, train = rng.uniform(20, 60, rows), rng.uniform(0, 20, rows)
    table = pd.DataFrame(
        {
            "family": np.repeat(["a", "b", "c", "d"], rows // 4),
            "source": np.repeat(["a", "b", "c", "d"], rows // 4),
            "validation_error": error,
            "train_error": train,
            **{f"gain_{name}": share * error + rng.normal(0, noise, rows) for name, share in gains.items()},
        }
    )
    return GainReference(GainModel.fit(table), (Policy(), Policy(racers=2, cost=0.25, weight=1.0)))


KNOWN = {"validation_error": 40.0, "train_error": 5.0}


@pytest.mark.parametrize(("free", "first"), [(FREE_SHARE + 0.03, "rate_down"), (FREE_SHARE - 0.03, "wider")])
def test_a_free_move_comes_first_from_two_thirds_of_the_best_gain_on(free, first):
    found = outlook_of(KNOWN, reference=reference_of({"wider": 0.3, "rate_down": 0.3 * free, "more_data": 0.01}))
    assert found.moves[0].remedy == found.move.remedy == first
    assert found.cause == REMEDIES[first].cause
    gains = {move.remedy: move.gain for move in found.moves}
    assert gains["wider"] == pytest.approx(12.0, rel=0.02)
    assert gains["rate_down"] == pytest.approx(12.0 * free, rel=0.02)
    assert [move.remedy for move in found.moves][-1] == "more_data"
    assert (found.networks, found.families) == (120, 4)


def test_what_cannot_be_made_is_no_move():
    reference = reference_of({"wider": 0.3, "rate_down": 0.1})
    found = outlook_of(KNOWN, possible=["rate_down"], reference=reference)
    assert [move.remedy for move in found.moves] == ["rate_down"]
    assert "model_too_small" not in found.ranking or found.ranking["model_too_small"] == 0


def test_nothing_to_gain_below_a_point():
    found = outlook_of(KNOWN, reference=reference_of({"wider": 0.01, "rate_down": -0.1}))
    assert (found.cause, found.move) == ("none", None)
    assert next(iter(found.ranking)) == "none"


def test_a_race_moves_the_order_and_not_the_gains():
    reference = reference_of({"wider": 0.3, "more_data": 0.29, "rate_down": -0.05})
    before = outlook_of(KNOWN, reference=reference)
    after = outlook_of(KNOWN, reference=reference, cost=0.25, raced={"wider": 50.0, "more_data": 40.0})
    assert (before.moves[0].remedy, after.moves[0].remedy) == ("wider", "more_data")
    gains = [{move.remedy: (move.gain, move.low, move.high) for move in found.moves} for found in (before, after)]
    assert gains[0] == gains[1]
    assert {move.remedy: move.raced for move in after.moves} == {"wider": 50.0, "more_data": 40.0, "rate_down": None}


def test_probabilities_are_those_of_one_choice_and_answers_abstain_on_their_own():
    for row in (ROW, ROW | PROBED, KNOWN):
        found = outlook_of(row)
        assert sum(found.ranking.values()) == pytest.approx(1)
        assert list(found.ranking.values()) == sorted(found.ranking.values(), reverse=True)
        assert all(0.5 <= answer.probability <= 1 for answer in found.answers)
        assert all(0 <= move.chance <= 1 and move.low <= move.gain <= move.high for move in found.moves)
    sure = reference_of({"rate_up": -0.2, "rate_down": 0.2, "wider": 0.2}, noise=4.0)
    by_name = {answer.question: answer for answer in outlook_of(KNOWN, reference=sure).answers}
    assert (by_name["optimizer"].answer, by_name["optimizer"].abstains) == ("too_high", False)
    assert set(by_name) == {"optimizer", "size"}  # no gain of data or time is known
    assert by_name["size"].probability < 0.8
    assert by_name["size"].abstains


def test_a_table_gives_the_outlooks_of_its_rows():
    rows = [ROW, ROW | {"train_error": 0.0, "hessian_trace": 100.0}, {"train_error": 3.0}, KNOWN]
    found = outlooks_of(pd.DataFrame(rows))
    assert found[2] is None
    for one, row in zip(found, rows, strict=True):
        if one is not None:
            alone = outlook_of(row)
            assert one.cause == alone.cause
            assert one.evidence == alone.evidence
            np.testing.assert_allclose([m.gain for m in one.moves], [m.gain for m in alone.moves])
            assert one.ranking == pytest.approx(alone.ranking)


LOSSES = ("train_loss", "validation_loss", "chance_loss", "barrier_loss", "scaled_gradient_norm")
#: Features of which a change of units leaves a constant: a family that differs by nothing else is told apart by them.
OF_UNITS = {"log_trace", "log_eigenvalue", "gradient_ratio"}


def full_row():
    """Return a row in which every feature can be computed."""
    rng = np.random.default_rng(1)
    needs = sorted({name for entry in EVIDENCE.values() for name in entry.needs})
    row = {name: float(rng.uniform(0.2, 0.9)) for name in needs}
    row |= {name: 100 * value for name, value in row.items() if name.endswith("_error")}
    return row | {"chance_error": 90.0, "chance_loss": 2.3}


def moved_by(change):
    """Return the features that a change of a row's columns moves."""
    row = full_row()
    before, after = (evidence_frame(pd.DataFrame([one])).iloc[0] for one in (row, row | change(row)))
    assert set(before.index) == set(EVIDENCE)
    return {name for name in before.index if not np.isclose(before[name], after[name], rtol=1e-9, atol=1e-12)}


def test_no_feature_depends_on_the_unit_of_the_loss():
    """Nats and bits, targets in metres and in feet: losses and curvatures times a factor, the rate over it."""
    factor = 7.0

    def change(row):
        losses = {n for n in row if n in LOSSES or n.endswith(("_train_loss", "_validation_loss"))}
        curved = {n for n in row if n.startswith("hessian_") or n == "scale_invariant_trace"}
        scaled = {name: factor * row[name] for name in losses | curved}
        rate, gradient = row["learning_rate"] / factor, row["gradient_ratio"] + np.log(factor)
        return scaled | {"learning_rate": rate, "gradient_ratio": gradient}

    assert moved_by(change) <= OF_UNITS


def test_no_feature_depends_on_a_temperature_that_the_weights_undo():
    """Three times the weights and a loss at temperature 3: the same function, a ninth of the curvature."""

    def change(row):
        return {
            **{name: 3 * row[name] for name in ("weight_norm_initial", "l2_distance")},
            **{name: row[name] / 9 for name in row if name.startswith("hessian_")},
            "gradient_ratio": row["gradient_ratio"] - np.log(9),
            "learning_rate": 9 * row["learning_rate"],
        }

    assert moved_by(change) <= OF_UNITS


def test_relabelled_classes_and_the_order_of_columns_change_nothing():
    row = ROW | PROBED | {"num_classes": 10}
    backwards = dict(reversed(row.items())) | {"labels": "renamed", "configuration": 7}
    assert outlook_of(row) == outlook_of(backwards)


def test_the_packaged_reference_has_every_family_once():
    reference = gain_reference()
    assert reference.model.table["family"].nunique() >= 5
    assert set(reference.model.remedies) <= set(REMEDIES)
