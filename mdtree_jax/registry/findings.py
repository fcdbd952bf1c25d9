"""The findings: faults of a model, its data or its training that show without an experiment. No JAX.

`mdtree_jax.subject.preflight` binds a function to each entry: `find(evidence) -> Seen | None`, or
`compare(first, second) -> Seen | None` for a finding about two networks; `mdtree_jax.diagnosis.words.findings` has its
sentence. A registered finding brings both:

    mdtree_jax.register(FindingKind("my_finding", …), find=my_function, say=my_sentence)
"""

from __future__ import annotations

from dataclasses import dataclass

from mdtree_jax.checks import check_choice
from mdtree_jax.registry.causes import CAUSES
from mdtree_jax.registry.register import BINDERS, in_table
from mdtree_jax.registry.table import Table


@dataclass(frozen=True)
class FindingKind:
    """One kind of finding.

    Attributes:
        name: identifier.
        meaning: one line for help and tables.
        holds: when it holds, as a condition on what is measured.
        values: names of its measured values, in the order in which they are shown.
        change: what to change, an imperative without a full stop; '' where it is a symptom of another one.
        cause: name of the cause that it becomes, of `mdtree_jax.registry.causes`; None for a symptom, which is said
            and makes no cause.
        yields_to: causes that explain it: where a finding of one of them is sure, this one is too weak to be told. So
            a history says nothing of the rate where the last activation cannot give out what the loss wants.
        sure: probability of its cause, at most: no look at a network is surer of what training it would do. Of networks
            of the reference with a wide gap, more data gained most for 80 %.
        decides: whether its cause comes before that of the expected gains. Of findings that they weigh themselves, and
            better, it does not: where a recorded network had a loss that jumps, a lower rate gained 4 points of error
            on average, and the change of the largest expected gain 9.

    Raises:
        UserError: an unknown cause.
    """

    name: str
    meaning: str
    holds: str
    values: tuple[str, ...] = ()
    change: str = ""
    cause: str | None = None
    yields_to: tuple[str, ...] = ()
    sure: float = 0.95
    decides: bool = True

    def __post_init__(self) -> None:
        for cause in (self.cause, *self.yields_to):
            if cause is not None:
                check_choice(f"cause of the finding '{self.name}'", cause, CAUSES)


_CANNOT_LEARN = ("wrong_last_activation", "wrong_loss", "bad_initialization", "wrong_labels")
_BREAK_UNITS = (
    *_CANNOT_LEARN,
    "inputs_not_scaled",
    "not_shuffled",
    "temperature_too_high",
    "too_much_regularization",
)

