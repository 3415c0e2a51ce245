"""What the request handlers share: one object, made at start, carried by the application."""

import threading
from dataclasses import dataclass, field
from typing import cast

from starlette.requests import Request

from tunewright.artifacts import Store
from tunewright.gateway.aliases import Aliases
from tunewright.gateway.clients import Rooms
from tunewright.gateway.durable import DurableRuns
from tunewright.gateway.engines import Engines
from tunewright.gateway.file_records import FileRecords
from tunewright.gateway.filing import Filing
from tunewright.gateway.fine_tuning.checkpoints import Checkpoints
from tunewright.gateway.fine_tuning.jobs import FineTuning
from tunewright.gateway.job_records import JobRecords
from tunewright.gateway.journal import Journal
from tunewright.gateway.keys import KeyRing
from tunewright.gateway.meter import Meter
from tunewright.gateway.owners import Owners
from tunewright.gateway.rollouts import Rollouts
from tunewright.gateway.routing import Routes
from tunewright.gateway.runner import StageRunner
from tunewright.gateway.settings import GatewaySettings
from tunewright.gateway.upload_records import UploadRecords
from tunewright.gateway.usage import Usage
from tunewright.gateway.views import RunViews
from tunewright.gateway.visible import VisibleModels


@dataclass(kw_only=True)
class State:
    """The parts of a running gateway."""

    settings: GatewaySettings
    store: Store
    keys: KeyRing
    rooms: Rooms
    journal: Journal
    views: RunViews
    aliases: Aliases
    routes: Routes
    runner: StageRunner
    runs: DurableRuns
    rollouts: Rollouts
    engines: Engines
    files: FileRecords
    filing: Filing
    fine_tuning: FineTuning
    checkpoints: Checkpoints
    parts: UploadRecords
    owners: Owners
    jobs: JobRecords
    models: VisibleModels
    usage: Usage
    meter: Meter = field(default_factory=Meter)
    stopping: threading.Event = field(default_factory=threading.Event)
    """Set when the gateway drains: streams of events end, readiness is denied."""
    open_completions: int = 0


def state_of(request: Request) -> State:
    """Return the parts behind a request's application."""
    return cast("State", request.app.state.gateway)
