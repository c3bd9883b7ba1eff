"""The folder that the service keeps things in: its owner's alone, where the service makes it."""

from pathlib import Path


def make_home(folder: Path) -> None:
    """Make the folder, closed to everybody else; one that is there stays as open as it is."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
