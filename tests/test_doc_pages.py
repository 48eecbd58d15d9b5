"""Every page is listed, every link leads somewhere, and every command line on a page is one that the parser takes."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_docs import COMMANDS, help_of

from packer.arguments import read_arguments

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
_COMMAND = rf"(?:\.venv/bin/)?prompt-packer ((?:{'|'.join(COMMANDS)})\b"
# in a block: up to the end of its line, and a backslash takes the next line with it
TYPED = re.compile(rf"(?:^ *|&& ){_COMMAND}(?:\\\n|[^\n\\])*)", re.MULTILINE)
# in a sentence: with what it is given; the name alone is a mention
QUOTED = re.compile(rf"`{_COMMAND}\s[^`]*)`")
FENCED = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
# what pages say of other programs
FOREIGN = {"--help", "--version", "--api-key", "--ctx-size", "--kv-unified", "--max-model-len", "--parallel"}
FOREIGN |= {"--address", "--head"}  # Ray's


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def headings(page: Path) -> set[str]:
    """The anchors of a page, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", FENCED.sub("", read(page)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def command_lines(page: Path) -> Iterator[list[str]]:
    """Each command line of a page as a shell would pass it on; those with a gap (`...`, `[...]`) are left out."""
    text = FENCED.sub(lambda block: "" if block[2] == "text" else block[0], read(page))  # `text` is what is printed
    for typed in (*TYPED.findall(text), *QUOTED.findall(text)):
        words = shlex.split(typed.replace("\\\n", " "), comments=True)
        if not any(word in {"...", "--help"} or "[" in word for word in words):
            yield words


def test_every_page_is_listed_in_the_index() -> None:
    listed = re.findall(r"^- \[([\w-]+\.md)\]\(\1\): \S", read(DOCS / "README.md"), re.MULTILINE)
    assert sorted(listed) == sorted({page.name for page in DOCS.glob("*.md")} - {"README.md"})


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_link_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]*)\)", FENCED.sub("", read(page)))
    for link in links:
        path, _, anchor = link.partition("#")
        target = (page.parent / path) if path else page
        assert target.exists(), link
        assert not anchor or anchor in headings(target), link
    # a page that is named without a link is named as from the root
    for name in re.findall(r"`((?:docs|tests|examples|bench|schemas|packer)/[\w./-]+)`", read(page)):
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_command_line_is_one(page: Path) -> None:
    for words in command_lines(page):
        assert read_arguments(words).command == words[0]


def test_the_command_lines_are_found() -> None:
    found = {name: len([*command_lines(page)]) for name, page in zip(NAMES, PAGES, strict=True)}
    assert found["docs/howto-gateway.md"] == 2
    assert found["docs/howto-anthropic.md"] == 2
    assert found["docs/tutorial.md"] >= 9
    assert sum(found.values()) > 40


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_option_that_a_page_names_exists(page: Path) -> None:
    gateway = read(ROOT / "tests" / "gateway" / "command.py")
    benches = "".join(map(read, (ROOT / "bench").glob("*.py"))) + read(ROOT / "tests" / "simulation" / "__main__.py")
    known = "".join(map(help_of, COMMANDS)) + gateway + benches
    told = re.sub(r"^.*\b(?:curl|ssh|pip install)\b.*$", "", read(page), flags=re.MULTILINE)
    options = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", told)) - FOREIGN
    assert [option for option in sorted(options) if not re.search(rf"{option}(?![\w-])", known)] == []
