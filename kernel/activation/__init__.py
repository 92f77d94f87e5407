"""Activation memory: pinned prefixes, what the engine has of them, and what is pinned by itself."""
