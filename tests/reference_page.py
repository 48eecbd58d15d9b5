"""`python tests/reference_page.py` writes docs/reference.md and docs/python.md anew, from the parser and the source.

Nothing in them hangs on the version of Python, on the terminal or on what is imported: the parser's own actions are
read and not its formatted help, and names are read from the source and not from live objects.
"""

import argparse
import ast
import re
import textwrap
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import TypeAlias

import packer
from packer.arguments import make_parser

DOCS = Path(__file__).resolve().parents[1] / "docs"
SOURCE = Path(packer.__file__).parent
_WIDTH = 120
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef
_Argument: TypeAlias = tuple[str, ast.expr | None]
_MADE = "Made by `python tests/reference_page.py`: change the source, not this page."


# The command


def write_reference() -> str:
    """docs/reference.md: what `--help` says, command by command."""
    parser = make_parser()
    lines = ["# The command, option by option", "", f"{_MADE} `prompt-packer COMMAND --help` says the same.", ""]
    names = [choice.dest for choice in _commands(parser)._choices_actions]
    lines += [*_links(names), ""]
    lines += [*_prose(parser.description), "`prompt-packer --version` tells the version.", "", *_epilog(parser.epilog)]
    for name, command in _commands(parser).choices.items():
        lines += [f"## {name}", "", *_prose(command.description), "```text", *_usage(command), "```", ""]
        for group in command._action_groups:
            lines += _options(group)
        lines += _epilog(command.epilog)
    return "\n".join(lines).rstrip() + "\n"


def _commands(parser: argparse.ArgumentParser) -> "argparse._SubParsersAction[argparse.ArgumentParser]":
    return next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))


def _prose(text: str | None) -> Iterator[str]:
    """Paragraphs, refilled; what is indented stays as it is."""
    for paragraph in (text or "").strip("\n").split("\n\n"):
        if paragraph.startswith(" "):
            yield from ["```text", *_dedent(paragraph), "```", ""]
        else:
            yield from [*textwrap.wrap(paragraph, _WIDTH), ""]


def _epilog(text: str | None) -> Iterator[str]:
    """Examples as they are typed, and exit codes as a table."""
    for part in re.split(r"^(?=exit codes:)", (text or "").strip("\n"), flags=re.MULTILINE):
        head, _, rest = part.partition("\n")
        if head == "exit codes:":
            yield from ["| exit code | |", "|---|---|"]
            yield from (re.sub(r"^ *(\d)  (.*)$", r"| \1 | \2 |", line) for line in rest.splitlines())
            yield ""
        elif head:
            yield from ["```sh", *_dedent(rest), "```", ""]


def _usage(command: argparse.ArgumentParser) -> Iterator[str]:
    first, *rest = (command.usage or "").splitlines()
    yield from [first, *(f"    {line.strip()}" for line in rest)]


def _dedent(text: str) -> list[str]:
    return textwrap.dedent(text).splitlines()


def _links(names: list[str]) -> list[str]:
    line = " ".join(f"[{name}](#{name.lower()})" for name in names)
    return textwrap.wrap(line, _WIDTH, break_long_words=False, break_on_hyphens=False)


def _options(group: argparse._ArgumentGroup) -> Iterator[str]:
    shown = [a for a in group._group_actions if a.help is not argparse.SUPPRESS and a.dest != "help"]
    if not shown:
        return
    title = "" if group.title in {"options", "positional arguments"} else group.title
    yield from [f"| {title} | |", "|---|---|"]
    for action in shown:
        metavar = "" if action.nargs == 0 else f" {action.metavar or action.dest.upper()}"
        name = ", ".join(f"{option}{metavar}" for option in action.option_strings) or str(action.metavar)
        yield f"| `{_cell(name)}` | {_cell(action.help or '')} |"
    yield ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


# The package


def write_python() -> str:
    """docs/python.md: the public names, with their arguments and what is said of them."""
    lines = ["# The Python names", "", _MADE, ""]
    lines += ["What is not here may change without notice, but for the fakes in `packer.testing`.", ""]
    lines += [*_links(packer.__all__), ""]
    for name in packer.__all__:
        lines += [f"## {name}", "", *_Module(packer._HOME_OF[name]).describe(name)]
    lines += ["# packer.distributed", "", "Over a Ray cluster (extra `cluster`): [cluster.md](cluster.md).", ""]
    for name in ("label", "open_job", "SharedJob"):
        lines += [f"## distributed.{name}", "", *_Module("distributed").describe(name)]
    return "\n".join(lines).rstrip() + "\n"


