"""Starts clusters of Ray on this machine for tests."""

from typing import Any

from ray.cluster_utils import Cluster

_ATTEMPTS = 3
_SLOW = "timed out during startup"


def started(node: dict[str, Any], **settings: Any) -> Cluster:  # noqa: ANN401 - Ray's own
    """Return a cluster with a head node. Ray allows a node 30 seconds to start, too few on a machine that is busy.

    Raises:
        Exception: Ray's own, of another kind or for the third time.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return Cluster(initialize_head=True, head_node_args={**node, **settings})
        except Exception as error:
            if _SLOW not in str(error) or attempt == _ATTEMPTS:
                raise
    raise AssertionError
