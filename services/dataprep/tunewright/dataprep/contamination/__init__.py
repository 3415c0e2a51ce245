"""Contamination: which training rows hold what stands in named test sets.

`reading` gives the tests' rows, `table` holds their n-grams, `matching` looks training rows up, `findings` counts. Test
rows in, training rows in, overlaps out: nothing here decides what becomes of a row.
"""
