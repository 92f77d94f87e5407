"""Vectors of a space: an exact index in memory and its log on disk."""
