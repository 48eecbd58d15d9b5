"""Tables in and out: as they stand, or refused with the line at fault."""

import contextlib
import csv
import io
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packer.columns import choose_names
from packer.errors import CallError, InputError
from packer.items import Item, Result, Status
from packer.outputs import OutputFile, OutputStream, make_writer
from packer.tables import MAX_LINE, Format, Reader, Row, check_table, is_streamed, refuse_new_keys

NAMES = ("label", "status", "error")
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
ANY_TEXT_AND_SURROGATES = st.text(st.characters(), max_size=12)


def write(folder: Path, content: str | bytes, name: str = "in.csv") -> str:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def read(path: str, **options: Any) -> list[Row]:
    with Reader(path, **{"text": "text", **options}) as reader:
        return list(reader)


def texts(path: str, **options: Any) -> list[str]:
    return [row.text for row in read(path, **options)]


def refusal(path: str, **options: Any) -> InputError:
    with pytest.raises(InputError) as caught:
        read(path, **options)
    return caught.value


def labelled(text: str, label: str = "spam") -> Result:
    return Result(Item(text), Status.LABELLED, label=label)


def csv_line(cells: list[str], *, raw: bool = False, label: str = "spam") -> str:
    columns = [f"c{place}" for place in range(len(cells))]
    writer = make_writer(Format.CSV, columns=columns, fields=(), names=NAMES, raw=raw)
    return writer.row(Row(2, "", None, cells, ""), labelled("", label)).decode()


# Reading CSV


def test_csv_rows_come_in_order_with_the_line_on_which_they_begin(tmp_path: Path) -> None:
    rows = read(write(tmp_path, 'id,text\n1,one\n2,"two\r\nlines"\n\n3,three'), id_column="id")
    assert [(row.line, row.id, row.text) for row in rows] == [
        (2, "1", "one"),
        (3, "2", "two\r\nlines"),
        (6, "3", "three"),
    ]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_every_kind_of_line_end_is_read(tmp_path: Path, end: str) -> None:
    assert texts(write(tmp_path, end.join(["text", "a", '"b"', ""]))) == ["a", "b"]


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    assert texts(write(tmp_path, '\ufeff"text",x\na,b\n')) == ["a"]
    assert texts(write(tmp_path, "\ufefftext\na\n".encode("utf-16")), encoding="utf-16") == ["a"]
    assert texts(write(tmp_path, '\ufeff{"text": "a"}\n', "in.jsonl")) == ["a"]


def test_a_nul_in_a_cell_is_kept(tmp_path: Path) -> None:
    assert texts(write(tmp_path, "text\na\0b\n")) == ["a\0b"]


def test_an_empty_file_and_one_of_blank_lines_are_refused(tmp_path: Path) -> None:
    for name, content in (("a.csv", ""), ("b.csv", "\n \n"), ("c.jsonl", ""), ("d.csv", "\ufeff")):
        assert str(refusal(write(tmp_path, content, name))).endswith("expected a table, there is nothing in it")


def test_a_header_without_rows_is_a_table_without_rows(tmp_path: Path) -> None:
    assert texts(write(tmp_path, "id,text\n")) == []


def test_a_quote_that_is_never_closed_names_the_line_of_its_row(tmp_path: Path) -> None:
    error = refusal(write(tmp_path, 'text,n\na,1\nb,2\n"c,3\nd,4\n'))
    assert (error.line, str(error).split(": ", 1)[1]) == (4, "line 4: a quote is opened and never closed")


def test_text_behind_a_closing_quote_names_the_line(tmp_path: Path) -> None:
    error = refusal(write(tmp_path, 'text,n\na,1\n"b"x,2\n'))
    assert (error.line, "a closing quote is followed by more than a comma" in str(error)) == (3, True)


@pytest.mark.parametrize(("row", "got"), [("b", 1), ("b,2,3", 3)])
def test_a_row_of_another_length_names_the_line(tmp_path: Path, row: str, got: int) -> None:
    error = refusal(write(tmp_path, f"text,n\na,1\n{row}\n"))
    assert str(error).endswith(f"in.csv: line 3: expected 2 cells as in the header, got {got}")


