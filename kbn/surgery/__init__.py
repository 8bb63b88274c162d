"""Models in, models out: batch norms converted, folded, frozen, their statistics anew.

The public functions are in `kbn`, which imports these modules at their first use.
"""
