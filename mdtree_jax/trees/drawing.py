"""Fitted trees for people: as text and as a drawing."""

from __future__ import annotations

from mdtree_jax.collection.columns import COLUMN
from mdtree_jax.registry.measurement_type import unit_after_number
from mdtree_jax.registry.measurements import label
from mdtree_jax.registry.questions import class_colour


def question(tree, node: int, digits: int = 4) -> str:
    """Return a node's question, such as `train_error <= 0.146 %`."""
    feature = tree.structure_.nodes[node].feature
    shown = unit_after_number(COLUMN[feature].unit) if feature in COLUMN else ""
    text = f"{feature} <= {tree.thresholds_[node]:.{digits}g}{shown}"
    if tree.threshold_intervals_ is None:
        return text
    low, high = tree.threshold_intervals_[node]
    return f"{text}  [{low:.{max(digits - 1, 2)}g} … {high:.{max(digits - 1, 2)}g}]"


def leaf_summary(tree, leaf: int) -> tuple[str, int, float]:
    """Return a leaf's verdict, its training rows, and the share of them that agree with it (nan without rows)."""
    verdict = tree._verdict_to_class[tree.structure_.leaf_verdicts[leaf]]
    counts = tree.leaf_counts_[leaf]
    total = int(counts.sum())
    return str(tree.classes_[verdict]), total, counts[verdict] / total if total else float("nan")


def tree_text(tree, digits: int = 4) -> str:
    """Return a fitted tree as text; see `MDTreeClassifier.export_text`."""
    structure, numbers = tree.structure_, tree.structure_.leaf_numbers
    lines = []

    def walk(node: int, indent: str) -> None:
        lines.append(question(tree, node, digits))
        for side, child in enumerate(structure.children(node)):
            last = side == 1
            lines.append(f"{indent}{'└─' if last else '├─'} {'no ' if last else 'yes'}: ")
            if isinstance(child, int):
                start = len(lines)
                walk(child, indent + ("   " if last else "│  ") + "     ")
                lines[start - 1] += lines.pop(start)
            else:
                verdict, total, share = leaf_summary(tree, numbers[node, side])
                seen = f"{total} models, {100 * share:.1f} % agree" if total else "no model"
                lines[-1] += f"{verdict}  ({seen})"

    walk(0, "")
    lines += _average_note(tree)
    return "\n".join(lines)


def _average_note(tree) -> list[str]:
    """Return a note on the average that the shown tree represents."""
    if tree.threshold_intervals_ is None:
        return []
    others = [member.name for member in tree.members_[1:]]
    what = "threshold settings" + (f" and of {len(others) + 1} trees, with {', '.join(others)}" if others else "")
    return [f"shown at the median thresholds [90 % interval]; the verdict is the average over {what};",
            f"this tree alone says the same on {100 * tree.agreement_:.1f} % of the training models"]  # fmt: skip


def draw_tree(tree, ax=None):
    """Draw a fitted tree; see `MDTreeClassifier.plot`."""
    import matplotlib.pyplot as plt
    from matplotlib.patches import Rectangle

    structure, numbers = tree.structure_, tree.structure_.leaf_numbers
    depth = _depth(structure, 0)
    if ax is None:
        _, ax = plt.subplots(figsize=(2.6 * len(structure.leaves) + 0.5, 1.5 * depth + 1.2), layout="constrained")
    place = {}

    def position(node: int, level: int) -> float:
        ends = []
        for side, child in enumerate(structure.children(node)):
            x = position(child, level + 1) if isinstance(child, int) else float(numbers[node, side])
            ends.append((x, level + 1))
        place[node] = (sum(x for x, _ in ends) / 2, level, ends)
        return place[node][0]

    position(0, 0)
    for node, (x, level, ends) in place.items():
        for side, (end_x, end_level) in enumerate(ends):
            ax.plot([x, end_x], [-level, -end_level], color="#a0aec0", lw=1.5, zorder=1)
            middle = (x + end_x) / 2, -(level + end_level) / 2
            ax.text(*middle, ("yes", "no")[side], ha="center", va="center", fontsize=8,
                    color="#4a5568", bbox={"facecolor": "white", "edgecolor": "none", "pad": 1}, zorder=2)  # fmt: skip
            if not isinstance(structure.children(node)[side], int):
                _draw_leaf(tree, ax, end_x, -end_level, numbers[node, side])
        feature = structure.nodes[node].feature
        text = question(tree, node).replace(f"{feature} <=", f"{label(feature)}\n≤").replace("  [", "\n[")
        ax.text(x, -level, text, ha="center", va="center", fontsize=9, zorder=3,
                bbox={"boxstyle": "round,pad=0.4", "facecolor": "#edf2f7", "edgecolor": "#4a5568"})  # fmt: skip
    ax.set_xlim(-0.6, len(structure.leaves) - 0.4)
    ax.set_ylim(-depth - 0.45, 0.4)
    ax.axis("off")
    handles = [Rectangle((0, 0), 1, 1, color=class_colour(str(name))) for name in tree.classes_]
    labels = [f"share of {str(name).replace('_', ' ')}" for name in tree.classes_]
    ax.legend(handles, labels, loc="upper right", frameon=False, fontsize=8)
    if note := _average_note(tree):
        ax.text(0.5, -0.02, "\n".join(note), transform=ax.transAxes, ha="center", va="top", fontsize=8, color="#4a5568")
    return ax


def _draw_leaf(tree, ax, x: float, y: float, leaf: int) -> None:
    verdict, total, share = leaf_summary(tree, leaf)
    seen = f"{total} models\n{100 * share:.0f} % agree" if total else "no model"
    text = f"{verdict.replace('_', ' ')}\n{seen}"
    ax.text(x, y, text, ha="center", va="center", fontsize=8.5, color="white", zorder=3,
            bbox={"boxstyle": "round,pad=0.4", "facecolor": class_colour(verdict), "edgecolor": "none"})  # fmt: skip
    shares = tree.leaf_counts_[leaf] / max(total, 1)
    left = x - 0.4
    for name, part in zip(tree.classes_, shares, strict=True):
        ax.barh(y - 0.3, 0.8 * part, height=0.07, left=left, color=class_colour(str(name)), zorder=3)
        left += 0.8 * part


def _depth(structure, node: int) -> int:
    return 1 + max(_depth(structure, c) if isinstance(c, int) else 0 for c in structure.children(node))