def test_the_rows_before_a_broken_one_are_given_out(tmp_path: Path) -> None:
    with Reader(write(tmp_path, "text,n\na,1\nb,2\nc\n"), text="text") as reader:
        assert [next(iter(reader)).text, next(iter(reader)).text] == ["a", "b"]
        with pytest.raises(InputError):
            next(iter(reader))


def test_a_text_of_a_megabyte_is_read(tmp_path: Path) -> None:
    long = "x" * 1_000_000
    assert texts(write(tmp_path, f"text\n{long}\n")) == [long]


def test_a_line_and_a_cell_without_an_end_are_refused_before_memory_is_full(tmp_path: Path) -> None:
    began = time.perf_counter()
    assert "a line of more than" in str(refusal(write(tmp_path, "text\n" + "x" * (MAX_LINE + 200_000))))
    many = 'text\n"' + ("x" * 999 + "\n") * (MAX_LINE // 1000 + 200)
    assert "is a quote never closed?" in str(refusal(write(tmp_path, many)))
    assert time.perf_counter() - began < 10


# Columns


def test_a_missing_column_names_those_that_are_there(tmp_path: Path) -> None:
    message = str(refusal(write(tmp_path, "id,texts,label\n1,a,b\n")))
    assert message.endswith("no column 'text'; did you mean 'texts'? (it has 'id', 'texts', 'label')")
    message = str(refusal(write(tmp_path, '{"id": 1, "body": "a"}\n', "in.jsonl")))
    assert message.endswith("no column 'text' (it has 'id', 'body')")


def test_a_missing_id_column_is_refused_too(tmp_path: Path) -> None:
    assert "no column 'key'" in str(refusal(write(tmp_path, "text\na\n"), id_column="key"))


def test_semicolons_are_told_from_a_missing_column(tmp_path: Path) -> None:
    message = str(refusal(write(tmp_path, "id;text\n1;a\n")))
    assert "expected commas between the cells, these look like ';'" in message


def test_two_columns_of_the_name_that_is_asked_for_are_refused(tmp_path: Path) -> None:
    assert "two columns are named 'text'" in str(refusal(write(tmp_path, "text,text\na,b\n")))
    assert texts(write(tmp_path, "text,,\na,b,c\n")) == ["a"]  # others may share a name: a CSV goes by place


# Encodings


def test_a_byte_that_is_not_utf_8_is_named_with_its_offset(tmp_path: Path) -> None:
    content = b"text\n" + "gr\u00fc\u00dfe\n".encode() * 40_000 + b"caf\xe9\n"
    error = refusal(write(tmp_path, content))
    assert error.line == 40_002
    assert f"byte 0xE9 at offset {content.index(0xE9)} is not UTF-8" in str(error)
    assert "--encoding" in str(error)


def test_the_rows_before_a_wrong_byte_are_given_out(tmp_path: Path) -> None:
    seen: list[str] = []
    path = write(tmp_path, b"text\none\ntwo\nthr\xe9e\nfour\n")
    with Reader(path, text="text") as reader, pytest.raises(InputError, match="line 4"):
        note(reader, seen)
    assert seen == ["one", "two"]


def note(rows: Iterable[Row], seen: list[str]) -> None:
    for row in rows:
        seen.append(row.text)  # noqa: PERF401  a list comprehension would lose what came before the error


def test_a_character_that_is_cut_at_the_end_of_the_file_is_named(tmp_path: Path) -> None:
    assert "byte 0xC3 at offset 6 is not UTF-8" in str(refusal(write(tmp_path, b"text\na\xc3")))


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16", "utf-16-le", "shift_jis", "utf-32"])
def test_another_encoding_can_be_named(tmp_path: Path, encoding: str) -> None:
    text = "\u30c6\u30b9\u30c8" if encoding == "shift_jis" else "caf\u00e9"
    content = "text\n" + f"{text}\n" * 30_000  # over a chunk, so that a character is cut in two
    assert set(texts(write(tmp_path, content.encode(encoding)), encoding=encoding)) == {text}


@pytest.mark.parametrize("encoding", ["utf8x", "rot13", "base64", "a\0b", ""])
def test_what_is_no_encoding_is_refused(tmp_path: Path, encoding: str) -> None:
    with pytest.raises(CallError, match="--encoding: expected a name like utf-8"):
        Reader(write(tmp_path, "text\na\n"), text="text", encoding=encoding)


@given(st.lists(st.sampled_from(["a", "\u00e9", "\n", "\U0001f600", '"']), max_size=60), st.integers(0, 80))
def test_where_a_wrong_byte_stands_is_what_python_says(parts: list[str], place: int) -> None:
    good = "".join(parts).encode()
    content = b"text\n" + good[:place] + b"\xff" + good[place:]
    expected: int | None = None
    try:
        content.decode()
    except UnicodeDecodeError as error:
        expected = error.start
    message = stream_error(content)
    assert expected is not None
    # a quote that is closed early is found before the byte
    assert f"byte 0x{content[expected]:02X} at offset {expected} " in message or '"' in parts
    assert "line " in message


def stream_error(content: bytes) -> str:
    """The error of a table that comes through a pipe in pieces of seven bytes."""
    source, sink = os.pipe()

    def feed() -> None:
        with contextlib.suppress(BrokenPipeError), os.fdopen(sink, "wb", buffering=0) as pipe:
            for start in range(0, len(content), 7):
                pipe.write(content[start : start + 7])

    thread = threading.Thread(target=feed)
    thread.start()
    try:
        with Reader(f"/dev/fd/{source}", text="text") as reader:
            list(reader)
    except InputError as error:
        return str(error)
    finally:
        os.close(source)
        thread.join()
    return ""


# Reading JSONL


def test_jsonl_keeps_its_objects(tmp_path: Path) -> None:
    line = '{"text": "a\\ud800", "n": 1.10, "deep": [1, {"x": null}]}'
    (row,) = read(write(tmp_path, f"\n{line}\r\n", "in.ndjson"))
    assert (row.line, row.text, row.raw) == (2, "a\ud800", line)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("[1]", "expected a JSON object, got a list"),
        ("7", "expected a JSON object, got a number"),
        ('{"text": "a"', "expected a JSON object: Expecting ',' delimiter at character 13"),
        ('{"text": 5}', "expected a text in 'text', got a number"),
        ('{"text": ["a"]}', "expected a text in 'text', got a list"),
        ('{"text": true}', "expected a text in 'text', got true or false"),
        ('{"text": ' + "9" * 5000 + "}", "expected a JSON object: Exceeds the limit"),
        ('{"x": ' + "[" * 100_000, "expected a JSON object: maximum recursion depth"),
    ],
)
def test_a_line_that_is_no_row_is_named(tmp_path: Path, line: str, words: str) -> None:
    error = refusal(write(tmp_path, f'{{"text": "a"}}\n{line}\n', "in.jsonl"))
    assert error.line == 2
    assert f"line 2: {words}" in str(error)


