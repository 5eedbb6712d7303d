"""Who holds which blocks."""
