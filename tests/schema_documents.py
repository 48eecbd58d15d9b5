"""The JSON Schema documents that are drawn from the models. Run as a script, it writes them into `schemas/`."""

import json
from pathlib import Path
from typing import Any

import pydantic

from packer.calibration import Calibration
from packer.evaluation import Evaluation, RecordEvaluation
from packer.events import Event
from packer.report import Report
from packer.task import TaskFile

SCHEMAS = Path(__file__).resolve().parents[1] / "schemas"


def drawn() -> dict[str, dict[str, Any]]:
    """File name to document, for every document that has a model."""
    models: dict[str, Any] = {
        "task": TaskFile,
        "event": Event,
        "report": Report,
        "calibration": Calibration,
        "evaluation": Evaluation | RecordEvaluation,
    }
    return {f"{name}.schema.json": _document(name, model) for name, model in models.items()}


def _document(name: str, model: Any) -> dict[str, Any]:
    schema = pydantic.TypeAdapter(model).json_schema(mode="validation" if name == "task" else "serialization")
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": f"urn:prompt-packer:{name}"}
    return head | schema


def written(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    for file, document in drawn().items():
        (SCHEMAS / file).write_text(written(document), encoding="utf-8")