def test_a_text_that_is_null_or_absent_is_an_empty_one(tmp_path: Path) -> None:
    assert texts(write(tmp_path, '{"text": "a"}\n{"text": null}\n{"x": 1}\n', "in.jsonl")) == ["a", "", ""]


# Ids


def test_an_id_that_is_given_twice_names_both_lines(tmp_path: Path) -> None:
    error = refusal(write(tmp_path, "id,text\na,1\nb,2\na,3\n"), id_column="id")
    assert (error.line, str(error).split(": ", 1)[1]) == (4, "line 4: the id 'a' stands on line 2 already")
    lines = '{"id": 7, "text": ""}\n{"id": 7, "text": ""}\n'
    assert "the id '7' stands on line 1" in str(refusal(write(tmp_path, lines, "in.jsonl"), id_column="id"))


def test_a_row_without_an_id_is_named(tmp_path: Path) -> None:
    assert "line 3: no id in column 'id'" in str(refusal(write(tmp_path, "id,text\na,1\n,2\n"), id_column="id"))


# Files


def test_a_missing_file_is_told_with_the_nearest_one(tmp_path: Path) -> None:
    write(tmp_path, "text\n", "messages.csv")
    assert str(refusal(str(tmp_path / "message.csv"))).endswith(f"did you mean {tmp_path / 'messages.csv'}?")
    assert "there is no such file" in str(refusal(str(tmp_path / "no" / "x.csv")))


