"""What a diagnosis measures: for how long curves are trained."""

from types import SimpleNamespace

import pytest

from mdtree_jax import UserError, measure_model
from mdtree_jax.diagnosis.cost import Training
from mdtree_jax.recipe.measure_settings import MeasureConfig
from mdtree_jax.subject.settings import cheap_measure, settings_of, with_budget
from tests.subject.networks import apply, make_data, make_params

KNOWN, OWN, PUBLISHED = Training(batch_size=20, epochs=3), "mine", "published/F"
DEFAULT = (2000, 32)


@pytest.mark.parametrize(
    ("measure", "reference", "training", "length"),
    [
        (None, OWN, KNOWN, (15, 20)),  # 3 epochs of 100 examples
        (None, OWN, Training(batch_size=400, steps=7), (7, 100)),  # no batch is larger than the data
        (None, OWN, Training(epochs=3), DEFAULT),
        (None, PUBLISHED, KNOWN, DEFAULT),
        ({"effort": "fast"}, OWN, KNOWN, (15, 20)),
        ({"curve_steps": 50}, OWN, KNOWN, (50, 32)),
        ({"curve_budget": "training"}, PUBLISHED, KNOWN, (15, 20)),
        ({"curve_budget": "published"}, OWN, KNOWN, (19_000, 128)),
        (MeasureConfig(curve_steps=9), OWN, KNOWN, (9, 128)),
        (MeasureConfig(curve_budget="training"), OWN, KNOWN, (15, 20)),
    ],
)
def test_curves_train_as_long_as_the_networks_where_that_is_known(measure, reference, training, length):
    reference = SimpleNamespace(name=reference, columns=())
    settings = settings_of(measure, reference, default=cheap_measure(with_curve=True))
    found = with_budget(settings, measure, reference, training, 100)
    assert (found.curve_steps, found.curve_batch_size) == length


def test_a_budget_of_a_training_that_is_not_known_is_refused():
    networks, sides = [make_params(0), make_params(1)], make_data(40)
    with pytest.raises(UserError, match="curve_budget=training needs the length of the training: give training"):
        measure_model(apply, networks, sides, measure={"curve_budget": "training"}, batch_size=8)
