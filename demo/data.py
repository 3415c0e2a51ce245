"""The demo's raw data: what AWS's own documentation says each API operation does, exactly as it lies in a package.

The PyPI package ``botocore`` (Apache-2.0) carries the documentation of every AWS service as HTML fragments. One
operation becomes one row: the question is ours, the answer is the fragment, untouched. Nothing is cleaned, and no dirt
is added. What is found in the rows, and where it comes from (botocore 1.44.5, the services below):

- HTML in 3,218 of 3,493 answers (``<p>``, ``<note>``, nested lists, links), entities (``&lt;``) in 38;
- exact duplicates: CloudFront is shipped in 19 versions of its API, RDS, Lambda and EventBridge in two each, and most
  operations did not change between them; ``waf`` and ``waf-regional`` are documented twice in the same words;
- conflicting answers to one question: where the documentation did change between versions;
- near-duplicates: ``TagResource`` and its like read almost the same in every service;
- empty answers: MediaPackage, API Gateway v2, CloudFront and EventBridge Schemas leave operations undocumented;
- answers far too long for a small model: up to 23,799 characters (S3), 1,051 above 600;
- typographic ligatures and no-break spaces pasted from elsewhere (EFS, Location, Route 53, DynamoDB);
- texts that look like personal data: e-mail addresses (Device Farm, S3, Connect), twelve-digit account numbers
  (Redshift Data, Route 53 Domains), IP addresses (WAF, Route 53).

There are no malformed JSON lines: the source is well-formed. Run: ``python -m demo.data FILE``.
"""

import gzip
import importlib.util
import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

PACKAGE = "botocore"

# Well-known services first; the second group is there because its documentation is dirty in its own way.
SERVICES = (
    "cloudformation", "cloudfront", "cloudwatch", "dynamodb", "dynamodbstreams", "ecr", "ecs", "eks", "elb", "elbv2",
    "events", "iam", "kinesis", "kms", "lambda", "logs", "rds", "route53", "s3", "secretsmanager", "sns", "sqs", "ssm",
    "stepfunctions", "sts", "waf", "waf-regional",
    "apigatewayv2", "connect", "devicefarm", "efs", "location", "mediapackage", "personalize", "redshift-data",
    "route53domains", "schemas",
)  # fmt: skip


class RawDataError(Exception):
    """The raw data can't be made; the message says what is missing and what to do."""


@dataclass(frozen=True, kw_only=True)
class RawCounts:
    """What was written, so that a reader of the cleaning report can compare."""

    rows: int
    """Rows written, one operation of one version of one service each."""
    services: int
    """Services that the rows come from."""
    repeated_rows: int
    """Rows equal in every field to an earlier one."""
    repeated_questions: int
    """Rows whose question was asked by an earlier row, whatever the answer."""
    empty_answers: int
    """Rows without any answer."""
    characters: int
    """Characters of all answers together."""


def packaged_folder() -> Path:
    """Return the installed folder with one folder a service; found, not imported.

    Raises:
        RawDataError: The package is not installed.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise RawDataError(
            "The package botocore is missing: run `pip install --no-deps -r requirements/demo.txt` (or `make env`)."
        )
    return Path(spec.origin).parent / "data"


def service_rows(folder: Path) -> Iterator[dict[str, str]]:
    """Yield the rows of one service, oldest version of its API first, operations in the package's order.

    Raises:
        RawDataError: The installed botocore has no such service.
    """
    versions = sorted(folder.glob("*/service-2.json.gz"))
    if not versions:
        raise RawDataError(f"{folder} holds no service description: install the botocore of requirements/demo.txt.")
    for path in versions:
        description: dict[str, Any] = json.loads(gzip.decompress(path.read_bytes()))
        for name, operation in description["operations"].items():
            yield {
                "instruction": f"What does the API operation {name} do?",
                "input": f"Service: {description['metadata']['serviceFullName']}",
                "output": operation.get("documentation", ""),
            }


def write_raw(path: Path) -> RawCounts:
    """Write all rows to `path` as JSON lines (UTF-8, keys instruction, input, output) and return what they hold.

    The same package gives the same bytes.

    Raises:
        RawDataError: The package is missing, or is one without these services.
    """
    folder = packaged_folder()
    rows = [row for service in SERVICES for row in service_rows(folder / service)]
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    with unfinished.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    unfinished.replace(path)
    return count(rows)


def count(rows: list[dict[str, str]]) -> RawCounts:
    """Return the figures of `rows`; all of them were written by `service_rows`."""
    whole = Counter((row["instruction"], row["input"], row["output"]) for row in rows)
    questions = Counter((row["instruction"], row["input"]) for row in rows)
    return RawCounts(
        rows=len(rows),
        services=len({row["input"] for row in rows}),
        repeated_rows=len(rows) - len(whole),
        repeated_questions=len(rows) - len(questions),
        empty_answers=sum(not row["output"].strip() for row in rows),
        characters=sum(len(row["output"]) for row in rows),
    )


if __name__ == "__main__":
    if len(sys.argv) != 2:  # noqa: PLR2004 (the program and one argument)
        sys.exit("usage: python -m demo.data FILE")
    print(json.dumps(asdict(write_raw(Path(sys.argv[1])))))
