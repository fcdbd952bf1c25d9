"""The questions that diagnostic trees answer. No JAX.

An entry holds everything about a question: its two answers in words, the causes that each answer supports, the trees as
tables of nodes, and the source of the labels. The tasks of `transfer` and `MDTreeClassifier`, label columns, the
evidence for and against a diagnosis, reports and figures follow from it.

To add your own question::

    mdtree_jax.register(Question("length", "Is training too short?", answers=(...), tree=Tree("length", (...))))

**Label.** If both answers name causes, a row's label is computed from the test errors of its grid: the answer whose
causes have the larger room for improvement (along the knobs that address a cause: `Knob.up`, `Knob.down`). Otherwise
the collection must contain the label as a column.

Structures of the paper: Zhou et al., "MD tree", ICML 2024. Each tree tests the training error first, as published, or a
comment says why sharpness comes first. Companion trees answer the same question from other metrics and vote:

- Sign of `mode_connectivity`: below 0, a barrier separates the networks; above 0, the curve finds lower error than its
  endpoints, which are then not at the bottom of their valley.
- `cka`: networks that disagree on mixup images have found different functions.
- `log_effective_rank`, ln(trace / top eigenvalue) of the Hessian: how many directions are as sharp as the sharpest.
- `train_loss` if the training error is 0: a wider network reaches a lower loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from mdtree_jax.checks import UserError, check_choice
from mdtree_jax.registry.causes import CAUSES
from mdtree_jax.registry.register import BINDERS, Binder
from mdtree_jax.registry.table import Table
from mdtree_jax.registry.tree import Node, Tree, check_tree


class Answer(NamedTuple):
    """One of the two answers of a question.

    Attributes:
        name: the class: an identifier, as used in labels and JSON.
        words: the answer in words; it follows the question.
        causes: the causes that this answer supports, and that the other answer contradicts.
        published: the published name of the class, accepted on input; '' if it has none.
        colour: of the class in figures, a hex code.
        action: what to do if this is the answer; '' if the knobs that address its causes determine it.
    """

    name: str
    words: str
    causes: tuple[str, ...] = ()
    published: str = ""
    colour: str = "#4a5568"
    action: str = ""


@dataclass(frozen=True)
class Question:
    """One question.

    Attributes:
        name: identifier; the `task` of transfer and of `MDTreeClassifier`.
        sentence: the question in words.
        answers: its two answers, in the order of the published labels ('large' < 'small', 'batch' < 'width'), which
            breaks ties of the baselines.
        tree: the main tree, which is shown.
        title: the subject in a few words, for the titles of figures; defaults to the name.
        companions: trees that vote together with `tree` in the robust fit, each if its features are available.
        relative: members that replace `tree` and `companions` if a collection may belong to another family; empty if
            there are none.
        similarity: a variant of `tree` that uses similarity.
        one_checkpoint: the tree that needs no second network.
        label: column of the label; defaults to `label_<name>`.
        published_label: the published name of that column; '' if it has none.
        min_width: the smallest width that is used, as published; None uses all.
        hyperparameters: features of the baseline that knows only sizes; their order breaks its ties.
        is_published: whether it is one of the paper's questions, which are answered by default and whose trees are
            features of the joint model.

    Raises:
        UserError: the answers are not two different ones, a cause is unknown, or the nodes do not form a tree with
            these answers.
    """

    name: str
    sentence: str
    answers: tuple[Answer, Answer]
    tree: Tree
    title: str = ""
    companions: tuple[Tree, ...] = ()
    relative: tuple[Tree, ...] = ()
    similarity: Tree | None = None
    one_checkpoint: Tree | None = None
    label: str = ""
    published_label: str = ""
    min_width: int | None = None
    hyperparameters: tuple[str, ...] = ("log_num_samples", "log_num_parameters")
    is_published: bool = False

    def __post_init__(self):
        object.__setattr__(self, "label", self.label or f"label_{self.name}")
        object.__setattr__(self, "title", self.title or self.name)
        if len(self.answers) != 2 or self.answers[0].name == self.answers[1].name:
            raise UserError(f"question '{self.name}' has the answers {list(self.classes)}; it needs two different ones")
        for answer in self.answers:
            for cause in answer.causes:
                check_choice(f"cause of answer '{answer.name}'", cause, CAUSES)
        for tree in (*self.trees, *self.relative, self.similarity, self.one_checkpoint):
            if tree is not None:
                check_tree(tree.name, tree.nodes, self.classes)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the two answers."""
        return tuple(answer.name for answer in self.answers)

    @property
    def groups(self) -> tuple[tuple[str, ...], ...]:
        """The causes that each answer supports, in the order of `classes`."""
        return tuple(answer.causes for answer in self.answers)

    @property
    def is_compared(self) -> bool:
        """Whether the label is computed from the grid, by comparing the room for improvement of two cause groups."""
        return all(answer.causes for answer in self.answers)

    @property
    def trees(self) -> tuple[Tree, ...]:
        """The members of the robust fit, the main tree first."""
        return (self.tree, *self.companions)

    def answer(self, name: str) -> Answer:
        """Return the answer of that name; raises `KeyError`."""
        return {answer.name: answer for answer in self.answers}[name]

    def against(self, cause: str) -> Answer | None:
        """Return the answer that contradicts a cause; None if no answer supports it."""
        speaks = [cause in answer.causes for answer in self.answers]
        return self.answers[1 - speaks.index(True)] if any(speaks) else None


