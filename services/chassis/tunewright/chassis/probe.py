"""Asks the service in this container for its health: `python -m tunewright.chassis.probe`; exit status 0 means serving.

For container health checks, which cannot speak mutual TLS themselves. Knows nothing of any one service.
"""

import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tunewright.chassis.errors import TunewrightError
from tunewright.chassis.settings import ServiceSettings, read_settings

_TIMEOUT_SECONDS = 5


def main() -> int:
    """Return 0 if the whole server says SERVING, else 1 with a line that says why."""
    try:
        with _channel(read_settings(ServiceSettings)) as channel:
            request = health_pb2.HealthCheckRequest()
            answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=_TIMEOUT_SECONDS)  # type: ignore[attr-defined]
    except (grpc.RpcError, TunewrightError, OSError) as error:
        sys.stderr.write(f"not serving: {error}\n")
        return 1
    return 0 if answer.status == health_pb2.HealthCheckResponse.SERVING else 1


def _channel(settings: ServiceSettings) -> grpc.Channel:
    target = f"127.0.0.1:{settings.listen.rpartition(':')[2]}"
    if settings.tls_cert is None or settings.tls_key is None or settings.tls_ca is None:
        return grpc.insecure_channel(target)
    authority, key, cert = (path.read_bytes() for path in (settings.tls_ca, settings.tls_key, settings.tls_cert))
    return grpc.secure_channel(target, grpc.ssl_channel_credentials(authority, key, cert))


if __name__ == "__main__":
    sys.exit(main())
