"""Homing: a cache-aware request router for fleets of LLM engines."""
