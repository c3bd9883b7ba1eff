"""The agent of a device: it asks a service for work, times it here, and brings what came of it."""
