"""What data preparation reads from the environment beside what every service does. Knows nothing of rows."""

from importlib.util import find_spec

from tunewright.chassis.errors import InvalidSpec, Violation
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
        if find_spec("ray") is None:
            raise _no_cluster("the package ray is not installed", "Install requirements/ray.txt here and on all nodes")
        if not self.ray_address:
            raise _no_cluster("this service was told of no cluster", "Set TUNEWRIGHT_RAY_ADDRESS")


def _no_cluster(why: str, remedy: str) -> InvalidSpec:
    text = f"`ray` needs a Ray cluster; {why}"
    remedy = f"{remedy}, or use `launcher: local`: the dataset is the same."
    return InvalidSpec(f"launcher: {text}", remedy=remedy, violations=[Violation("launcher", text)])
