"""Figures of transfer: looks that everybody can tell apart, axes with units, one kind of interval."""

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from scipy.stats import t as student

from mdtree_jax.experiments.method_table import JOINT_METHODS, METHOD_TABLE, METHODS
from mdtree_jax.experiments.runner import EXPERIMENTS, JOINT_EXPERIMENTS
from mdtree_jax.registry.causes import CAUSES
from mdtree_jax.registry.questions import QUESTIONS
from mdtree_jax.report.figures import accuracy_curves, phase_labels, phase_metrics
from mdtree_jax.report.pyplot import plt
from mdtree_jax.report.styles import APART, style_of

#: Colours as people without one kind of cone see them: matrices on linear RGB of Machado et al. (2009), severity 1.
SIGHTS = {
    "all cones": np.eye(3),
    "no red": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "no green": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "no blue": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)


def cielab(colours, sight):
    """Return colours, hex codes, in CIELAB (D65) as one kind of sight has them, (colours, 3)."""
    srgb = np.array([mpl.colors.to_rgb(colour) for colour in colours])
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    xyz = np.clip(linear @ np.transpose(SIGHTS[sight]), 0, 1) @ TO_XYZ.T / [0.95047, 1.0, 1.08883]
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)


def nearest(colours, sight):
    """Return the least distance of two different ones of some colours."""
    lab = cielab(colours, sight)
    distance = np.linalg.norm(lab[:, None] - lab[None], axis=2)
    return distance[~np.eye(len(lab), dtype=bool)].min()


def test_distances_are_those_of_known_colours():
    assert cielab(["#ffffff", "#ff0000"], "all cones") == pytest.approx(
        np.array([[100, 0, 0], [53.24, 80.09, 67.20]]), abs=0.05
    )
    # A green and a red that people without green cones mistake for each other.
    assert nearest(["#2f855a", "#8c564b"], "no green") < 12 < nearest(["#2f855a", "#8c564b"], "all cones")


@pytest.mark.parametrize("sight", SIGHTS)
def test_no_two_looks_are_alike(sight):
    methods = [style_of(name).colour for name in METHOD_TABLE]
    assert nearest(methods, sight) >= APART
    assert cielab(methods, "all cones")[:, 0].max() < 75  # dark enough for a white ground
    assert nearest([cause.colour for cause in CAUSES.values() if not cause.is_fault], sight) >= 16.9
    for question in QUESTIONS.values():
        assert nearest([answer.colour for answer in question.answers], sight) >= 17


def test_methods_of_one_figure_have_markers_of_their_own():
    for names in (METHODS, JOINT_METHODS, METHOD_TABLE):
        assert len({style_of(name).marker for name in names}) == len(names)
        assert {style_of(name).line for name in names} == {"-"}
    assert style_of("from_outside").line != "-"


def results(experiment, k, n_train, seeds=3):
    rows = [
        (
            experiment.name,
            experiment.task,
            method,
            size,
            seed,
            n,
            100,
            60.0 + 5 * seed * experiment.sampling.startswith("r"),
        )
        for method in ("md_tree", "validation")
        for size, n in zip(k, n_train, strict=True)
        for seed in range(seeds)
    ]
    columns = ["experiment", "task", "method", "k", "seed", "n_train", "n_test", "accuracy"]
    return pd.DataFrame(rows, columns=columns)


@pytest.mark.parametrize("experiment", [*EXPERIMENTS.values(), *JOINT_EXPERIMENTS.values()], ids=lambda e: e.name)
def test_axes_of_a_curve_say_what_they_show(experiment):
    figure = accuracy_curves(results(experiment, [1, 2, 4], [12, 24, 48]), experiment.name)
    (ax,) = figure.axes
    is_random = experiment.sampling.startswith("random")
    assert "%" in ax.get_ylabel()
    assert "mean over 3 seeds" in ax.get_ylabel()
    assert ("band: 95 % interval of the mean" in ax.get_ylabel()) == is_random
    assert ax.get_xlabel() == "number of training models"
    assert ax.get_xscale() == "log"
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["12", "24", "48"]
    title = ax.get_title(loc="left")
    assert title.endswith("tested on 100 models")
    assert experiment.name not in title
    assert "_" not in title
    lines = [line for line in ax.lines if not line.get_label().startswith("_")]
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == 2
    if is_random:  # the interval is Student's of the mean over three seeds: 60, 65, 70
        half = student.ppf(0.975, 2) * 5 / np.sqrt(3)
        (ends,) = {tuple(np.unique(band.get_paths()[0].vertices[:, 1].round(6))) for band in ax.collections}
        assert ends == pytest.approx((65 - half, 65 + half), abs=1e-5)
    plt.close(figure)


def test_sizes_that_do_not_double_stand_on_a_straight_scale():
    experiment = EXPERIMENTS["q1_dataset"]
    figure = accuracy_curves(results(experiment, [1, 2], [100, 150], seeds=1), experiment.name)
    assert figure.axes[0].get_xscale() == "linear"
    assert "one seed)" in figure.axes[0].get_ylabel()
    plt.close(figure)


def test_axes_of_phase_plots_have_units(collections):
    from mdtree_jax import MDTreeClassifier

    F = collections[0]
    figure = phase_metrics(F, "F")
    labels = [text for ax in figure.axes for text in (ax.get_xlabel(), ax.get_ylabel()) if text]
    assert {"batch size, samples", "test accuracy, %", "sharpness, ln of the Hessian trace"} <= set(labels)
    assert any(text.endswith("\nnetwork width, channels") for text in labels)
    plt.close(figure)
    tree = MDTreeClassifier("size", fit="published").fit(F)
    figure = phase_labels(F, tree, QUESTIONS["size"], "published/F")
    title, question = figure.get_suptitle().split("\n")
    assert title == "Model size or temperature: the tree is right for 84.2 % of 1669 models of published/F"
    assert question == QUESTIONS["size"].sentence
    assert {"a better temperature", "a larger model"} <= {text.get_text() for text in figure.legends[0].get_texts()}
    plt.close(figure)
