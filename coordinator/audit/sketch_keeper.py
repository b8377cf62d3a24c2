"""Keeps the sketches of the present epoch, and makes those of the next before the present one ends its service.

Guarantees: `current` is a book at any time, and any sketch of it can be had; a new epoch's book takes its place only when
all of its sketches are on disk; the model's folders of other epochs are removed then. Projections that others have followed never come
back (`epochs.py`). The secret is made once for a state
folder and never leaves it. In the background sketches are made as fast as the experts can be read while nothing else is to be
done, and a tenth of the time while there is.
"""

from __future__ import annotations

import logging
import math
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import torch

from ...errors import FolkmootError
from ...ids import ExpertKey
from ...trust.projections import SECRET_BYTES
from ...trust.secret_files import load_or_create_secret
from .canonical_weights import CanonicalExperts
from .epochs import Epochs
from .freed_memory import give_back
from .private_files import private_folder
from .sketch_book import SketchBook

log = logging.getLogger(__name__)

SECRET_FILE: Final = "projections.secret"
SKETCHES_FOLDER: Final = "sketches"
LOOK_UP_S: Final = 60.0
AT_WORK_S: Final = 1.0
"""For so long after a result the machine counts as being at work."""
REST: Final = 9.0
"""How many times as long as a sketch took the thread rests after it while the machine is at work."""


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
            SecretFileError: when the secret cannot be read or written, is damaged, or others may read it.
        """
        self._experts = experts
        self._count = count
        self._secret = load_or_create_secret(
            private_folder(folder) / SECRET_FILE, SECRET_BYTES, "a new one is made, and all sketches with it"
        )
        self._parent = private_folder(folder / SKETCHES_FOLDER)
        self._epochs = Epochs(self._parent, epoch_s, clock)
        self._look_up_s = min(LOOK_UP_S, epoch_s)
        self.current = self._book(self._epochs.number)
        self._closing = threading.Event()
        self._worked_s = -math.inf
        self._thread = threading.Thread(target=self._run, name="folkmoot-sketches", daemon=True)

    def start(self) -> None:
        """Starts making sketches in the background."""
        self._thread.start()

    def close(self) -> None:
        """Ends the thread after the sketch that it is making; harmless before `start`, and twice."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join()

    def at_work(self) -> None:
        """A result has just come: the machine has better to do than sketches."""
        self._worked_s = time.monotonic()

    def renew(self, spent: SketchBook) -> None:
        """Somebody may have learned of a book's projections: others are made in the background, unless they are already."""
        self._epochs.renew(spent.epoch)

    def refresh(self, sketched: Callable[[ExpertKey], None] = lambda _: None) -> None:
        """Makes what is missing of the present epoch's sketches; its book is the current one afterwards.

        Args:
            sketched: Told of each expert once its sketch is there.

        Raises:
            ModelError: when an expert's weights cannot be read, or are damaged.
            SketchError: when they are not finite.
        """
        epoch = self._epochs.number
        book = self.current if self.current.epoch == epoch else self._book(epoch)
        for key in sorted(self._experts.manifest.experts):
            if self._closing.is_set():
                return
            began_s = time.monotonic()
            if book.keep(key):
                give_back()
                ended_s = time.monotonic()
                if ended_s < self._worked_s + AT_WORK_S:
                    self._closing.wait(REST * (ended_s - began_s))
            sketched(key)
        self.current = book
        for folder in self._parent.glob(f"{book.model}-*"):
            if folder != book.folder:
                shutil.rmtree(folder, ignore_errors=True)

    def _run(self) -> None:
        torch.set_num_threads(1)  # of this thread's own products: the trunk's have the cores
        made = -1
        while not self._closing.is_set():
            if made != self._epochs.number:
                made = self._epochs.number
                began_s = time.monotonic()
                try:
                    self.refresh()
                except FolkmootError as error:
                    log.error("not all sketches can be made; audits make those that they need: %s", error)
                else:
                    log.info("sketches of epoch %d are ready after %.1f s", made, time.monotonic() - began_s)
            self._closing.wait(self._look_up_s)

    def _book(self, epoch: int) -> SketchBook:
        return SketchBook(self._parent, self._experts, self._secret, epoch, self._count)
