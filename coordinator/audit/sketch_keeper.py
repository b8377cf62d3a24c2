"""Keeps the sketches of the present epoch, and makes those of the next before the present one ends its service.

Guarantees: `current` is a book at any time, and any sketch of it can be had; a new epoch's book takes its place only when
all of its sketches are on disk; folders of other epochs are removed then. The secret is made once for a state folder and
never leaves it.
"""

from __future__ import annotations

import logging
import secrets
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import torch

from ...errors import FolkmootError, TrustError
from ...trust.projections import SECRET_BYTES
from ...trust.secret_files import create_secret_file, read_secret_file
from .canonical_weights import CanonicalExperts
from .freed_memory import give_back
from .private_files import private_folder
from .sketch_book import SketchBook

log = logging.getLogger(__name__)

SECRET_FILE: Final = "projections.secret"
SKETCHES_FOLDER: Final = "sketches"
LOOK_UP_S: Final = 60.0


class ProjectionSecretError(TrustError):
    """The file that should hold the secret of the projections holds something else."""


class SketchKeeper:
    """The sketches of one coordinator."""

    def __init__(
        self,
        folder: Path,
        experts: CanonicalExperts,
        count: int,
        epoch_s: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Makes the secret when there is none.

        Args:
            folder: Where secret and sketches are kept.
            experts: The model's.
            count: Projections of a layer.
            epoch_s: How long an epoch is.
            clock: Seconds of the calendar: epochs go on while the coordinator does not run.

        Raises:
            SecretFileError: when the secret cannot be read or written, or others may read it.
            ProjectionSecretError: when it is damaged.
        """
        self._experts = experts
        self._count = count
        self._epoch_s = epoch_s
        self._clock = clock
        self._secret = _load_or_create(private_folder(folder) / SECRET_FILE)
        self._parent = private_folder(folder / SKETCHES_FOLDER)
        self.current = self._book()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="folkmoot-sketches", daemon=True)

    def start(self) -> None:
        """Starts making sketches in the background."""
        self._thread.start()

    def close(self) -> None:
        """Ends the thread after the sketch that it is making; harmless before `start`, and twice."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join()

    def refresh(self) -> None:
        """Makes what is missing of the present epoch's sketches; its book is the current one afterwards."""
        book = self.current if self.current.epoch == self._epoch() else self._book()
        for key in sorted(self._experts.manifest.experts):
            if self._closing.is_set():
                return
            book.keep(key)
            give_back()
        self.current = book
        for folder in self._parent.iterdir():
            if folder != book.folder:
                shutil.rmtree(folder, ignore_errors=True)

    def _run(self) -> None:
        torch.set_num_threads(1)  # of this thread's own products: the trunk's have the cores
        made = -1
        while not self._closing.is_set():
            if made != self._epoch():
                made = self._epoch()
                began_s = time.monotonic()
                try:
                    self.refresh()
                except FolkmootError as error:
                    log.error("not all sketches can be made; audits make those that they need: %s", error)
                else:
                    log.info("sketches of epoch %d are ready after %.1f s", made, time.monotonic() - began_s)
            self._closing.wait(min(LOOK_UP_S, self._epoch_s))

    def _epoch(self) -> int:
        return int(self._clock() // self._epoch_s)

    def _book(self) -> SketchBook:
        return SketchBook(self._parent, self._experts, self._secret, self._epoch(), self._count)


def _load_or_create(path: Path) -> bytes:
    content = read_secret_file(path)
    if content is None:
        content = create_secret_file(path, secrets.token_hex(SECRET_BYTES).encode() + b"\n")
    try:
        secret = bytes.fromhex(content.decode("ascii").strip())
    except ValueError:
        secret = b""
    if len(secret) != SECRET_BYTES:
        raise ProjectionSecretError(
            f"{path} holds no secret", advice="delete it: a new one is made, and all sketches with it"
        )
    return secret
