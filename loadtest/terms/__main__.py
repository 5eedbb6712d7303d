"""`python -m loadtest.terms`: see worth.py, which processes that play can import by its name."""

from __future__ import annotations

from loadtest.terms.worth import main

if __name__ == "__main__":
    main()
