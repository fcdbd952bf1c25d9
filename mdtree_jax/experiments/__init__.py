"""Transfer of a diagnosis between collections: a method is fitted on samples of one and tested on another.

May import `causes`, `trees` and `collection`, and no JAX. Start with `suite` (`transfer`), then `runner` (one
experiment) and `method_table` (what is compared).
"""