def test_a_folder_and_another_ending_are_refused(tmp_path: Path) -> None:
    (tmp_path / "d.csv").mkdir()
    assert "this is a folder" in str(refusal(str(tmp_path / "d.csv")))
    with pytest.raises(CallError, match=r"expected a name that ends in \.csv, \.jsonl, \.ndjson or \.parquet"):
        read(write(tmp_path, "PAR1", "in.txt"))


def test_a_pipe_tells_its_format_by_its_first_character() -> None:
    for content, form in ((b'\n {"text": "a"}\n', Format.JSONL), (b"text,x\na,1\n", Format.CSV)):
        source, sink = os.pipe()
        os.write(sink, content)
        os.close(sink)
        reader = Reader(f"/dev/fd/{source}", text="text")
        os.close(source)
        assert (is_streamed("-"), reader.format, [row.text for row in reader]) == (True, form, ["a"])
        reader.close()


def test_a_silent_pipe_can_be_ended_and_the_whole_rows_stay() -> None:
    source, sink = os.pipe()
    os.write(sink, b'text\none\ntwo\n"thr\nee')
    with Reader(f"/dev/fd/{source}", text="text") as reader:
        threading.Timer(0.3, reader.end).start()
        assert [row.text for row in reader] == ["one", "two"]
    os.close(source)
    os.close(sink)


def test_check_finds_all_columns_and_counts_the_rows(tmp_path: Path) -> None:
    lines = '{"text": "a", "x": 1}\n\n{"y": 2, "text": "b"}\n'
    with Reader(write(tmp_path, lines, "in.jsonl"), text="text") as reader:
        assert check_table(reader) == (2, ("text", "x", "y"))
    with Reader(write(tmp_path, "text,x\na,1\n"), text="text") as reader:
        assert check_table(reader) == (1, ("text", "x"))


def test_a_row_that_upsets_the_columns_of_unchecked_input_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, '{"text": "a"}\n{"text": "b", "x": 1}\n{"text": "c", "label": 1}\n', "in.jsonl")
    for fixed, line in ((True, 2), (False, 3)):
        with Reader(path, text="text") as reader, pytest.raises(InputError, match=f"line {line}: the key"):
            list(refuse_new_keys(reader, names=NAMES, fixed=fixed))


# Writing


def test_a_name_that_is_taken_gets_the_next_free_number() -> None:
    assert choose_names(["text"], NAMES) == NAMES
    assert choose_names(["text", "label"], NAMES) == ("label_2", "status", "error")
    assert choose_names(["label", "label_2", "error"], NAMES) == ("label_3", "status", "error_2")
    assert choose_names([], ["status", "status", "error"]) == ("status", "status_2", "error")  # a record's own field


@given(st.lists(st.lists(ANY_TEXT_AND_SURROGATES, min_size=3, max_size=3), max_size=6), ANY_TEXT)
def test_output_rows_are_the_inputs_rows(rows: list[list[str]], label: str) -> None:
    """Law: output rows are the input's rows, in the input's order, unchanged but for what is added behind them."""
    writer = make_writer(Format.CSV, columns=["a", "b", "c"], fields=(), names=NAMES, raw=True)
    lines = [writer.header(), *(writer.row(Row(2, "", None, cells, ""), labelled("", label)) for cells in rows)]
    data = b"".join(lines).decode()
    shown = [[cell.encode("utf-8", "backslashreplace").decode() for cell in [*cells, label]] for cells in rows]
    back = list(csv.reader(io.StringIO(data, newline=""), strict=True))
    assert back == [["a", "b", "c", *NAMES], *([*cells, "labelled", ""] for cells in shown)]


