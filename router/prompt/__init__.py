"""What is asked: request bytes to token ids to block hashes."""
