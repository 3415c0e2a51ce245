"""Starts `weed server` with the keys and certificates in /credentials, on https port 9000, data in /objects."""

import glob
import json
import os
import pathlib
import signal
import subprocess
import sys

CREDENTIALS = pathlib.Path(os.environ.get("CREDENTIALS", "/credentials"))
DATA = "/objects"


def main() -> int:
    """Run the server until SIGTERM; `weed` itself does not end on it, so it is killed, which it survives by design."""
    secrets = CREDENTIALS / "secrets"
    pair = {
        "accessKey": (secrets / "tunewright_store_access_key").read_text(),
        "secretKey": (secrets / "tunewright_store_secret_key").read_text(),
    }
    actions = ["Admin", "Read", "Write", "List", "Tagging"]
    config = pathlib.Path("/tmp/s3.json")  # noqa: S108 - a tmpfs of this container's own
    config.write_text(json.dumps({"identities": [{"name": "tunewright", "credentials": [pair], "actions": actions}]}))
    (weed,) = glob.glob("/opt/weed/**/weed", recursive=True)  # noqa: PTH207 - one file, wherever the wheel puts it
    command = [
        weed, "server", "-s3", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3.ip.bind=0.0.0.0", f"-dir={DATA}",
        "-master.peers=none",  # without it a restart waits 15 s for an election
        "-master.telemetry=false",
        "-master.volumeSizeLimitMB=1024", "-volume.max=2000",  # small and many: a volume is 30 GB by default
        "-s3.port=8333", "-s3.port.https=9000", "-s3.port.iceberg=0", "-s3.port.lance=0",
        f"-s3.config={config}", "-s3.allowDeleteBucketNotEmpty=false",
        f"-s3.cert.file={CREDENTIALS}/tls/object-store.pem", f"-s3.key.file={CREDENTIALS}/tls/object-store.key",
    ]  # fmt: skip
    # A bucket takes as many volumes at its first write; the default is 7.
    server = subprocess.Popen(command, env=os.environ | {"WEED_MASTER_VOLUME_GROWTH_COPY_1": "1"})
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: server.kill())
    return server.wait()


if __name__ == "__main__":
    sys.exit(main())
