"""Terms that the default policy might have and has not: what each would be worth. `python -m loadtest.terms`."""
