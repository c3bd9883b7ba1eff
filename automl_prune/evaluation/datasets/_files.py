"""Finding a dataset's files below a root, and fetching them."""

import os
import tarfile
import tempfile
from collections.abc import Iterable, Sequence
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError

from automl_prune.errors import DatasetError, MissingDataError


def find_folder(root: Path, folders: Sequence[str], names: Iterable[str]) -> Path | None:
    """The first of ``root / folder`` that holds all of ``names``, or None."""
    wanted = tuple(names)
    return next((root / f for f in folders if all((root / f / name).is_file() for name in wanted)), None)


def missing(title: str, root: Path, expected: str) -> MissingDataError:
    """The error for files that are not there: where was looked, what was expected and what would do."""
    return MissingDataError(
        f"No complete {title} in {root}{'' if root.is_dir() else ', which does not exist'}: expected {expected}. Point "
        f"dataset.root at the folder that holds it, or set dataset.download.",
        pointer="/dataset/root",
    )


def corrupt(file: Path, finding: object) -> DatasetError:
    """The error for a file that is there but wrong."""
    return DatasetError(f"{file} is corrupt: {finding}. Replace the file.", pointer="/dataset/root")


def fetch(url: str, md5: str, folder: Path) -> None:
    """Download a file into ``folder`` and check its MD5; of a ``.tar.gz``, its files are placed there instead.

    Every file appears in one step, so that several processes may fetch at once.

    Raises:
        DatasetError: The file could not be fetched, or is another one.
    """
    from torchvision.datasets.utils import download_url

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as scratch:
            download_url(url, scratch, md5=md5)
            for file in _unpacked(Path(scratch, url.rpartition("/")[2])):
                os.replace(file, folder / file.name)
    except (OSError, RuntimeError, HTTPException, tarfile.TarError) as error:
        if isinstance(error, HTTPError):
            error.close()  # it is the open connection
        raise DatasetError(
            f"{url} could not be fetched into {folder} ({error}). Check that this machine is online, or put the file there "
            f"by hand.",
            pointer="/dataset/download",
        ) from error


def _unpacked(file: Path) -> list[Path]:
    if not file.name.endswith(".tar.gz"):
        return [file]
    target = file.parent / "unpacked"
    with tarfile.open(file) as archive:
        archive.extractall(target, filter="data")
    return sorted(path for path in target.rglob("*") if path.is_file())
