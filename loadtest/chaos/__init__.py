"""Everything goes wrong, by a seed, before real processes under open-loop load; then the rules are held against it."""
