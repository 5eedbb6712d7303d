"""How a choice is made."""
