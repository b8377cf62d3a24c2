"""Making, while a model is prepared, what its audits need: sketches of all experts, and thresholds.

Guarantees: what is there already is not made again; what was made when this is interrupted is kept. Without it a coordinator makes
the same in the background, and gives way to requests while it does.
"""

from __future__ import annotations

from pathlib import Path

from ...ids import ExpertKey
from ...models.prepared import PreparedModel
from ...models.progress import Progress
from ...state_lock import unusable
from .canonical_weights import CanonicalExperts
from .freed_memory import give_back
from .private_files import private_folder
from .settings import AuditSettings
from .sketch_keeper import SketchKeeper
from .threshold_store import ThresholdStore

AUDIT_FOLDER = "audit"
"""In a coordinator's state folder: the secret, sketches and thresholds."""


def prepare_audits(model: PreparedModel, state: Path, settings: AuditSettings, progress: Progress) -> None:
    """Makes what is missing for audits of this model.

    Args:
        model: The model.
        state: The state folder of the coordinator that will serve it.
        settings: Its settings of audits.
        progress: Told how many bytes of experts have been looked at.

    Raises:
        StateError: when the state folder cannot be used.
        TrustError: when the secret in the state folder cannot be used.
        ModelError: when an expert's weights cannot be read, or are damaged.
        SketchError: when they are not finite.
    """
    try:
        private_folder(state)
    except OSError as error:
        raise unusable(state, error) from error
    folder, experts = state / AUDIT_FOLDER, CanonicalExperts(model)
    manifest = model.manifest
    keeper = SketchKeeper(folder, experts, settings.projections, settings.epoch_s)

    def sketched(key: ExpertKey) -> None:
        progress.advance(manifest.expert_bytes(key))

    progress.start("sketching experts for audits", manifest.total_expert_bytes)
    try:
        keeper.refresh(sketched)
    finally:
        progress.finish()
    store = ThresholdStore(folder, experts, settings.projections, settings.suspicion_rate)
    progress.start("measuring what honest nodes' results differ by", None)
    try:
        for spec in sorted({entry.spec for entry in manifest.experts.values()}):
            store.of(spec, keeper.current)
    finally:
        progress.finish()
        give_back()
