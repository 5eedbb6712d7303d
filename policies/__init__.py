"""Routing policies as YAML; the code that reads them is router/policy/load.py."""
