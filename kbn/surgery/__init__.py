"""Models in, models out: batch norms converted, inserted, folded, frozen, recomputed.

The public functions are in `kbn`, which imports these modules at their first use.
"""
