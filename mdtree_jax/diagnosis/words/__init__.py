"""Every sentence that a diagnosis says to people, for the terminal and for reports.

May import the other modules of `diagnosis`, `causes` and `collection`, and no JAX; numbers are formatted in `formats`.
Start with `answer`, which puts them in order for the terminal: `causes` (the answer and how sure it is), `actions`
(what to do), `evidence` (the path through a tree, questions, metrics), `costs`, `references` (measured accuracy) and
`notes` (why a diagnosis abstains, what was missing). The names of knobs, causes, questions and metrics are in
`registry`.
"""
