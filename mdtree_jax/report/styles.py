"""Style of the methods of transfer in all figures: a colour and a marker each, distinguishable with any colour vision.

Any two colours differ by at least `APART` in CIELAB, for normal vision and for people without red, green or blue cones
(Machado, Oliveira and Fernandes, IEEE TVCG 15, 2009), and no two methods of one figure share a marker.
"""

from __future__ import annotations

from typing import NamedTuple

from mdtree_jax.experiments.method_table import METHOD_TABLE

#: Minimum distance of two colours in CIELAB, for each kind of colour vision.
APART = 20.0
#: (colour, marker), in the order of the table of methods.
_CYCLE = (
    ("#89769d", "s"),
    ("#8900ff", "D"),
    ("#c44eff", "d"),
    ("#9d4e4e", "X"),
    ("#c41400", "^"),
    ("#1462b1", "v"),
    ("#ff6214", "<"),
    ("#00003b", "o"),
    ("#4eb1eb", ">"),
    ("#89b19d", "P"),
    ("#eb8962", "*"),
    ("#00149d", "p"),
    ("#3b0014", "8"),
    ("#760000", "h"),
    ("#4e3b4e", "H"),
)
_LINES = ("-", "--", ":", "-.")


class Style(NamedTuple):
    """How a method is drawn; `line` differs from `-` only if there are more methods than colours."""

    colour: str
    marker: str
    line: str


def style_of(method: str) -> Style:
    """Return how a method is drawn, the same in every figure."""
    names = list(METHOD_TABLE)
    place = names.index(method) if method in names else len(names)
    colour, marker = _CYCLE[place % len(_CYCLE)]
    return Style(colour, marker, _LINES[place // len(_CYCLE) % len(_LINES)])