@given(
    st.dictionaries(ANY_TEXT.filter(lambda key: key not in NAMES), st.none() | st.integers() | ANY_TEXT_AND_SURROGATES),
    st.sampled_from([(", ", ": "), (",", ":"), (" , ", " :\t")]),
    ANY_TEXT,
)
def test_a_jsonl_row_keeps_every_character(values: dict[str, Any], separators: tuple[str, str], label: str) -> None:
    raw = json.dumps(values, ensure_ascii=False, separators=separators)
    raw = f"{{ {raw[1:-1]} }}"
    writer = make_writer(Format.JSONL, columns=list(values), fields=(), names=NAMES, raw=False)
    line = writer.row(Row(1, "", None, values, raw), labelled("", label)).decode()
    assert line.startswith(raw[:-1].rstrip().encode("utf-8", "backslashreplace").decode())
    assert json.loads(line) == values | {"label": label, "status": "labelled", "error": ""}
    assert line.count("\n") == 1


def test_csv_becomes_jsonl_and_jsonl_becomes_csv() -> None:
    writer = make_writer(Format.JSONL, columns=["text", "x"], fields=(), names=NAMES, raw=False)
    row = writer.row(Row(2, "é", None, ["é", "1"], ""), labelled("é")).decode()
    assert row == '{"text": "é", "x": "1", "label": "spam", "status": "labelled", "error": ""}\n'
    csv_writer = make_writer(Format.CSV, columns=["text", "x", "y"], fields=(), names=NAMES, raw=False)
    values = {"y": [1, True], "text": "a,b"}
    failed = Result(Item(""), Status.FAILED, error="the text is empty")
    assert (
        csv_writer.row(Row(1, "", None, values, "{...}"), failed) == b'"a,b",,"[1, true]",,failed,the text is empty\n'
    )


def test_a_records_fields_are_columns() -> None:
    result = Result(Item("a"), Status.LABELLED, record={"topic": "bill", "urgent": True, "amount": 1.5, "extra": 1})
    fields = ("topic", "urgent", "amount", "note")
    names = (*fields, "status", "error")
    writer = make_writer(Format.CSV, columns=["text"], fields=fields, names=names, raw=False)
    assert writer.row(Row(2, "a", None, ["a"], ""), result) == b"a,bill,true,1.5,,labelled,\n"
    failed = Result(Item("a"), Status.PENDING, error="stopped")
    assert writer.row(Row(2, "a", None, ["a"], ""), failed) == b"a,,,,,pending,stopped\n"
    json_writer = make_writer(Format.JSONL, columns=["text"], fields=fields, names=names, raw=False)
    line = json.loads(json_writer.row(Row(2, "a", None, {}, "{}"), result))
    assert line == {"topic": "bill", "urgent": True, "amount": 1.5, "note": None, "status": "labelled", "error": ""}


def test_columns_of_one_name_cannot_become_keys() -> None:
    with pytest.raises(CallError, match="two columns are named 'x'"):
        make_writer(Format.JSONL, columns=["x", "text", "x"], fields=(), names=NAMES, raw=False)


@pytest.mark.parametrize(
    "cell", ["=1+1", "+1+1", "-1+cmd|' /C calc'!A0", "@SUM(1)", "\t=1", "\r=1", "\n=1", "\uff1d1", "\uff0b1", "-", "+a"]
)
def test_a_cell_that_a_spreadsheet_would_run_gets_an_apostrophe(cell: str) -> None:
    for line in (csv_line([cell]), csv_line(["a"], label=cell)):
        assert f"'{cell}" in next(csv.reader(io.StringIO(line, newline="")))
    assert next(csv.reader(io.StringIO(csv_line([cell], raw=True), newline="")))[0] == cell


@pytest.mark.parametrize("cell", ["-5", "+4930123", "-1.5e-3", "-.5", "+7.", "a=1", "'=1", "", "5-3"])
def test_a_plain_number_is_no_formula(cell: str) -> None:
    assert next(csv.reader(io.StringIO(csv_line([cell]))))[0] == cell


