"""The news: KV events from the engines' publishers."""
