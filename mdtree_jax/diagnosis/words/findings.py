"""The findings of a preflight as sentences. They begin with a small letter and have no full stop; as facts do."""

from __future__ import annotations

from collections.abc import Callable

from mdtree_jax.diagnosis.findings import Finding
from mdtree_jax.diagnosis.words.formats import number, percent
from mdtree_jax.registry.findings import FINDINGS

#: Last activation -> what it gives out, in words.
_REACH = {
    "softmax": "numbers between 0 and 1 that sum to 1",
    "sigmoid": "numbers between 0 and 1",
    "tanh": "numbers between −1 and 1",
    "relu": "no negative numbers",
    "positive": "no negative numbers",
}


def finding_sentence(finding: Finding) -> str:
    """Return what was seen, in one sentence; `advice_sentence` says what to change.

    >>> from mdtree_jax.diagnosis.findings import Finding
    >>> finding_sentence(Finding("dead_units", 0.9, {"layer": "ReLU 2", "share": 0.75}))
    'of layer “ReLU 2”, 75 % of the units are 0 for every example looked at: they give nothing and learn nothing'
    """
    say = FINDINGS.bound(finding.kind, "say")
    if say is None:
        return finding.entry.meaning
    return say(**finding.values)


def advice_sentence(finding: Finding) -> str:
    """Return what to change, '' for a symptom of another finding."""
    if finding.kind == "preprocessing_differs" and finding.values["preparation"]:
        return f"{finding.entry.change}: {finding.values['preparation']}"
    return finding.entry.change


def _inputs_unscaled(
    root_mean_square: float, smallest_deviation: float, largest_deviation: float, first_layer: float | None
) -> str:
    text = f"the inputs were never scaled: their root mean square is {number(root_mean_square)}"
    if largest_deviation > 10 * smallest_deviation:
        text += (
            f", and the standard deviations of their columns run from {number(smallest_deviation)} to "
            f"{number(largest_deviation)}"
        )
    if first_layer is not None:
        text += f"; the first layer gives out numbers of about {number(first_layer)} (1 is usual)"
    return text


def _labels_unrelated(neighbour_error: float, chance: float, shift: int | None, shifted_error: float | None) -> str:
    text = (
        f"the targets seem to have nothing to do with the inputs: similar examples predict them with an error of "
        f"{neighbour_error:.0f} % (a constant: {chance:.0f} %)"
    )
    if shift is not None:
        way = "later" if shift > 0 else "earlier"
        text += f", but with {shifted_error:.0f} % once every input gets the target of the row one place {way}"
    return text


def _labels_relabelled(side: str, error: float, renamed_error: float) -> str:
    return (
        f"the classes of the {side} examples are numbered in another way than the network's outputs: its error of "
        f"{error:.0f} % is {renamed_error:.0f} % after renaming them"
    )


def _preprocessing_differs(
    train_error: float, chance: float, preparation: str | None, prepared_error: float | None
) -> str:
    text = f"the training error of {train_error:.1f} % does not belong to a trained network (guessing: {chance:.1f} %)"
    if preparation is None:
        return text + ": the data are not those that it was trained on, or not prepared in the same way"
    return text + f", and is {prepared_error:.1f} % with the inputs prepared like this: {preparation}"


def _targets_out_of_reach(activation: str, share: float, lowest_target: float, highest_target: float) -> str:
    return (
        f"the last activation gives out {_REACH.get(activation, activation)}, but the targets run from "
        f"{number(lowest_target)} to {number(highest_target)}: it cannot reach {percent(share)} of them"
    )


def _relu_output(zero_share: float, dead_outputs: int, largest: float, wants: str) -> str:
    text = f"a ReLU follows the last layer: no output is negative, and {percent(zero_share)} of them are exactly 0"
    if dead_outputs:
        text += f"; {dead_outputs} of the outputs {'is' if dead_outputs == 1 else 'are'} 0 for every example"
    if wants == "probabilities" and largest > 1:
        text += f"; they are no probabilities (the largest is {number(largest)})"
    return text


def _outputs_not_probabilities(share: float, lowest: float, highest: float) -> str:
    return (
        f"the loss takes probabilities, but {percent(share)} of the outputs lie outside 0 to 1 (from {number(lowest)} "
        f"to {number(highest)})"
    )


def _bounded_logits(activation: str) -> str:
    return f"the loss takes logits, but the last activation gives out {_REACH[activation]} only"


def _constant_outputs(spread: float, error: float, chance: float) -> str:
    return f"the network predicts the same for every example (error {error:.0f} %, a constant {chance:.0f} %)"


def _of_steps(steps: float | None) -> str:
    return "" if steps is None else f" of {steps:.0f} steps"


def _straight_loss(first_half: float, second_half: float, steps: float | None) -> str:
    return (
        f"the training loss falls in a straight line (by {number(first_half)} in the first half{_of_steps(steps)}"
        f", by {number(second_half)} in the second): the learning rate is far too low"
    )


