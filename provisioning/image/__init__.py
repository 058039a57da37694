"""Card images: read, written, read back. Nothing here knows what an image holds; `customise` does."""
