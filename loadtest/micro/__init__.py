"""Micro benchmarks: `python -m loadtest.micro`."""
