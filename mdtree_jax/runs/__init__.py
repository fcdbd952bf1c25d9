"""One run folder from the plan to the finished table: monitoring, resume, verification, and the JAX backend.

May import `measuring`, `population`, `store`, `recipe` and what lies below them. Start with `run` (the loop over
cohorts), then `extend` (what is there already), `plan` (what a run costs) and `jax_backend` (the one module here that
imports JAX).
"""
