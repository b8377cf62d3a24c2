"""How many audits each expert of each node has passed, kept over restarts.

Guarantees: a file that cannot be read counts as none, and that means more audits, never fewer; so does a crash, for what is kept may
be some seconds old. The file of another model is not taken up.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from ...ids import ExpertKey, NodeId
from ...trust.audit_policy import AuditSubject
from .private_files import private_folder, write_private

log = logging.getLogger(__name__)

PASSED_FILE: Final = "passed.json"
FORMAT: Final = "folkmoot-passed-audits/1"
MAX_FILE_BYTES: Final = 256 << 20


class PassedAudits:
    """The file of one model."""

    def __init__(self, folder: Path, manifest: bytes) -> None:
        """`manifest` is the digest of the model's."""
        self._path = private_folder(folder) / PASSED_FILE
        self._model = manifest.hex()

    def load(self) -> dict[AuditSubject, int]:
        """What was kept."""
        try:
            with self._path.open("rb") as stream:
                document = json.loads(stream.read(MAX_FILE_BYTES))
            if document["format"] != FORMAT or document["model"] != self._model:
                return {}
            return {
                AuditSubject(NodeId(node), ExpertKey(int(layer), int(expert)), str(version)): int(passed)
                for node, version, layer, expert, passed in document["passed"]
            }
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            log.warning(
                "%s cannot be read (%s): all nodes are audited as if they were new", self._path, error
            )
            return {}

    def save(self, passed: Mapping[AuditSubject, int]) -> None:
        """Writes it; a disk that does not take it is only remarked on."""
        rows = [
            (subject.node, subject.software_version, *subject.expert, audits)
            for subject, audits in passed.items()
        ]
        document = {"format": FORMAT, "model": self._model, "passed": rows}
        try:
            write_private(self._path, json.dumps(document, separators=(",", ":")).encode(), durable=False)
        except OSError as error:
            log.warning("%s cannot be written (%s)", self._path, error.strerror)