#: Tasks that do not have two answers (`mdtree_jax.causes.method_protocol`).
RESERVED = ("joint", "joint_room")


def _tree(name: str, *rows: tuple) -> Tree:
    return Tree(name, tuple(Node(*row) for row in rows))


_ERROR = ("train_error", 0.5, 0.0, 1.0)
_PEAK = ("mode_connectivity_peak", -10.0, -30.0, 0.0)
_SHARPNESS = ("log_hessian_trace", 7.0, 4.0, 9.0)
_CONNECTIVITY = ("mode_connectivity", 0.0, -15.0, 15.0)
_RANK = ("log_effective_rank", 2.0, 1.0, 3.0)
_CKA = ("cka", 0.5, 0.2, 0.8)
_RELATIVE = ("log_relative_eigenvalue", 6.5, 2.0, 9.5)
# Thresholds that the published structures do not have; their initial values are rounded from collection F.
_FLATNESS = ("log_hessian_trace", 5.0, 4.0, 6.0)
_DISAGREEMENT = ("cka", 0.4, 0.2, 0.6)
_LOSS = ("train_loss", 1e-3, 1e-4, 1e-2)

_COLD, _HOT = "temperature_too_low", "temperature_too_high"
_TEMPERATURE = Answer("temperature", "a better temperature", (_COLD, _HOT), "batch", "#6b46c1")


def _optimizer(name: str, *last: tuple) -> Tree:
    return _tree(name, (*_ERROR, _COLD, 1), (*_PEAK, 2, _HOT), *last)


_OPTIMIZER = _optimizer("optimizer", (*_SHARPNESS, _HOT, _COLD))
_SIMILARITY = _optimizer("optimizer_similarity", (*_CKA, _COLD, _HOT))
_BARRIER = _optimizer("optimizer_barrier", (*_CONNECTIVITY, _COLD, _HOT))
_LOSS_OF_SIZE = _tree(
    "size_loss",
    (*_ERROR, 1, 2),
    (*_LOSS, "temperature", "size"),
    (*_RANK, "size", "temperature"),
)  # fmt: skip

