"""What runs networks while they are timed; a new one is one new file here."""
