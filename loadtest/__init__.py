"""Measurements: open-loop load with locust, and the micro benchmarks. Nothing here is a test."""
