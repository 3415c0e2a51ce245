"""Prometheus metrics that every service has, and the page that shows them. Knows nothing of any one service."""

from prometheus_client import Counter, Gauge, Histogram, start_http_server

JOBS = Gauge("tunewright_jobs", "Jobs of this service that are not finished", ["service", "state"])
JOBS_FINISHED = Counter("tunewright_jobs_finished_total", "Jobs that ended", ["service", "state"])
STAGE_RESTARTS = Counter("tunewright_stage_restarts_total", "Stages started again after they died", ["service"])
STAGE_SECONDS = Histogram(
    "tunewright_stage_duration_seconds",
    "Time from the start of a stage's process to its end",
    ["service"],
    buckets=(1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 24 * 3600),
)
STAGE_PROGRESS = Gauge("tunewright_stage_progress_ratio", "Share of the running stage that is done", ["service"])
STAGE_FIGURE = Gauge(
    "tunewright_stage_figure",
    "Newest figures of the running stage, such as loss and learning_rate",
    ["service", "figure"],
)
STAGE_RSS = Gauge("tunewright_stage_resident_memory_bytes", "Resident memory of the running stage", ["service"])
TRANSFERRED = Counter(
    "tunewright_store_transferred_bytes_total", "Bytes from and to the store", ["service", "direction"]
)
CHECKPOINTS = Counter("tunewright_checkpoints_saved_total", "Checkpoints that are complete in the store", ["service"])
RPC_SECONDS = Histogram(
    "tunewright_grpc_request_duration_seconds", "Time to answer a gRPC call", ["service", "method", "code"]
)


def serve(listen: str) -> int:
    """Serve GET /metrics at host:port in a thread of its own; return the port.

    Raises:
        OSError: the port is taken.
    """
    host, _, port = listen.rpartition(":")
    server, _thread = start_http_server(int(port), addr=host)
    return int(server.server_port)
