"""The explorer: collections as one self-contained page to look at, written for a browser without a network.

`data` makes plain values of a collection, with `fitted` (trees, diagnoses) and `learning_curves`; `page` writes them
into a page with its scripts and styles from `templates`; `card` is one configuration for a notebook. No JAX.
"""
