"""What one sweep is: its axes, its cohorts, its settings of measuring, and the schemas of its configuration.

May import `registry` and the base modules, and no JAX. Start with `schema` (every setting of a grid), then `axes`
(from axes to configurations and cohorts).
"""
