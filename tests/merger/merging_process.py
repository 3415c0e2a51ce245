"""A merge in a process of its own, in small parts and slowly enough to be killed on the way.

    python -m tests.merger.merging_process BASE ADAPTER OUTPUT [SECONDS_A_PART] [LARGEST_FILE_BYTES]

Prints the number of parts that it wrote, as opposed to found there.
"""

import resource
import sys
import time
from pathlib import Path

from tunewright.chassis.errors import TunewrightError
from tunewright.merger import parts
from tunewright.merger.adapter_config import read_adapter_config
from tunewright.merger.headers import read_headers
from tunewright.merger.plan import plan_merge
from tunewright.merger.streaming import Merger, write_merged

SMALL_PART_BYTES = 8192


def main() -> None:
    """Merge as the command line says."""
    base, adapter, output = (Path(text) for text in sys.argv[1:4])
    seconds, largest = [*(float(text) for text in sys.argv[4:]), 0.0, 0.0][:2]
    if largest:
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(largest), int(largest)))
    parts.PART_BYTES = SMALL_PART_BYTES
    written = []
    merge = Merger.merge

    def slowly(self: Merger, part: parts.Part) -> memoryview:
        """Take `seconds` longer over each part."""
        written.append(part)
        time.sleep(seconds)
        return merge(self, part)

    Merger.merge = slowly  # type: ignore[method-assign] # a slow disk
    plan = plan_merge(adapter, read_adapter_config(adapter), read_headers(base), tied=True)
    try:
        write_merged(plan, output, 60_000, lambda _done, _total: None, threads=2)
    except TunewrightError as error:
        sys.exit(f"{error.reason}: {error.message}")
    sys.stdout.write(f"{len(written)}\n")


if __name__ == "__main__":
    main()