class _Module:
    """A file of the package, and what it says of its names."""

    def __init__(self, name: str) -> None:
        text = (SOURCE / f"{name}.py").read_text(encoding="utf-8")
        self._name, self._lines, self._tree = name, text.splitlines(), ast.parse(text)

    def find(self, name: str) -> ast.stmt:
        return next(node for node in self._tree.body if name in {getattr(node, "name", ""), _target(node)})

    def describe(self, name: str) -> Iterator[str]:
        match self.find(name):
            case ast.FunctionDef() as node:
                yield from [*_code(self._call(name, node, _arguments(node.args))), *_said(node)]
            case ast.ClassDef() as node:
                yield from self._describe_class(node)
            case ast.AnnAssign(value=ast.BinOp() as union):
                yield from self._describe_union(union)
            case node:
                raise AssertionError(ast.dump(node))

    def _describe_union(self, union: ast.BinOp) -> Iterator[str]:
        kinds = [kind for kind in ast.walk(union) if isinstance(kind, ast.Name)]
        yield from [f"One of these, all in `packer.{self._name}`:", "", "| | |", "|---|---|"]
        for kind in sorted(kinds, key=lambda kind: (kind.lineno, kind.col_offset)):
            words = next(_said(self.find(kind.id)))
            yield f"| `{kind.id}` | {' '.join(words.split())} |"
        yield ""

    def _describe_class(self, node: ast.ClassDef) -> Iterator[str]:
        methods = [part for part in node.body if isinstance(part, _FUNCTIONS)]
        first = next((method for method in methods if method.name == "__init__"), None)
        if first is not None:
            yield from _code(self._call(node.name, first, _arguments(first.args)[1:]))
        else:
            fields = [
                part for part in node.body if isinstance(part, ast.AnnAssign) and not _target(part).startswith("_")
            ]
            shown = [self._show(part) for part in fields or node.body if isinstance(part, ast.AnnAssign | ast.Assign)]
            if shown:
                yield from _code([f"class {node.name}:", *(f"    {line}" for line in shown)])
        yield from _said(node)
        for method in methods:
            if not method.name.startswith("_"):
                is_property = any(ast.unparse(mark) == "property" for mark in method.decorator_list)
                name = f"{'await ' if isinstance(method, ast.AsyncFunctionDef) else ''}.{method.name}"
                call = [name] if is_property else self._call(name, method, _arguments(method.args)[1:])
                yield from [*_code(call), *_said(method)]

    def _show(self, part: ast.AnnAssign | ast.Assign) -> str:
        if isinstance(part, ast.AnnAssign) and isinstance(part.value, ast.Name):
            return self._write(f"{_target(part)}: {ast.unparse(part.annotation)}", part.value)
        return self._lines[part.lineno - 1].strip()  # with the comment behind it

    def _call(self, name: str, function: _Function, arguments: list[_Argument]) -> list[str]:
        """The call, on one line where it fits."""
        given = [self._write(*argument) for argument in arguments]
        back = f" -> {ast.unparse(function.returns)}" if function.returns and function.name != "__init__" else ""
        line = f"{name}({', '.join(given)}){back}"
        return [line] if len(line) <= 100 else [f"{name}(", *(f"    {argument}," for argument in given), f"){back}"]

    def _write(self, said: str, default: ast.expr | None) -> str:
        if default is None:
            return said
        shown = ast.unparse(default)
        if isinstance(default, ast.Name):  # a reader wants the value and not its name
            shown = repr(getattr(import_module(f"packer.{self._name}"), default.id))
        return f"{said} = {shown}"


def _target(node: ast.stmt) -> str:
    return node.target.id if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) else ""


def _arguments(given: ast.arguments) -> list[_Argument]:
    """Each argument with its default."""
    plain = [*given.posonlyargs, *given.args]
    defaults = [None] * (len(plain) - len(given.defaults)) + given.defaults
    found: list[_Argument] = [(ast.unparse(name), default) for name, default in zip(plain, defaults, strict=True)]
    if given.vararg:
        found.append((f"*{ast.unparse(given.vararg)}", None))
    elif given.kwonlyargs:
        found.append(("*", None))
    found += [(ast.unparse(name), default) for name, default in zip(given.kwonlyargs, given.kw_defaults, strict=True)]
    if given.kwarg:
        found.append((f"**{ast.unparse(given.kwarg)}", None))
    return found


def _code(lines: list[str]) -> list[str]:
    return ["```python", *lines, "```", ""]


def _said(node: ast.stmt) -> Iterator[str]:
    assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    for paragraph in (ast.get_docstring(node) or "").split("\n\n"):
        yield from [paragraph, ""]


PAGES: dict[str, Callable[[], str]] = {"reference.md": write_reference, "python.md": write_python}

if __name__ == "__main__":
    for page, write in PAGES.items():
        (DOCS / page).write_text(write(), encoding="utf-8")
