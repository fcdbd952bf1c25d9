"""Create a reference: fit trees and the joint model on your own collection, for diagnose to compare with.

  python -m mdtree_jax.reference collection=runs/digits_tiny out=mine.json
  python -m mdtree_jax.diagnose metrics=my_models.csv reference=mine.json

Prints the accuracy of its answers, measured on half of the collection's cells or on the collection `test`.
"""

from __future__ import annotations

from mdtree_jax.checks import UserError
from mdtree_jax.cli import leave, run
from mdtree_jax.config import ReferenceConfig


def main(config: ReferenceConfig) -> None:
    """Fit, measure, write."""
    from mdtree_jax.diagnosis.reference_fit import fit_reference
    from mdtree_jax.report.terminal import make_console

    if config.collection is None:
        raise UserError("collection= is required: a .csv or .parquet file, a run folder of sweep, or published/F")
    reference = fit_reference(config.collection, test=config.test, name=config.name, published_dir=config.published_dir)
    reference.save(config.out)
    console = make_console()
    about = reference.provenance
    console.print(
        f"{config.out}: {about['rows']} configurations of {about['collection']}, metrics {', '.join(about['metrics'])}",
        highlight=False,
        soft_wrap=True,
    )
    for task, found in about["accuracy"].items():
        console.print(
            f"  {task}: {found['all']} % right, {found['surest_80_percent']} % of the most confident 80 %, "
            f"on {found['models']} models of {about['test']}",
            highlight=False,
            soft_wrap=True,
        )


if __name__ == "__main__":
    leave(run("reference", __doc__, main))
