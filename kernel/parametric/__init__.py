"""Parametric memory: training jobs, adapters in use, what goes live, what is still known."""
