"""Matplotlib's pyplot, without a window unless somebody has chosen one: a notebook has a backend of its own.

A backend of `MPLBACKEND` that does not exist, or needs a screen where there is none, gives way to `agg`: figures are
only written to files here.
"""

import os
import sys

_IS_OURS = "matplotlib" not in sys.modules
# Matplotlib cannot be imported where the variable names no backend.
_CHOSEN = os.environ.pop("MPLBACKEND", "")
try:
    import matplotlib as mpl
finally:
    if _CHOSEN:
        os.environ["MPLBACKEND"] = _CHOSEN

if not _CHOSEN:
    mpl.use("agg", force=False)
import matplotlib.pyplot as plt  # noqa: E402 - the backend comes first

if _CHOSEN and _IS_OURS:
    try:
        plt.switch_backend(_CHOSEN)
    except (ImportError, ValueError):
        plt.switch_backend("agg")

__all__ = ["plt"]
