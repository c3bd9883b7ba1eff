"""The command line ``automl-prune``: one module per group of commands, and none imports torch before it needs it."""

from services.cli.app import main

__all__ = ["main"]