QUESTIONS: Table[Question] = Table(
    "question",
    [
        # The published labels 'small' and 'large' speak of temperature: 'small' means a batch that is too LARGE.
        Question(
            "optimizer",
            "Was the training temperature too low or too high?",
            (
                Answer(_HOT, "too high", (_HOT,), "large", "#c05621"),
                Answer(_COLD, "too low", (_COLD,), "small", "#2b6cb0"),
            ),
            _OPTIMIZER,
            title="Training temperature",
            companions=(
                _SIMILARITY,
                _BARRIER,
                _optimizer("optimizer_rank", (*_RANK, _HOT, _COLD)),
            ),
            # The spread of the sharpness, whose level a family sets, gives way to sharpness relative to the loss
            # (sweeps/transfer.md).
            relative=(
                _OPTIMIZER,
                _SIMILARITY,
                _BARRIER,
                _optimizer("optimizer_relative", (*_RELATIVE, _HOT, _COLD)),
            ),
            similarity=_SIMILARITY,
            # For one checkpoint: of a dozen trees without connectivity and similarity, averages of two and three among
            # them, the best by cross-validation within F over blocks of its grid (sweeps/joint.md).
            one_checkpoint=_tree("optimizer_single", (*_ERROR, _COLD, 1), (*_SHARPNESS, _HOT, _COLD)),
            published_label="bs_failure",
            is_published=True,
        ),
        Question(
            "size",
            "Would a larger model gain more than a better temperature?",
            (_TEMPERATURE, Answer("size", "a larger model", ("model_too_small",), "width", "#2f855a")),
            _tree(
                "size",
                (*_ERROR, 1, 2),
                (*_PEAK, "size", "temperature"),
                (*_PEAK, "size", "temperature"),
            ),
            title="Model size or temperature",
            companions=(
                _tree(
                    "size_similarity",
                    (*_ERROR, 1, 2),
                    (*_CKA, "size", "temperature"),
                    (*_CONNECTIVITY, "size", "temperature"),
                ),
                _LOSS_OF_SIZE,
            ),
            one_checkpoint=_LOSS_OF_SIZE,
            published_label="width_vs_batch",
            hyperparameters=("log_num_samples",),
            is_published=True,
        ),
        Question(
            "data",
            "Would more training data gain more than a better temperature?",
            (_TEMPERATURE, Answer("data", "more data", ("too_little_data",), "data", "#b7791f")),
            _tree(
                "data",
                (*_ERROR, 1, 3),
                (*_PEAK, 4, 2),
                (*_SHARPNESS, "data", "temperature"),
                (*_PEAK, "temperature", 5),
                (*_SHARPNESS, "data", "temperature"),
                (*_SHARPNESS, "data", "temperature"),
            ),
            title="Training data or temperature",
            companions=(
                # Flat minima come of little data, very sharp ones of a low temperature; in between, networks short of
                # data disagree.
                _tree(
                    "data_sharpness",
                    (*_FLATNESS, "data", 1),
                    (*_SHARPNESS, 2, "temperature"),
                    (*_DISAGREEMENT, "data", "temperature"),
                ),
                # The published order, with similarity as the last question to networks that do not fit their data.
                _tree(
                    "data_similarity",
                    (*_ERROR, 1, 2),
                    (*_FLATNESS, "data", "temperature"),
                    (*_SHARPNESS, 3, "temperature"),
                    (*_DISAGREEMENT, "data", "temperature"),
                ),
            ),
            one_checkpoint=_tree("data_single", (*_FLATNESS, "data", "temperature")),
            published_label="data_vs_batch",
            min_width=32,
            hyperparameters=("log_num_parameters",),
            is_published=True,
        ),
    ],
)  # fmt: skip


def question_behind(cause: str) -> Question | None:
    """Return the question whose tree is the evidence for a cause: the first with an answer for that cause only."""
    alone = (q for q in QUESTIONS.values() if any(answer.causes == (cause,) for answer in q.answers))
    return next(alone, None)


def answer_words(question: str, name: str) -> str:
    """Return the words of an answer; its name if the question or the answer is not in the table."""
    known = QUESTIONS[question].answers if question in QUESTIONS else ()
    return next((answer.words for answer in known if answer.name == name), name)


def class_colour(name: str) -> str:
    """Return the colour of a class in figures; grey for an unknown class."""
    answers = (answer for question in QUESTIONS.values() for answer in question.answers)
    return next((answer.colour for answer in answers if answer.name == name), "#4a5568")


def published_classes() -> dict[str, str]:
    """Return published class name -> ours, for all questions; both are accepted on input."""
    answers = (answer for question in QUESTIONS.values() for answer in question.answers)
    return {answer.published: answer.name for answer in answers if answer.published}


def label_columns() -> tuple[str, ...]:
    """Return the columns that hold the labels of all questions."""
    return tuple(question.label for question in QUESTIONS.values())


def _add_question(question: Question) -> Question:
    """Add a question whose name and label are not taken."""
    taken = {other.label: other.name for other in QUESTIONS.values() if other.name != question.name}
    if question.label in taken:
        raise UserError(
            f"the label '{question.label}' is already used by question '{taken[question.label]}'; choose another label="
        )
    if question.name in RESERVED:
        raise UserError(f"'{question.name}' is reserved for the task over all causes; choose another name")
    return QUESTIONS.register(question)


BINDERS[Question] = Binder(_add_question, QUESTIONS.unregister)
