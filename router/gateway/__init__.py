"""Edges that serve live traffic."""
