"""Words into HTML: whatever comes from a stranger is escaped by the template, and what is not is drawn by us."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from importlib import resources
from typing import TYPE_CHECKING, Any

from packer.dashboard.view import View
from packer.drawing import shown
from packer.extras import check_extra
from packer.report_words import tell_asked, tell_settings

if TYPE_CHECKING:
    import jinja2

    from packer.report import Report

PARTS = ("head", "batches", "course", "ends", "facts")


def check_page_can_be_made() -> None:
    """Raise `CallError` where the extra is not installed."""
    check_extra("dashboard", {"jinja2": "jinja2"}, needed_by="the dashboard")


def write_page(title: str, parts: Mapping[str, str], *, report: Report | None = None) -> str:
    """The page of a job: the parts that change, and, where its `report` is there, what was asked.

    With a report the job is one of this process; else it is one of a ledger's.
    """
    asked = None if report is None else tell_asked(report)
    settings = [] if report is None else list(tell_settings(report))
    return _render("job.html", title=title, parts=parts, asked=asked, settings=settings, is_ours=report is not None)


def write_parts(view: View) -> dict[str, str]:
    """The HTML of each part that changes, by its name."""
    return {name: _draw("parts.html", name, view) for name in PARTS}


def write_empty(sentence: str, *, is_early: bool = False) -> str:
    """A page that says one thing; one that `is_early` loads itself again in a second."""
    return _render("empty.html", sentence=shown(sentence), is_early=is_early)


def write_trouble(sentence: str) -> str:
    """A part that says why there is nothing."""
    return _draw("parts.html", "trouble", shown(sentence))


def write_jobs(jobs: Any, *, title: str, ledger: str) -> str:
    """The part that lists a ledger's jobs."""
    return _draw("jobs.html", "listed", jobs, title, shown(ledger))


def write_list(parts: Mapping[str, str]) -> str:
    """The page that lists a ledger's jobs."""
    return _render("list.html", parts=parts)


def _draw(template: str, macro: str, *values: Any) -> str:
    return str(getattr(_environment().get_template(template).module, macro)(*values))


def _render(name: str, **values: Any) -> str:
    return _environment().get_template(name).render(**values)


@functools.cache
def _environment() -> jinja2.Environment:
    import jinja2  # noqa: PLC0415  an extra
    import markupsafe  # noqa: PLC0415  comes with it

    def load(name: str) -> str:
        return resources.files("packer.dashboard").joinpath(name).read_text(encoding="utf-8")

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(load),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["drawn"] = markupsafe.Markup  # numbers by panels.py, and parts that are escaped already
    return environment
