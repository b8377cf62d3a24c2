"""Where the files of a manifest are published: a repository of a model hub, at a revision that cannot change.

Guarantees: names no host, so whoever has a manifest decides alone whom to ask; a revision is a commit's full hash, never a
branch or a tag; neither can climb out of a URL that they are put into.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

from ..errors import UsageError

_NAME = r"(?!\.\.?/)[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_REPOSITORY = re.compile(rf"{_NAME}/{_NAME}", re.ASCII)
_REVISION = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}", re.ASCII)
_CACHED = "models--"


class PublicationError(UsageError):
    """What should say where a model is published does not."""


@dataclass(frozen=True)
class Publication:
    """A repository, and one state of it.

    Attributes:
        repository: Its owner's name and its own, with a slash between.
        revision: A commit's hash in lower-case hexadecimal.

    Raises:
        PublicationError: when either is something else.
    """

    repository: str
    revision: str

    def __post_init__(self) -> None:
        if not _REPOSITORY.fullmatch(self.repository) or ".." in self.repository:
            raise PublicationError(
                f"{self.repository!r} is no repository of a model hub", advice="write it like OWNER/NAME"
            )
        if not _REVISION.fullmatch(self.revision):
            raise PublicationError(
                f"{self.revision!r} pins no revision, for it may change",
                advice="give the commit's full hash, 40 hexadecimal digits; the hub shows it with the model's files",
            )

    @classmethod
    def parse(cls, text: str) -> Publication:
        """Reads `OWNER/NAME@REVISION`; of a URL in front of that, all but the path is left out.

        Raises:
            PublicationError: when it is neither.
        """
        place, _, revision = text.strip().rpartition("@")
        if "://" in place:
            parts = urlsplit(place)
            if parts.scheme not in ("http", "https"):
                raise PublicationError(
                    f"{parts.scheme}: is no way to a model hub",
                    advice="give an https URL, or OWNER/NAME@REVISION",
                )
            place = parts.path.strip("/")
        return cls(place, revision)

    @classmethod
    def of_cache(cls, folder: Path) -> Publication | None:
        """What a folder of the hub's own cache says: models--OWNER--NAME/snapshots/REVISION; None for any other folder."""
        if folder.parent.name != "snapshots" or not folder.parent.parent.name.startswith(_CACHED):
            return None
        try:
            return cls(folder.parent.parent.name.removeprefix(_CACHED).replace("--", "/", 1), folder.name)
        except PublicationError:
            return None

    def path(self, file: str) -> str:
        """The path of one of its files below a hub's address, as hubs lay it out."""
        return f"{self.repository}/resolve/{self.revision}/{quote(file)}"

    def __str__(self) -> str:
        return f"{self.repository}@{self.revision}"
