"""Vectors of a space: in memory and exact while few, in parts on disk when many."""
