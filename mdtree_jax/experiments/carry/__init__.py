"""Does a diagnosis carry to families of networks that it has not seen? Every choice is made inside the training side.

Sources of data are left out one at a time. For each, what may be chosen (the strength of the ridge, which probes to
run, which remedies race for how long, from which probability a question is answered) is chosen by leaving out sources
of the training side in the same way.

| cost of one training | evidence |
|---|---|
| 0 | errors, history, norms and landscape of one network |
| 0.1 | the same and one probe of a tenth of the steps |
| 0.25, 1 | the same and a race of the remedies that come first |

A race trains remedies from scratch for a share of their steps; only their order is used. `networks` holds the arrays
and what is true of them, `policies` what may be chosen, `predict` leaves groups out, `scores` and `rivals` judge.
"""
