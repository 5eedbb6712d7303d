"""Who there is, how well, how busy."""
