"""Diagnostic trees: structures as data, fits of their thresholds, the classifier, drawings and saved files.

May import `collection` and what lies below it, and no JAX. Start with `questions` (the published trees and their
companions), then `structure` (what a tree is) and `classifier` (`MDTreeClassifier`).
"""
