"""The store: the only truth on disk, and one in memory for simulations."""
