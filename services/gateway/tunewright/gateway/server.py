"""The gateway's process: everything wired, served until SIGTERM, drained. Knows no route and no stage."""

import json
import logging
import os
import socket
import ssl
from contextlib import closing
from typing import NoReturn

import uvicorn
from prometheus_client import REGISTRY

from tunewright.artifacts import StoreUnavailable
from tunewright.chassis import logs
from tunewright.chassis import metrics as chassis_metrics
from tunewright.chassis.child import write_atomically
from tunewright.chassis.errors import TunewrightError
from tunewright.gateway import metrics
from tunewright.gateway.aliases import Aliases
from tunewright.gateway.claim import claim
from tunewright.gateway.clients import Rooms
from tunewright.gateway.database import Database
from tunewright.gateway.durable import DurableRuns
from tunewright.gateway.engines import Engines
from tunewright.gateway.file_records import FileRecords
from tunewright.gateway.filing import Filing
from tunewright.gateway.fine_tuning.checkpoints import Checkpoints
from tunewright.gateway.fine_tuning.jobs import FineTuning
from tunewright.gateway.grpc_door import serve as serve_grpc
from tunewright.gateway.http.app import create_app
from tunewright.gateway.http.state import State
from tunewright.gateway.job_records import JobRecords
from tunewright.gateway.journal import Journal, RunState
from tunewright.gateway.keys import KeyRing
from tunewright.gateway.owners import Owners
from tunewright.gateway.pipeline import Pipeline
from tunewright.gateway.rollouts import Rollouts
from tunewright.gateway.routing import Routes
from tunewright.gateway.runner import StageRunner
from tunewright.gateway.settings import GatewaySettings
from tunewright.gateway.traffic import Traffic
from tunewright.gateway.upload_records import UploadRecords
from tunewright.gateway.usage import Usage
from tunewright.gateway.versions import Versions
from tunewright.gateway.views import RunViews
from tunewright.gateway.visible import VisibleModels

_BACKLOG = 2048

_log = logging.getLogger(__name__)


class _Server(uvicorn.Server):
    """Tells the streams of events to end when a signal comes; uvicorn then waits for the answers under way."""

    def __init__(self, config: uvicorn.Config, state: State) -> None:
        super().__init__(config)
        self._state = state

    def handle_exit(self, sig: int, frame: object) -> None:  # noqa: ARG002 - uvicorn's signature
        """Begin to drain; a second signal ends it at once."""
        self._state.stopping.set()
        # Not uvicorn's own: that would raise the signal once more after the drain, and the status would tell of a kill.
        self.force_exit = self.should_exit
        self.should_exit = True


def serve(settings: GatewaySettings) -> NoReturn:
    """Serve until SIGTERM or SIGINT, drain, and end the process.

    Raises:
        TunewrightError: a port is taken, the database does not answer, another gateway has this executor id, or the
            file of keys is damaged.
    """
    logs.configure("gateway", settings.log_level, settings.log_format)
    state = build(settings)
    listener = _listen(settings.http_listen)
    metrics_address = _serve_metrics(settings, state)
    # Lost to another process, it must not go on beside it: what is unfinished is taken up there.
    claim(settings.database_url, settings.executor_id, on_lost=lambda: os._exit(1))
    state.runs.launch()
    state.usage.launch()
    state.rollouts.launch()
    grpc_address, end_grpc = serve_grpc(state, settings.grpc_listen) if settings.grpc_listen else ("", lambda: None)
    config = uvicorn.Config(
        create_app(state),
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=int(settings.stop_grace_seconds),
        ssl_certfile=None,
        lifespan="off",
    )
    address = f"{settings.http_listen.rpartition(':')[0]}:{listener.getsockname()[1]}"
    addresses = {"http": address, "metrics": metrics_address} | ({"rollouts": grpc_address} if grpc_address else {})
    _announce(settings, {**addresses, "pid": os.getpid()})
    with closing(listener):
        _Server(config, state).run(sockets=[listener])
    state.usage.close()
    end_grpc()
    _log.info("drained")
    # Unfinished runs stand in the database and go on at the next start. Their threads wait on rooms for minutes: they
    # must neither hold the process back nor take the end of the interpreter for a failure of their stage.
    logging.shutdown()
    os._exit(0)


