"""Settings go into a task file in place: comments, order and all that is not set stay as the user wrote them.

A task file is replaced as a whole, and only once what would stand in it has been read back as a task.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from packer.errors import CallError
from packer.outputs import OutputFile
from packer.task import Task, read_task

_EMPTY = {".toml": "", ".json": "{}"}


def check_task_path(path: str, *, source: str | None) -> None:
    """Raise `CallError` unless the task file `source` with settings can be written to `path`; None for no source."""
    suffix = Path(path).suffix.lower()
    if suffix not in _EMPTY:
        raise CallError(f"{path}: expected a task file that ends in .toml or .json")
    if source is not None and Path(source).suffix.lower() != suffix:
        raise CallError(f"{path}: expected the ending of the task file that is copied, {source}")
    if suffix == ".toml":
        try:
            import tomlkit  # noqa: F401, PLC0415  it may be absent
        except ImportError as missing:
            message = "a TOML file is edited by tomlkit, which is not installed: pip install 'prompt-packer[quality]'"
            raise CallError(message) from missing
    _open(path).abandon()


def write_settings(path: str, settings: Mapping[str, Any], *, source: str | None) -> Task:
    """Write the task file `source` with `settings` to `path`, which may be the same; the task that stands there then.

    A setting that is None is taken out. `source` None: nothing but the settings. Raises `TaskError` where the result
    would be no task, and `CallError` where it cannot be written; then the file is as it was. See `check_task_path`.
    """
    suffix = Path(path).suffix.lower()
    text = _EMPTY[suffix] if source is None else _read(source)
    written = (_edit_toml if suffix == ".toml" else _edit_json)(text, settings)
    with TemporaryDirectory() as folder:
        trial = Path(folder) / Path(path).name
        trial.write_text(written, encoding="utf-8")
        task = read_task(trial)
    output = _open(path)
    try:
        output.write(written.encode())
        output.finish()
    except OSError as error:
        raise CallError(f"{path}: cannot be written: {error.strerror}") from error
    finally:
        output.abandon()
    return task


def _open(path: str) -> OutputFile:
    # a task file that is a link stays one
    return OutputFile(Path(os.path.realpath(path) if Path(path).is_symlink() else path))


def _read(path: str) -> str:
    try:
        return Path(path).read_bytes().decode("utf-8")  # line ends as they are
    except OSError as error:
        raise CallError(f"{path}: cannot be read: {error.strerror}") from error


def _edit_json(text: str, settings: Mapping[str, Any]) -> str:
    content = json.loads(text)
    for name, value in settings.items():
        content.pop(name, None) if value is None else content.update({name: value})
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _edit_toml(text: str, settings: Mapping[str, Any]) -> str:
    import tomlkit  # noqa: PLC0415  it may be absent

    end = "\r\n" if "\r\n" in text else "\n"
    document = tomlkit.parse(text)
    fresh = ""
    tables = ""
    for name, value in settings.items():
        if value is None or isinstance(value, Mapping):
            document.pop(name, None)
        elif name in document:
            document[name] = value
        else:
            fresh += f"{name} = {tomlkit.item(value).as_string()}{end}"
        if isinstance(value, Mapping):
            tables += _write_table(name, value)
    lines = tomlkit.dumps(document).splitlines(keepends=True)
    place = _find_end_of_keys(lines)
    if fresh and not place and lines:
        fresh += end
    if fresh and place and not lines[place - 1].endswith("\n"):
        fresh = end + fresh
    edited = "".join(lines[:place]) + fresh + "".join(lines[place:])
    return edited.rstrip() + end + tables.replace("\n", end) if tables else edited


def _find_end_of_keys(lines: Sequence[str]) -> int:
    """How many lines hold the keys that stand before the first table; a comment behind them belongs to the table."""
    wanted = _plain_keys("".join(lines))
    for count in range(len(lines) + 1):
        try:
            if wanted <= _plain_keys("".join(lines[:count])):
                return count
        except tomllib.TOMLDecodeError:  # in the middle of a value
            continue
    return 0


def _plain_keys(text: str) -> set[str]:
    import tomlkit  # noqa: PLC0415  it may be absent
    import tomlkit.items  # noqa: PLC0415  as above

    tables = (tomlkit.items.Table, tomlkit.items.AoT)
    tomllib.loads(text)
    return {key.key for key, item in tomlkit.parse(text).body if key is not None and not isinstance(item, tables)}


def _write_table(name: str, values: Mapping[str, Any]) -> str:
    """A table, with a line for each element of a list."""
    import tomlkit  # noqa: PLC0415  it may be absent

    lines = ["", f"[{name}]"]
    for key, value in values.items():
        if isinstance(value, list):
            lines += [f"{key} = [", *(f"    {_write_inline(element)}," for element in value), "]"]
        else:
            lines.append(f"{key} = {tomlkit.item(value).as_string()}")
    return "\n".join(lines) + "\n"


def _write_inline(values: Mapping[str, Any]) -> str:
    import tomlkit  # noqa: PLC0415  it may be absent

    table = tomlkit.inline_table()
    table.update({key: value for key, value in values.items() if value is not None})
    return table.as_string()
