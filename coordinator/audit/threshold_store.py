"""The thresholds of one model's audits: calibrated once on this machine, kept beside the sketches.

Guarantees: thresholds come from samples of this very model, by the present number of projections, rate and software
version, and are made again when any of these changes or the file cannot be read; nothing in the source is a threshold.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final

from ... import __version__
from ...trust.calibration import calibrate
from ...trust.thresholds import MAX_JSON_BYTES, Thresholds, ThresholdsError
from .canonical_weights import CanonicalExperts
from .honest_openings import METHOD, measure
from .private_files import private_folder, write_private
from .sketch_book import SketchBook

log = logging.getLogger(__name__)

THRESHOLDS_FOLDER: Final = "thresholds"


class ThresholdStore:
    """Thresholds by form of expert. For one thread."""

    def __init__(self, folder: Path, experts: CanonicalExperts, count: int, rate: float) -> None:
        """`count` is how many projections a layer has, `rate` how often an honest opening may be suspected."""
        self._folder = folder / THRESHOLDS_FOLDER
        self._experts = experts
        self._count = count
        self._rate = rate
        self._found: dict[int, Thresholds] = {}

    def of(self, spec: int, book: SketchBook) -> Thresholds:
        """The thresholds for experts of a spec; measured now when there are none.

        Raises:
            ModelError: when the experts to measure with cannot be read.
            ThresholdsError: when what was measured gives none.
        """
        found = self._found.get(spec)
        if found is None:
            found = self._found[spec] = self._stored(spec) or self._calibrated(spec, book)
        return found

    def _stored(self, spec: int) -> Thresholds | None:
        path = self._path(spec)
        try:
            with path.open("rb") as stream:
                return Thresholds.decode(stream.read(MAX_JSON_BYTES + 1))
        except FileNotFoundError:
            return None
        except (OSError, ThresholdsError) as error:
            log.warning("%s cannot be used (%s); thresholds are measured again", path, error)
            return None

    def _calibrated(self, spec: int, book: SketchBook) -> Thresholds:
        thresholds = calibrate(measure(self._experts, book, spec), self._rate)
        path = self._path(spec)
        try:
            private_folder(self._folder)
            write_private(path, thresholds.encode().encode())
        except OSError as error:
            log.warning("%s cannot be written (%s)", path, error.strerror)
        log.info("thresholds of audits were measured on this model's experts of form %d", spec)
        return thresholds

    def _path(self, spec: int) -> Path:
        model = self._experts.manifest.digest.hex()[:16]
        return self._folder / f"{model}-{spec}-{self._count}-{self._rate:g}-{__version__}-{METHOD}.json"