def build(settings: GatewaySettings) -> State:
    """Return all parts of a gateway, wired; nothing runs yet."""
    keys = KeyRing(settings.api_keys_file, settings.bootstrap_api_key.get_secret_value())
    if keys.empty:
        _log.warning("no API key opens this gateway: `python -m tunewright.gateway keys create --name NAME` makes one")
    store = settings.open_store()
    try:
        store.ensure_bucket()
    except StoreUnavailable as error:
        _log.warning("the object store does not answer yet: %s", error)
    database = Database(settings.database_url)
    journal, views, aliases = Journal(database), RunViews(database), Aliases(database)
    rooms, owners = Rooms(settings), Owners(database)
    versions, traffic = Versions(database), Traffic()
    routes = Routes(aliases, versions, rooms)
    models = VisibleModels(database, routes, owners)
    runner = StageRunner(
        journal, rooms, aliases, versions, routes, models, deploy_timeout_seconds=settings.deploy_timeout_seconds
    )
    runs = DurableRuns(Pipeline(runner), journal, database_url=settings.database_url, executor_id=settings.executor_id)
    records, jobs = FileRecords(database), JobRecords(database)
    filing = Filing(store=store, records=records, manifests={})
    fine_tuning = FineTuning(
        files=filing, records=jobs, views=views, models=models, folder=settings.work_dir / "fine_tuning"
    )
    checkpoints = Checkpoints(
        store=store, records=jobs, views=views, rooms=rooms, owners=owners, folder=settings.work_dir / "checkpoints"
    )
    return State(
        settings=settings,
        store=store,
        keys=keys,
        rooms=rooms,
        journal=journal,
        views=views,
        aliases=aliases,
        routes=routes,
        runner=runner,
        runs=runs,
        rollouts=Rollouts(versions, rooms, routes, traffic, store),
        engines=Engines(tls=_engine_tls(settings), read_seconds=settings.engine_read_timeout_seconds),
        files=records,
        filing=filing,
        fine_tuning=fine_tuning,
        checkpoints=checkpoints,
        parts=UploadRecords(database),
        owners=owners,
        jobs=jobs,
        models=models,
        usage=Usage(database),
    )


def _engine_tls(settings: GatewaySettings) -> ssl.SSLContext | bool:
    """Return what engines under https are checked against: the services' own authority where there is one."""
    if settings.tls_ca is None or settings.tls_cert is None:
        return True
    context = ssl.create_default_context(cafile=settings.tls_ca)
    context.load_cert_chain(settings.tls_cert, settings.tls_key)
    return context


def _listen(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host.strip("[]"), int(port)))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise TunewrightError(
            f"cannot listen on {address}: {error.strerror}",
            remedy="Another process has the port: choose another TUNEWRIGHT_HTTP_LISTEN, or port 0.",
        ) from error
    return listener


def _serve_metrics(settings: GatewaySettings, state: State) -> str:
    REGISTRY.register(metrics.RunsCollector(state.views.counts, [run_state.value for run_state in RunState]))
    try:
        port = chassis_metrics.serve(settings.metrics_listen)
    except OSError as error:
        raise TunewrightError(
            f"cannot listen on {settings.metrics_listen} for metrics: {error.strerror}",
            remedy="Choose another TUNEWRIGHT_METRICS_LISTEN, or port 0 to let the system pick.",
        ) from error
    return f"{settings.metrics_listen.rpartition(':')[0]}:{port}"


def _announce(settings: GatewaySettings, ready: dict[str, object]) -> None:
    _log.info("serving", extra=ready)
    if settings.ready_file is not None:
        write_atomically(settings.ready_file, json.dumps(ready).encode())