FINDINGS: Table[FindingKind] = Table(
    "finding",
    [
        # --- the data ---
        FindingKind(
            "inputs_unscaled",
            "inputs were never scaled",
            "deviations of the columns differ by a factor above 300, or the root mean square of the inputs is above "
            "30, and the first layer does not normalize",
            ("root_mean_square", "smallest_deviation", "largest_deviation", "first_layer"),
            "standardize every column of the inputs (subtract its mean, divide by its standard deviation); of images "
            "in 0 to 255, divide by 255",
            "inputs_not_scaled",
        ),
        FindingKind(
            "labels_unrelated",
            "targets that have nothing to do with the inputs",
            "neighbours among the inputs predict the targets no better than a constant, and neither does the network "
            "on held-out data; or they predict them well once the rows are shifted",
            ("neighbour_error", "chance", "shift", "shifted_error"),
            "check how inputs and targets are put together: one of them was shuffled or shifted by a row",
            "wrong_labels",
        ),
        FindingKind(
            "labels_relabelled",
            "predictions that are right after renaming the classes",
            "a one-to-one renaming of the predicted classes turns the error by at least 30 points to below half of "
            "chance",
            ("side", "error", "renamed_error"),
            "make the numbering of the classes the same in training, validation and test data",
            "wrong_labels",
        ),
        FindingKind(
            "unshuffled",
            "training examples that came in order of their labels",
            "the examples are sorted by label, and those of the last labels have a much lower error than the others or "
            "the error is near chance",
            ("error_first", "error_last"),
            "shuffle the training examples in every epoch",
            "not_shuffled",
        ),
        FindingKind(
            "preprocessing_differs",
            "inputs that are not prepared as in training",
            "the training error is near chance as given, and far below it after a usual preparation of the inputs",
            ("train_error", "chance", "preparation", "prepared_error"),
            "prepare the inputs as in training",
            "wrong_preprocessing",
        ),
        # --- outputs and loss ---
        FindingKind(
            "targets_out_of_reach",
            "targets that the last activation cannot reach",
            "at least a tenth of the targets of a regression lie outside the range of the last activation",
            ("activation", "share", "lowest_target", "highest_target"),
            "remove the last activation: a regression wants a linear output (and targets far from 1 want scaling)",
            "wrong_last_activation",
        ),
        FindingKind(
            "softmax_over_one_unit",
            "a softmax over a single output",
            "the output is exactly 1 for every example, whatever the parameters",
            (),
            "replace the softmax by a sigmoid, or give out two units",
            "wrong_last_activation",
        ),
        FindingKind(
            "relu_output",
            "a ReLU after the last layer of a classifier",
            "no output is negative whatever the parameters, many are exactly 0",
            ("zero_share", "dead_outputs", "largest", "wants"),
            "replace the last ReLU by a softmax (a sigmoid for one output), or remove it where the loss takes logits",
            "wrong_last_activation",
        ),
        FindingKind(
            "outputs_not_probabilities",
            "outputs that are no probabilities though the loss takes them",
            "outputs lie outside 0 to 1 where the objective wants probabilities",
            ("share", "lowest", "highest"),
            "end in a softmax (a sigmoid for one output), or use a loss that takes logits",
            "wrong_last_activation",
        ),
        FindingKind(
            "bounded_logits",
            "logits that the last activation confines",
            "outputs lie in (0, 1) or (−1, 1) whatever the parameters, where the loss takes logits",
            ("activation",),
            "remove the last activation, or use a loss that takes probabilities",
            "wrong_last_activation",
        ),
        FindingKind(
            "biased_outputs",
            "outputs that are off by a constant, of a network without a bias",
            "the mean residual is above half of the residuals' deviation, and no parameter can shift the outputs",
            ("mean_residual", "residual_deviation"),
            "give the last layer a bias, or subtract the mean from the targets",
            "wrong_last_activation",
        ),
        FindingKind(
            "loss_settles_at_majority",
            "a loss whose minimum is the most frequent label",
            "of all constant predictions the loss is least at the most frequent label, not at the labels' frequencies",
            ("loss_at_frequencies", "loss_at_majority"),
            "use cross-entropy (or the squared error) in place of this loss",
            "wrong_loss",
        ),
        FindingKind(
            "constant_outputs",
            "the same prediction for all examples",
            "outputs vary between examples by less than a thousandth of what they should",
            ("spread", "error", "chance"),
            yields_to=("wrong_last_activation",),
        ),
        # --- layers and weights ---
        FindingKind(
            "dead_units",
            "hidden units that are 0 for all examples",
            "above 60 % of the ReLU units of a layer are exactly 0 for every example",
            ("layer", "share"),
            "start from smaller weights and biases of 0, lower the learning rate, or use a leaky ReLU",
            "dead_or_saturated_units",
            _BREAK_UNITS,
        ),
        FindingKind(
            "saturated_units",
            "hidden units at the ends of their range",
            "above 55 % of the outputs of a layer of tanh or sigmoid units are within 1 % of the ends of their range",
            ("layer", "share"),
            "start from smaller weights, scale the inputs, or use ReLU",
            "dead_or_saturated_units",
            _BREAK_UNITS,
        ),
        FindingKind(
            "vanishing_gradient",
            "a gradient that does not reach all layers",
            "relative to its weights, the gradient of one layer is less than 6e-4 of that of another, and the training "
            "error is high",
            ("ratio",),
            "use ReLU or GELU in place of sigmoid, normalization or skip connections, or fewer layers",
            "dead_or_saturated_units",
            _BREAK_UNITS,
        ),
        FindingKind(
            "identical_units",
            "units of a layer that are all the same",
            "more than half of the units of a layer have the same weights as another, or all its weights are 0",
            ("parameter", "share"),
            "initialize the weights at random",
            "bad_initialization",
        ),
        FindingKind(
            "weights_too_large",
            "weights that blow up what passes through them",
            "root mean square of a kernel × root of its inputs, median over layers, is above 6 at initialization (at "
            "the end where that is not known)",
            ("gain",),
            "initialize with the deviation 1/√(inputs of the layer) (LeCun) or √2 of that (He)",
            "bad_initialization",
        ),
        FindingKind(
            "weights_grown",
            "weights that training blew up",
            "the weights of the layers are above 4 times their initial norm, and the training error is high or "
            "the loss jumps",
            ("ratio", "is_known"),
            "lower the learning rate by a factor of 3 to 10, or enlarge the batch",
            "temperature_too_high",
            (*_CANNOT_LEARN, "inputs_not_scaled"),
        ),
        FindingKind(
            "weights_shrunk",
            "weights that decayed away",
            "there is weight decay, the weights of the layers are below 30 % of their initial norm and the training "
            "error is high",
            ("ratio", "is_known"),
            "use a weaker weight decay",
            "too_much_regularization",
            ("bad_initialization",),
        ),
        FindingKind(
            "no_gradient",
            "a gradient that is exactly 0",
            "every component of the gradient of the training loss is 0 though examples are wrong",
            ("train_error",),
        ),
        FindingKind(
            "never_moved",
            "weights that are still those of the initialization",
            "their distance from the initialization is below a thousandth of its norm",
            ("distance",),
        ),
        FindingKind(
            "statistics_do_not_move",
            "running averages that training mode does not move",
            "apply_train returns the averages that it was given",
            (),
            "let apply_train return the updated collections (in Flax: mutable=['batch_stats'])",
        ),
        # --- the history of training ---
        FindingKind(
            "straight_loss",
            "a training loss that falls in a straight line",
            "the second half of the steps brings 0.6 to 1.7 times as much as the first, far from the end of learning",
            ("first_half", "second_half", "steps"),
            "raise the learning rate tenfold, and again while the loss still falls in a straight line",
            "temperature_too_low",
            _CANNOT_LEARN,
        ),
        FindingKind(
            "falling_at_end",
            "a training loss that still falls steeply at the end",
            "it falls by at least 20 % in the last third of the steps while the training error is high",
            ("fall", "train_error", "steps"),
            "train longer; a higher learning rate or a smaller batch does more in as many examples",
            "trained_too_short",
            _CANNOT_LEARN,
        ),
        FindingKind(
            "few_steps",
            "a training of a few steps",
            "fewer than 200 steps, and the training error is high",
            ("steps", "train_error", "batch_size"),
            "take more steps: a smaller batch at the same price, else more epochs",
            "trained_too_short",
            _CANNOT_LEARN,
        ),
        FindingKind(
            "unstable_loss",
            "a training loss that jumps",
            "it is not finite, or rises again and again by more than a tenth of where it started",
            ("rises", "points"),
            "lower the learning rate by a factor of 3 to 10, or enlarge the batch",
            "temperature_too_high",
            _CANNOT_LEARN,
            sure=0.5,
            decides=False,
        ),
        FindingKind(
            "unstable_error",
            "an error that jumps with the loss",
            "the loss jumps, and the error of the last half is above the best of the history by a fifth of itself and "
            "a point",
            ("usual", "best"),
            "lower the learning rate by a factor of 3 to 10, or enlarge the batch",
            "temperature_too_high",
            _CANNOT_LEARN,
        ),
        FindingKind(
            "flat_loss",
            "a training loss that does not fall",
            "it fell by less than 1 % since the first point of the history and the training error is near chance",
            ("fall",),
        ),
        FindingKind(
            "wide_gap",
            "a wide gap between training and held-out error",
            "held-out error minus training error is above a quarter of chance and above half of the held-out error",
            ("train_error", "validation_error"),
            "get more training data, or augment them; weight decay or an earlier stop take off a part",
            "too_little_data",
            ("wrong_labels", "wrong_preprocessing"),
            sure=0.7,
            decides=False,
        ),
        # --- the list of networks ---
        FindingKind(
            "same_network",
            "two checkpoints that are the same network",
            "all parameters are equal to within rounding",
            ("networks",),
            "give networks that were trained from different seeds",
        ),
        FindingKind(
            "epochs_of_one_run",
            "checkpoints that are epochs of one run, not seeds",
            "the cosine between the kernels of two networks is above 0.7 and their signs agree",
            ("networks", "cosine", "signs"),
            "give networks that were trained from different initializations",
        ),
    ],
)
BINDERS[FindingKind] = in_table(FINDINGS, needs=("say",), may_have=("find", "compare"))
