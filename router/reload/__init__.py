"""Reading the configuration again while Homing runs."""
