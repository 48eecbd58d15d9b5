"""Columns and their types in Arrow, for Parquet files and Arrow tables. Categories are dictionaries of all choices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from packer.columns import Kind, Type

_SIMPLE = {
    Kind.TEXT: pa.string(),
    Kind.JSON: pa.string(),
    Kind.WHOLE: pa.int64(),
    Kind.NUMBER: pa.float64(),
    Kind.TRUTH: pa.bool_(),
    Kind.CHOICE: pa.dictionary(pa.int32(), pa.string()),
}


def arrow_type(type_: Type) -> pa.DataType:
    """The Arrow type of a column of `type_`."""
    return _SIMPLE[type_.kind] if type_.of is None else pa.list_(arrow_type(type_.of))


def arrow_array(values: Sequence[Any], type_: Type) -> pa.Array:
    """`values`, each fitted to `type_`, as one array."""
    if type_.kind is not Kind.CHOICE:
        return pa.array(values, arrow_type(type_))
    places = {choice: place for place, choice in enumerate(type_.choices)}
    indices = pa.array([None if value is None else places[value] for value in values], pa.int32())
    return pa.DictionaryArray.from_arrays(indices, pa.array(type_.choices, pa.string()))
