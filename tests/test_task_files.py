"""Settings go into a task file and nothing else of it changes: no comment, no order, no other value."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from packer.errors import CallError, TaskError
from packer.task import read_task
from packer.task_files import check_task_path, write_settings

TASK = '''\
# my task
instructions = """
several
lines"""   # short
labels = [
    "spam",
    "ham", # good
]

# the price of today
[price]
input = 0.15
output = 0.60

[[examples]]
text = "a"
label = "spam"
'''
TABLE = {
    "advice": 'Use "it".',
    "sample": 300,
    "seed": 0,
    "max_disagreement": 0.03,
    "settings": [
        {
            "model": "m",
            "shape": "line",
            "max_items": 1,
            "items": 9,
            "differing": 0,
            "at_most": None,
            "outcome": "singles",
        },
        {"model": "m", "shape": "line", "max_items": 5, "items": 9, "differing": 0, "at_most": 0.1, "outcome": "keeps"},
    ],
}
SETTINGS: dict[str, Any] = {"model": "m", "max_items": 20, "calibration": TABLE}


def edited(text: str, settings: dict[str, Any] = SETTINGS, name: str = "task.toml") -> str:
    Path(name).write_bytes(text.encode())
    write_settings(name, settings, source=name)
    return Path(name).read_bytes().decode()


def test_new_settings_stand_behind_the_last_key_and_a_comment_stays_with_its_table(in_folder: Path) -> None:
    after = edited(TASK)
    head, tail = TASK.split("]\n\n# the price", 1)
    assert after.startswith(f'{head}]\nmodel = "m"\nmax_items = 20\n\n# the price{tail}')
    assert tomllib.loads(after) == tomllib.loads(TASK) | {
        "model": "m",
        "max_items": 20,
        "calibration": TABLE
        | {"settings": [{k: v for k, v in row.items() if v is not None} for row in TABLE["settings"]]},  # type: ignore[attr-defined]
    }


def test_writing_twice_is_writing_once(in_folder: Path) -> None:
    once = edited(TASK)
    assert edited(once) == once


def test_a_setting_that_is_there_changes_in_its_place(in_folder: Path) -> None:
    text = 'max_items = 5 # small\nlabels = ["a", "b"]\n'
    assert edited(text, {"max_items": 50}) == text.replace("5 #", "50 #")


def test_a_setting_that_is_none_is_taken_out(in_folder: Path) -> None:
    after = edited(TASK, {"price": None})
    assert "price" not in tomllib.loads(after)
    assert read_task("task.toml").price is None


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ('# c\n[labels]\na = "x"\nb = "y"', 'max_items = 7\n\n# c\n[labels]\na = "x"\nb = "y"'),
        ('labels = ["a", "b"]', 'labels = ["a", "b"]\nmax_items = 7\n'),
        ('labels = ["a", "b"]\r\n# end\r\n', 'labels = ["a", "b"]\r\nmax_items = 7\r\n# end\r\n'),
    ],
)
def test_a_file_without_keys_without_an_end_or_with_other_line_ends_is_edited_too(
    in_folder: Path, text: str, wanted: str
) -> None:
    assert edited(text, {"max_items": 7}) == wanted


def test_a_table_keeps_the_line_ends_of_its_file(in_folder: Path) -> None:
    after = edited(TASK.replace("\n", "\r\n"))
    assert after.count("\n") == after.count("\r\n")


def test_a_json_file_keeps_its_order(in_folder: Path) -> None:
    after = edited('{"labels": ["ä", "b"], "instructions": "i"}', SETTINGS | {"price": None}, "task.json")
    assert list(json.loads(after)) == ["labels", "instructions", "model", "max_items", "calibration"]
    assert "ä" in after
    assert read_task("task.json").max_items == 20


def test_a_new_file_has_the_settings_and_a_link_stays_a_link(in_folder: Path) -> None:
    task = write_settings("new.toml", {"labels": ["a", "b"], "max_items": 3}, source=None)
    assert (list(task.labels), task.max_items) == (["a", "b"], 3)
    Path("link.toml").symlink_to("new.toml")
    write_settings("link.toml", {"max_items": 4}, source="link.toml")
    assert Path("link.toml").is_symlink()
    assert read_task("new.toml").max_items == 4


def test_what_would_be_no_task_is_not_written(in_folder: Path) -> None:
    Path("task.toml").write_text(TASK, encoding="utf-8")
    with pytest.raises(TaskError, match="max_items"):
        write_settings("task.toml", {"max_items": 1_000}, source="task.toml")
    assert Path("task.toml").read_text(encoding="utf-8") == TASK
    assert list(in_folder.iterdir()) == [in_folder / "task.toml"]


@pytest.mark.parametrize(
    ("path", "source", "complaint"),
    [
        ("a.yaml", None, "ends in .toml or .json"),
        ("a.json", "task.toml", "expected the ending of the task file that is copied, task.toml"),
        ("none/a.toml", None, "there is no folder none"),
    ],
)
def test_a_file_that_cannot_be_written_is_refused_before_there_is_anything_to_write(
    in_folder: Path, path: str, source: str | None, complaint: str
) -> None:
    with pytest.raises(CallError, match=complaint):
        check_task_path(path, source=source)
    assert not list(in_folder.iterdir())
