"""What data preparation reads from the environment beside what every service does. Knows nothing of rows."""

from tunewright.chassis import ray_cluster
from tunewright.chassis.settings import ServiceSettings


class DataprepSettings(ServiceSettings):
    """Settings of the service and of its stage, which inherits the environment."""

    ray_address: str = ""
    """Ray cluster for `launcher: ray`: host:port of its GCS where a Ray node runs on this machine too, else
    ray://host:port of its client server. Empty: that launcher is refused."""

    embedding_root: str = ""
    """Folder below which the models for `semantic.model` lie. Empty: that setting is refused."""

    def refuse_without_cluster(self) -> None:
        """Raise if `launcher: ray` cannot work here, before anything is downloaded.

        Raises:
            InvalidSpec: no cluster is named, or the package is not installed.
        """
        ray_cluster.refuse_without_cluster(self.ray_address)
