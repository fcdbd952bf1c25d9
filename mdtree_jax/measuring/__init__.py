"""Measuring a cohort of trained networks: kernels over networks and pairs, in compiled programs, to rows of tables.

May import `population`, `store`, `landscape` and what lies below them. Start with `measure` (one cohort), then
`kernels` (what each measurement computes), `extension` (what a kernel from outside the package sees) and `programs`
(how kernels are compiled and batched).
"""
