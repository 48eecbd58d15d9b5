"""A record is an object of one JSON Schema, checked without fetching anything; then by the caller's model, if any."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import jsonschema
import jsonschema.exceptions
import jsonschema.protocols
import pydantic
import referencing

from packer.errors import TaskError, read_first_error


class Record:
    """The record that a task wants: `schema`, and the `model` that it was read from, None where it was a schema.

    Raises `TaskError` for a schema that a prompt cannot ask for.
    """

    def __init__(self, given: type[pydantic.BaseModel] | Mapping[str, Any]) -> None:
        self.model = given if isinstance(given, type) else None
        self.schema = _read_schema(given)
        self._validator = _compile(self.schema)

    def check(self, fields: Mapping[str, Any]) -> tuple[str, str] | None:
        """None for a record that is allowed, else its first defect: the path in the record, what was wanted."""
        error = jsonschema.exceptions.best_match(self._validator.iter_errors(fields))
        if error is not None:
            path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.absolute_path)
            return path, error.message
        if self.model is not None:
            try:
                self.model.model_validate(fields)
            except pydantic.ValidationError as invalid:
                return read_first_error(invalid)
        return None

    def load(self, fields: Any) -> Any:
        """A stored record, as an instance of the model where there is one."""
        return fields if self.model is None else self.model.model_validate(fields)


def _read_schema(given: type[pydantic.BaseModel] | Mapping[str, Any]) -> Mapping[str, Any]:
    if isinstance(given, type):
        if not issubclass(given, pydantic.BaseModel):
            raise TaskError("record", f"expected a pydantic model or a JSON Schema, got {given.__name__}")
        schema = given.model_json_schema()
    elif isinstance(given, Mapping):
        schema = dict(given)
    else:
        raise TaskError("record", f"expected a pydantic model or a JSON Schema, got {given!r}")
    properties = schema.get("properties")
    if schema.get("type") != "object" or not isinstance(properties, Mapping) or not properties:
        raise TaskError("record", 'expected a schema with "type": "object" and "properties"')
    if "n" in properties:
        raise TaskError("record.properties.n", "the name n is taken by the item's number; expected another name")
    for reference in _references(schema):
        # prompts.py moves the definitions to the answer's root: no other reference would still point at its target
        if not reference.startswith(("#/$defs/", "#/definitions/")):
            raise TaskError("record", f"expected references to the schema's own #/$defs/, got {reference!r}")
    return schema


def _references(schema: Any) -> Iterator[str]:
    pending = [schema]
    while pending:
        node = pending.pop()
        if isinstance(node, Mapping):
            yield from (
                value for name, value in node.items() if name in {"$ref", "$dynamicRef"} and isinstance(value, str)
            )
            pending.extend(node.values())
        elif isinstance(node, list):
            pending.extend(node)


def _compile(schema: Mapping[str, Any]) -> jsonschema.protocols.Validator:
    validator = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    try:
        validator.check_schema(dict(schema))
    except jsonschema.SchemaError as error:
        path = "".join(f".{part}" for part in error.absolute_path)
        raise TaskError(f"record{path}", f"expected a JSON Schema: {error.message}") from error
    # An empty registry: the default one fetches what it does not know
    return validator(schema, registry=referencing.Registry())