def _falling_at_end(fall: float, train_error: float, steps: float | None) -> str:
    return (
        f"the training loss still falls steeply at the end (by {percent(fall)} in the last third"
        f"{_of_steps(steps)}), at a training error of {train_error:.1f} %"
    )


def _few_steps(steps: float, train_error: float, batch_size: int | None) -> str:
    batch = "" if batch_size is None else f", of a batch of {batch_size} examples,"
    return f"it is hardly trained: {steps:.0f} steps{batch} at a training error of {train_error:.1f} %"


def _start(is_known: bool) -> str:
    return "their initial norm" if is_known else "the norm that usual initializations have"


SENTENCES: dict[str, Callable[..., str]] = {
    "inputs_unscaled": _inputs_unscaled,
    "labels_unrelated": _labels_unrelated,
    "labels_relabelled": _labels_relabelled,
    "unshuffled": lambda error_first, error_last: (
        f"the training examples are sorted by label (error {error_last:.0f} % on the last labels, {error_first:.0f} % "
        "on the others): without shuffling, each label is forgotten while the next one is learned"
    ),
    "preprocessing_differs": _preprocessing_differs,
    "targets_out_of_reach": _targets_out_of_reach,
    "softmax_over_one_unit": lambda: (
        "the output cannot vary: a softmax over one unit is 1 for every example, and its gradient is 0"
    ),
    "relu_output": _relu_output,
    "outputs_not_probabilities": _outputs_not_probabilities,
    "bounded_logits": _bounded_logits,
    "biased_outputs": lambda mean_residual, residual_deviation: (
        f"the outputs are off by {number(mean_residual)} on average (the residuals' deviation is "
        f"{number(residual_deviation)}), and no bias can shift them"
    ),
    "loss_settles_at_majority": lambda loss_at_frequencies, loss_at_majority: (
        f"the loss does not fit labels: of constant predictions it likes the most frequent label best "
        f"({number(loss_at_majority)}, at the labels' frequencies {number(loss_at_frequencies)}), so that training "
        "settles there"
    ),
    "constant_outputs": _constant_outputs,
    "dead_units": lambda layer, share: (
        f"of layer “{layer}”, {percent(share)} of the units are 0 for every example looked at: they give nothing and "
        "learn nothing"
    ),
    "saturated_units": lambda layer, share: (
        f"of layer “{layer}”, {percent(share)} of the outputs are at the ends of their range, where the gradient is "
        "nearly 0"
    ),
    "vanishing_gradient": lambda ratio: (
        f"the gradient hardly reaches some layers: relative to its weights, that of one is {ratio:.1g} of that of "
        "another"
    ),
    "identical_units": lambda parameter, share: (
        f"{percent(share)} of the units of “{parameter}” are copies of others: they got the same initial weights, and "
        "training cannot tell them apart"
    ),
    "weights_too_large": lambda gain: (
        f"the weights are large: a layer multiplies what passes through it by about {number(gain)} (1 to 2 is usual)"
    ),
    "weights_grown": lambda ratio, is_known: (
        f"training blew up the weights to {number(ratio)} times {_start(is_known)}"
    ),
    "weights_shrunk": lambda ratio, is_known: (
        f"the weights have decayed to {percent(ratio)} of {_start(is_known)}, and the training error is high"
    ),
    "no_gradient": lambda train_error: (
        f"the gradient is exactly 0 at a training error of {train_error:.1f} %: nothing can be learned from here"
    ),
    "never_moved": lambda distance: (
        f"the weights are those of the initialization (moved by {distance:.1g} of their norm)"
    ),
    "statistics_do_not_move": lambda: "apply_train does not update the running averages",
    "straight_loss": _straight_loss,
    "falling_at_end": _falling_at_end,
    "few_steps": _few_steps,
    "unstable_loss": lambda rises, points: (
        f"the training loss jumps: it rises steeply, or is not finite, at {rises} of {points} points of the history"
    ),
    "unstable_error": lambda usual, best: (
        f"the error jumps with the loss: it had been {number(best)} % before, and is {number(usual)} % on most points "
        "of the last half"
    ),
    "flat_loss": lambda fall: f"the training loss does not fall (by {percent(max(fall, 0.0))} in the whole history)",
    "wide_gap": lambda train_error, validation_error: (
        f"the held-out error is {validation_error:.1f} % and the training error {train_error:.1f} %: most of the error "
        "is a gap"
    ),
    "same_network": lambda networks: f"networks {networks[0]} and {networks[1]} are the same network",
    "epochs_of_one_run": lambda networks, cosine, signs: (
        f"networks {networks[0]} and {networks[1]} look like epochs of one run, or come from one initialization: their "
        f"weights have a cosine of {cosine:.2f} and {percent(signs)} of the same signs (two seeds: 0 and 50 %)"
    ),
}
for _name, _say in SENTENCES.items():
    FINDINGS.bind(_name, say=_say)
