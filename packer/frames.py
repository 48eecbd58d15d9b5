"""A data frame in, the same frame out with what was found: nothing of it is copied, cast, sorted or dropped.

pandas, polars and Arrow tables are told apart and read by narwhals; the columns that are added are made by the frame's
own library, which is there since the frame is. None of them is imported before a frame is given.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Unpack

from packer.columns import Column, Kind, Type, added_columns, fields_of, fitted
from packer.errors import CallError
from packer.options import RunnerOptions
from packer.sync import choose_task, label
from packer.task import Task

if TYPE_CHECKING:
    from narwhals.stable.v2 import DataFrame
    from narwhals.stable.v2.typing import IntoDataFrameT

_PANDAS = {
    Kind.TEXT: "string",
    Kind.JSON: "string",
    Kind.WHOLE: "Int64",
    Kind.NUMBER: "Float64",
    Kind.TRUTH: "boolean",
    Kind.LIST: "object",
}
_POLARS = {
    Kind.TEXT: "String",
    Kind.JSON: "String",
    Kind.WHOLE: "Int64",
    Kind.NUMBER: "Float64",
    Kind.TRUTH: "Boolean",
}


def label_frame(
    frame: IntoDataFrameT,
    labels: Iterable[str] | Mapping[str, str] | Any = None,
    *,
    text: str,
    model: str,
    task: Task | None = None,
    progress: bool = False,
    **options: Unpack[RunnerOptions],
) -> IntoDataFrameT:
    """`frame` with the columns `label` (or the record's fields), `status` and `error` behind its own.

    A `confidence` that is asked for stands before `status`, and so does the `decision` on doubtful labels.

    `frame` is a pandas or polars data frame or an Arrow table, of which nothing changes; `text` names its column of
    texts, where a null is an empty text. Everything else is as in `packer.label`. A name that is taken gets a number
    (`label_2`). The label is a category among all of the task's labels, null where the item has none.

    Raises what `packer.label` does. The `results` of a `StoppedError` are in the order of the frame's rows.
    """
    table = _read_frame(frame)
    texts = _read_texts(table, text)
    task = choose_task(labels, task)
    wanted = {"confidence": options.get("confidence", False), "decision": options.get("doubt") is not None}
    added = added_columns(task, taken=table.columns, **wanted)
    results = label(texts, task=task, model=model, progress=progress, **options)
    fields = fields_of(task)
    rows = [fitted(result, fields, added, **wanted) for result in results]
    values = [list(column) for column in zip(*rows, strict=True)] or [[] for _ in added]
    found: IntoDataFrameT = _ADD[str(table.implementation)](table.to_native(), dict(zip(added, values, strict=True)))
    return found


def _read_frame(frame: Any) -> DataFrame[Any]:
    try:
        import narwhals.stable.v2 as nw  # noqa: PLC0415  an extra
        from narwhals.exceptions import DuplicateError  # noqa: PLC0415  as above
    except ModuleNotFoundError as error:
        message = "data frames need narwhals, which is not installed: pip install 'prompt-packer[frames]'"
        raise CallError(message) from error
    given = f"{type(frame).__module__.split('.')[0]}.{type(frame).__name__}"
    try:
        table = nw.from_native(frame, pass_through=True)
    except DuplicateError as error:
        raise CallError("two columns of the frame have one name; expected another name for each") from error
    if isinstance(table, nw.LazyFrame):
        raise CallError(f"expected a data frame, got a lazy one ({given}): collect it first")
    if isinstance(table, nw.DataFrame) and str(table.implementation) in _ADD:
        return table
    raise CallError(f"expected a pandas or polars data frame or an Arrow table, got {given}")


def _read_texts(table: DataFrame[Any], name: str) -> list[str]:
    """The texts of a column, empty for a null. Raises `CallError`."""
    import narwhals.stable.v2 as nw  # noqa: PLC0415  it is there: it read the frame

    columns = table.columns
    if name not in columns:
        near = difflib.get_close_matches(str(name), map(str, columns), 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        shown = ", ".join(map(repr, columns[:10])) + (f" and {len(columns) - 10} more" if len(columns) > 10 else "")
        raise CallError(f"no column {name!r}{hint} (the frame has {shown or 'none'})")
    column = table[name]
    values, nulls = column.to_list(), column.is_null().to_list()
    native: Any = column.to_native()
    holds = getattr(native, "dtype", None) or native.type
    # what narwhals has no word for is a column of nulls, or is told by its first value
    if values and not isinstance(column.dtype, nw.String | nw.Categorical | nw.Enum | nw.Object | nw.Unknown):
        raise CallError(f"column {name!r}: expected texts (strings, or categories that are), got {holds}")
    for place, (value, is_null) in enumerate(zip(values, nulls, strict=True), 1):
        if not is_null and not isinstance(value, str):
            got = f"row {place} holds a value of type {type(value).__name__}"
            raise CallError(f"column {name!r} ({holds}): expected texts, {got}")
    return ["" if is_null else value for value, is_null in zip(values, nulls, strict=True)]


def _add_to_pandas(frame: Any, values: Mapping[Column, list[Any]]) -> Any:
    import pandas as pd  # noqa: PLC0415  the frame is its own

    # arrays, which have no index: a Series would be aligned, and an index may name a row twice
    return frame.assign(**{column.name: _pandas_array(pd, column.type, found) for column, found in values.items()})


def _pandas_array(pd: Any, type_: Type, values: Sequence[Any]) -> Any:
    if type_.kind is Kind.CHOICE:
        return pd.Categorical(values, categories=list(type_.choices))
    # a Series, since an array of lists would be taken for a table
    return pd.Series(values, dtype=_PANDAS[type_.kind]).array


def _add_to_polars(frame: Any, values: Mapping[Column, list[Any]]) -> Any:
    import polars as pl  # noqa: PLC0415  as above

    return frame.with_columns(
        [pl.Series(column.name, found, dtype=_polars_type(pl, column.type)) for column, found in values.items()]
    )


def _polars_type(pl: Any, type_: Type) -> Any:
    if type_.kind is Kind.CHOICE:
        return pl.Enum(type_.choices)
    return pl.List(_polars_type(pl, type_.of)) if type_.of is not None else getattr(pl, _POLARS[type_.kind])


def _add_to_arrow(table: Any, values: Mapping[Column, list[Any]]) -> Any:
    from packer.arrow import arrow_array  # noqa: PLC0415  as above

    for column, found in values.items():
        table = table.append_column(column.name, arrow_array(found, column.type))
    return table


_ADD = {"pandas": _add_to_pandas, "polars": _add_to_polars, "pyarrow": _add_to_arrow}
