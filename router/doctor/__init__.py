"""The checks of `homing doctor`: asks each replica, judges the answers, names what mends it."""
