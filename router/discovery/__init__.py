"""Edges that find replicas and learn what they are."""
