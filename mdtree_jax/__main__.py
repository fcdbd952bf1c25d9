"""Say why a trained network is not good enough, from its training and loss landscape, without retraining it in full.

  mdtree-jax sweep      train and measure every network of a grid
  mdtree-jax diagnose   diagnose networks from checkpoints, metrics, or a run folder of sweep
  mdtree-jax measure    measure your own networks, as a row of your own collection
  mdtree-jax reference  fit trees on your own collection, for diagnose to compare with
  mdtree-jax transfer   measure how well diagnoses transfer from one collection to another
  mdtree-jax explore    write a page to look at a collection

Run mdtree-jax COMMAND --help for details; `python -m mdtree_jax.COMMAND` is the same command.
"""

from __future__ import annotations

import sys

from mdtree_jax import diagnose, explore, measure, reference, sweep, transfer
from mdtree_jax.checks import UserError, check_choice
from mdtree_jax.cli import EXIT_USER_ERROR, leave, run
from mdtree_jax.provenance import __version__

COMMANDS = {
    "sweep": sweep,
    "diagnose": diagnose,
    "measure": measure,
    "reference": reference,
    "transfer": transfer,
    "explore": explore,
}


def main(argv: list[str] | None = None) -> int:
    """Run the command that the first argument names; return its exit code."""
    name, *rest = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("-h", "--help"):
        print((__doc__ or "").strip())
        return 0
    if name == "--version":
        print(f"mdtree-jax {__version__}")
        return 0
    try:
        command = COMMANDS[check_choice("command", name, COMMANDS)]
    except UserError as error:
        print(f"mdtree-jax: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    code = run(name, command.__doc__, command.main, rest)
    return code if argv is not None else leave(code)


if __name__ == "__main__":
    sys.exit(main())
