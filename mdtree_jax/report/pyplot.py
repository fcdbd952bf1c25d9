"""Matplotlib's pyplot, without a window unless somebody has chosen one: a notebook has a backend of its own."""

import os

import matplotlib as mpl

if not os.environ.get("MPLBACKEND"):
    mpl.use("agg", force=False)
import matplotlib.pyplot as plt

__all__ = ["plt"]
