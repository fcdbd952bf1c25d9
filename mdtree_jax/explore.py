"""Write a page to look at a collection: phase plots, trees, filters, and every configuration with its diagnosis.

  python -m mdtree_jax.explore collection=digits                                    # writes explorer.html
  python -m mdtree_jax.explore collection=runs/digits_tiny out=runs/digits_tiny/explorer.html
  python -m mdtree_jax.explore "collection=[digits,digits_noisy]" out=both.html     # side by side, one scale of colours

The page is one file that needs no network: open it in any browser. Needs the extra: pip install 'mdtree-jax[explore]'
"""

from __future__ import annotations

import sys

from mdtree_jax.checks import UserError, check_choice
from mdtree_jax.cli import run
from mdtree_jax.config import ExploreConfig, as_list
from mdtree_jax.report.explorer.card import Card as Card
from mdtree_jax.report.explorer.card import card as card


def main(config: ExploreConfig) -> None:
    """Load, fit, write."""
    from mdtree_jax.report.explorer.page import write_explorer
    from mdtree_jax.report.terminal import make_console
    from mdtree_jax.trees.classifier import FITS

    if config.collection is None:
        raise UserError("collection= is required: a name (digits), a .csv or .parquet file, or a run folder of sweep")
    fit = check_choice("fit", config.fit, FITS)
    console, notes = make_console(), []
    options = {"diagnoses": config.diagnoses, "published_dir": config.published_dir, "say": notes.append}
    path = write_explorer(config.out, [str(one) for one in as_list(config.collection) or []], fit=fit, **options)
    for note in notes:
        console.print(f"note: {note}", style="yellow", highlight=False, soft_wrap=True)
    size = path.stat().st_size / 1e6
    console.print(f"written to {path} ({size:.1f} MB); open it in a browser", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(run("explore", __doc__, main))
