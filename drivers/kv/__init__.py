"""Activation memory: keys and values of prompts, kept outside the engine that computed them."""
