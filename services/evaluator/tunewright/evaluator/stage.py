"""The evaluation stage: held-out rows to a report, base against tuned, asked through the endpoints that serve them.

Knows no store, and no transport but the engines' HTTP.
"""

import asyncio
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tunewright.artifacts import Kind, Manifest
from tunewright.chassis.errors import InvalidSpec, foreign
from tunewright.chassis.settings import read_settings
from tunewright.chassis.stage import Reporter, Severity
from tunewright.evaluator.asking import Answers, ask
from tunewright.evaluator.client import Endpoint, Target
from tunewright.evaluator.figures import document, measure, metrics, verdict
from tunewright.evaluator.heldout import Row, read_rows
from tunewright.evaluator.page import render
from tunewright.evaluator.settings import EvaluatorSettings
from tunewright.evaluator.spec import EvaluationSpec


def run(spec: EvaluationSpec, inputs: Mapping[str, Path], output_dir: Path, report: Reporter) -> Manifest:
    """Ask both models about inputs["dataset"]; report.runtime says where they answer.

    Raises:
        InvalidSpec: the dataset or an endpoint is missing.
        InvalidData: no held-out rows, or broken ones.
        Refused: the engines read rows differently, or no row fits.
        Unavailable: an endpoint stayed away.
    """
    if "dataset" not in inputs:
        raise InvalidSpec("input 'dataset' is missing", remedy="Give the evaluation its dataset.")
    rows = read_rows(inputs["dataset"], spec.max_rows)
    base, tuned = (_target(report.runtime, name) for name in ("base", "tuned"))
    report.event("rows", f"Asking both models about {len(rows)} held-out rows.", rows=len(rows))

    answers = asyncio.run(_ask(base, tuned, rows, spec, report))
    figures = measure(answers)
    found = document(figures, answers, _names(report.runtime, base, tuned))

    (output_dir / "report.json").write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", "utf-8")
    (output_dir / "report.html").write_text(render(found), "utf-8")
    report.event("verdict", verdict(figures), **metrics(figures))
    return Manifest(kind=Kind.REPORT, created_by="evaluator", spec=spec.canonical(), metrics=metrics(figures))


async def _ask(base: Target, tuned: Target, rows: list[Row], spec: EvaluationSpec, report: Reporter) -> Answers:
    access = read_settings(EvaluatorSettings)
    make = partial(
        Endpoint,
        key=access.engine_key.get_secret_value(),
        tls_ca=access.tls_ca,
        check_stop=report.raise_if_stopped,
        on_wait=lambda text: report.event("wait", text, severity=Severity.WARNING),
    )
    async with make(base) as base_endpoint, make(tuned) as tuned_endpoint:
        return await ask(base_endpoint, tuned_endpoint, rows, spec, report)


def _target(runtime: Mapping[str, Any], name: str) -> Target:
    try:
        return Target.model_validate(runtime[name])
    except KeyError as error:
        raise InvalidSpec(
            f"nobody said where the {name} model answers",
            remedy=f"--runtime '{name}={{endpoint: http://HOST:PORT/v1, served_model_name: NAME}}'",
        ) from error
    except ValidationError as error:
        raise foreign(error) from error


def _names(runtime: Mapping[str, Any], base: Target, tuned: Target) -> dict[str, Any]:
    dataset = runtime.get("manifests", {}).get("dataset")
    artifacts = runtime.get("artifacts", {})
    return {
        "base": {"name": base.served_model_name, "artifact": artifacts.get("base")},
        "tuned": {"name": tuned.served_model_name, "artifact": artifacts.get("tuned")},
        "dataset": str(Manifest.model_validate(dataset).ref) if dataset else None,
    }
