"""Diagnostic trees: structures as data, fits of their thresholds, the classifier, drawings and saved files.

May import `collection` and what lies below it, and no JAX. The published trees, with their nodes and initial
thresholds, stand in `mdtree_jax.registry.questions`. Start with `structure` (what a tree is), then `members` (which
trees answer a question together) and `classifier` (`MDTreeClassifier`).
"""
