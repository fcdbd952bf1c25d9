"""Models whose reports are tested, and a reader of pages that fails on what a page must not hold."""

import re
from html.parser import HTMLParser

import numpy as np

from mdtree_jax.diagnosis.cost import make_cost
from mdtree_jax.diagnosis.facts import fact

NAME = '<b>&"'
HOT = {
    "train_error": 28.2,
    "train_loss": 0.99,
    "log_hessian_trace": 5.21,
    "log_hessian_max_eigenvalue": 3.3,
    "mode_connectivity": 25.2,
    "mode_connectivity_peak": -0.03,
    "cka": 0.45,
}
BETWEEN = HOT | {"train_error": 7.5, "train_loss": 0.25, "mode_connectivity": 1.0, "mode_connectivity_peak": -6.0}
ERRORS = {"train_error_se": 0.8, "log_hessian_trace_se": 0.3, "mode_connectivity_peak_se": 2.0}
ROWS = {
    "hot": HOT,
    "cold": HOT | {"train_error": 0.0, "train_loss": 0.0007, "mode_connectivity": 0.0, "mode_connectivity_peak": 0.0},
    "standard errors": BETWEEN | ERRORS,
    "train error": {"train_error": 12.0},
    "outside": HOT | {"train_error": 88.0},
    "nothing": {"train_error": np.nan, "cka": np.nan},
}
COST = make_cost(42.0, 3.2e12, 31.0, 840.0, 9e13, fact("of_sweep")).to_dict()

#: Tags that are not closed.
VOID = {"meta", "br"}


class Page(HTMLParser):
    """Tags with their attributes in order, the text, the drawings of lines and maps; fails on unbalanced tags."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.text, self.svgs, self.texts = [], [], "", [], {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append((tag, attrs))
        if tag == "svg":
            self.svgs.append((attrs, []))
        elif "svg" in self.open:
            self.svgs[-1][1].append((tag, attrs))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "style":
            return
        self.texts.setdefault(self.open[-1] if self.open else "", []).append(data)
        self.text += data

    def drawings(self, kind):
        return [shapes for attrs, shapes in self.svgs if attrs.get("class") == kind and attrs.get("role") == "img"]


def page_of(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.encode()) < 2_000_000
    assert not re.search(r"https?:|url\(|@import|<script|javascript:", text, re.IGNORECASE)
    page = Page(text)
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "link", "img", "iframe", "object", "form"})
    for _, attrs in page.tags:
        assert not any(key == "src" or key.startswith("on") for key in attrs)
        if "href" in attrs:
            assert (path.parent / attrs["href"]).is_file()
    return page


def one(shapes, tag, kind=None):
    return [attrs for name, attrs in shapes if name == tag and kind in (None, attrs.get("class"))]


def squeeze(text):
    return " ".join(text.replace("−", "-").split())