def test_an_apostrophe_is_counted() -> None:
    writer = make_writer(Format.CSV, columns=["=a", "b"], fields=(), names=NAMES, raw=False)
    assert writer.header() == b"'=a,b,label,status,error\n"
    writer.row(Row(2, "", None, ["@a", "+b"], ""), labelled(""))
    assert writer.guarded == 3


def test_a_carriage_return_in_a_cell_is_quoted_and_lines_end_in_a_line_feed() -> None:
    assert csv_line(["a\rb"]) == '"a\rb",spam,labelled,\n'


# Files that are written


def test_the_old_output_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    path.write_text("old")
    path.chmod(0o640)
    output = OutputFile(path)
    output.write(b"new")
    assert path.read_text() == "old"
    output.finish()
    assert (path.read_text(), path.stat().st_mode & 0o777, list(tmp_path.iterdir())) == ("new", 0o640, [path])


def test_an_output_that_is_given_up_leaves_no_trace(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    output = OutputFile(path)
    output.write(b"x" * 100_000)
    output.abandon()
    assert not list(tmp_path.iterdir())


def test_a_new_output_has_the_mode_that_the_umask_says(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        OutputFile(tmp_path / "out.csv").finish()
    finally:
        os.umask(before)
    assert (tmp_path / "out.csv").stat().st_mode & 0o777 == 0o640


def test_a_symbolic_link_stays_and_its_target_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "real.csv").write_text("old")
    (tmp_path / "link.csv").symlink_to("real.csv")
    output = OutputFile(tmp_path / "link.csv")
    output.write(b"new")
    output.finish()
    assert (tmp_path / "link.csv").is_symlink()
    assert (tmp_path / "real.csv").read_text() == "new"


def test_an_output_that_cannot_be_written_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "d.csv").mkdir()
    with pytest.raises(CallError, match="this is a folder"):
        OutputFile(tmp_path / "d.csv")
    with pytest.raises(CallError, match="there is no folder"):
        OutputFile(tmp_path / "no" / "out.csv")
    with pytest.raises(CallError, match="cannot be written"):
        OutputFile(Path("/proc/out.csv"))


def test_a_full_pipe_is_not_ready_and_an_empty_one_is() -> None:
    source, sink = os.pipe()
    output = OutputStream(sink)
    assert output.ready(4096)
    assert not output.ready(4097)
    os.set_blocking(sink, False)
    for size in (1 << 16, 1):
        try:
            while True:
                os.write(sink, b"x" * size)
        except BlockingIOError:
            pass
    assert not output.ready(1)
    threading.Timer(0.1, os.read, (source, 1 << 17)).start()
    output.write(b"y" * 100)  # waits for the reader, though the pipe is non-blocking
    os.close(source)
    with pytest.raises(BrokenPipeError):
        output.write(b"z")
    os.close(sink)


# Memory


def test_memory_does_not_grow_with_the_table(tmp_path: Path) -> None:
    """Law: ten rows or ten million take the same. Here: 300,000 rows of 120 bytes with ids, in a process of its own."""
    if not Path("/proc/self/status").exists():
        pytest.skip("the peak of a process's own memory is read in /proc")
    with (tmp_path / "in.csv").open("w") as file:
        file.write("id,text\n")
        file.writelines(f"{number},{'x' * 110}\n" for number in range(300_000))
    # not ru_maxrss, which begins with that of the parent
    code = (
        "import sys; from pathlib import Path; from packer.tables import Reader, check_table\n"
        "peak = lambda: int(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])\n"
        "before = peak(); n = check_table(Reader(sys.argv[1], text='text', id_column='id')).rows\n"
        "print(n, peak() - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "in.csv")], capture_output=True, text=True, check=True
    )
    rows, grown = map(int, done.stdout.split())
    assert (rows, grown < 47_000) == (300_000, True), f"{grown} kB"  # 32 MB of it is the cache of the ids
