"""Every sentence that a diagnosis says to people, for the terminal and for reports.

May import the other modules of `diagnosis`, `causes` and `collection`, and no JAX; numbers are formatted in `formats`.
Start with `sentences`; `answer` puts them in order for the terminal.
"""
