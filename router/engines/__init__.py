"""Dialects of the engines; no sockets here."""
