"""Pages and figures: the HTML report of a diagnosis, tables and figures of transfer, output to a terminal.

May import `experiments`, `diagnosis` and what lies below them, and no JAX. Start with `html` (the report), then
`drawings` (its pictures) and `figures` (those of transfer).
"""
