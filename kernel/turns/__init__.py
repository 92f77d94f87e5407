"""LLM time: whose request is in an engine, and whose is next."""
