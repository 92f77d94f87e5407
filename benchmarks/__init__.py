"""Benchmarks: each file is a program that prints one JSON object on its last line."""
