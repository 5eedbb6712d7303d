"""The policy lab: what a policy would do, seen in virtual time."""
