"""Transfer of a diagnosis between collections: samples of one train a method, and another tests it.

May import `causes`, `trees` and `collection`, and no JAX. Start with `suite` (`transfer`), then `runner` (one
experiment) and `methods` (what is compared).
"""
