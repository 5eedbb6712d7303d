"""Simulated engines; they share no hashing or index code with the router."""
