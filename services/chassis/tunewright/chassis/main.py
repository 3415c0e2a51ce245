"""The command line of a service: `python -m tunewright.<service>` serves, `… run SPEC.yaml …` runs a stage alone."""

import argparse
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping

from tunewright.artifacts import StoreUnavailable
from tunewright.artifacts.s3 import S3Store
from tunewright.chassis import alone, logs, metrics
from tunewright.chassis.child import write_atomically
from tunewright.chassis.errors import StoreDown, TunewrightError
from tunewright.chassis.jobs import JobRunner
from tunewright.chassis.server import Register, ServiceServer
from tunewright.chassis.settings import ServiceSettings, read_settings
from tunewright.chassis.stage import Stage

_log = logging.getLogger(__name__)


def main(service: str, *, settings: type[ServiceSettings], stages: Mapping[str, Stage], register: Register) -> None:
    """Parse the command line and do what it says; ends the process with 1 and one clear line on an error."""
    parser = argparse.ArgumentParser(prog=f"python -m tunewright.{service}")
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("serve", help="serve gRPC (the default); settings come from TUNEWRIGHT_* variables")
    if stages:
        alone.add_arguments(commands.add_parser("run", help="run a stage alone, without any server"), stages)
    arguments = parser.parse_args()
    try:
        if arguments.command == "run":
            alone.run(arguments, stages)
        else:
            serve(service, read_settings(settings), stages, register)
    except TunewrightError as error:
        places = [f"{service}: {place.field}: {place.description}" for place in error.violations]
        sys.exit("\n".join([f"{service}: {error.message}", *places, f"{service}: {error.remedy}"]))


def serve(service: str, settings: ServiceSettings, stages: Mapping[str, Stage], register: Register) -> None:
    """Serve until SIGTERM or SIGINT, then drain."""
    logs.configure(service, settings.log_level, settings.log_format)
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    store = settings.open_store()
    _wait_for_store(store, settings, stopping)
    jobs = JobRunner(service, stages, store, settings)
    server = ServiceServer(service, jobs, settings, register)
    address = server.start()
    metrics_address = _serve_metrics(settings.metrics_listen)
    jobs.recover()
    _log.info("serving", extra={"grpc": address, "metrics": metrics_address})
    if settings.ready_file is not None:
        ready = {"grpc": address, "metrics": metrics_address, "pid": os.getpid()}
        write_atomically(settings.ready_file, json.dumps(ready).encode())
    stopping.wait()
    _log.info("draining")
    jobs.drain()
    server.stop()


def _wait_for_store(store: S3Store, settings: ServiceSettings, stopping: threading.Event) -> None:
    """Make sure that the bucket is there; a store that is still starting is given a minute."""
    deadline = time.monotonic() + 60
    while True:
        try:
            store.ensure_bucket()
        except StoreUnavailable as error:
            if time.monotonic() > deadline or stopping.is_set():
                raise StoreDown(str(error)) from error
            _log.warning("waiting for the object store at %s: %s", settings.store_endpoint, error)
            stopping.wait(2)
        else:
            return


def _serve_metrics(listen: str) -> str:
    try:
        port = metrics.serve(listen)
    except OSError as error:
        raise TunewrightError(
            f"cannot listen on {listen} for metrics: {error.strerror}",
            remedy="Choose another TUNEWRIGHT_METRICS_LISTEN, or port 0 to let the system pick.",
        ) from error
    return f"{listen.rpartition(':')[0]}:{port}"
