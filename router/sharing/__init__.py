"""What routers before one fleet tell each other."""
