"""Parquet in and out: every column with its exact type, every row in its place, memory flat, or refused at once."""

import datetime as dt
import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import fake_command
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_cli import CALL, label, read_csv, write_csv

from packer import connections, tables
from packer.cli import main
from packer.columns import Kind, Type, added_columns, fitted
from packer.errors import Failure, InputError, TransportError
from packer.items import Decision, Item, Result, Status
from packer.outputs import choose_writer
from packer.tables import Format, Reader, Row
from packer.task import Task
from packer.testing import FakeTransport

pa = pytest.importorskip("pyarrow", reason="the extra parquet is not installed")
pq = pytest.importorskip("pyarrow.parquet", reason="the extra parquet is not installed")

ROOT = Path(__file__).resolve().parents[1]
TASK = Task(["spam", "ham"])
TEXTS = ["Win a FREE prize", "see you at 5?", None, "=free", "ok"]
BERLIN = pa.timestamp("ns", tz="Europe/Berlin")
ODD = {
    "time": pa.array([1, None], BERLIN),
    "duration": pa.array([1, None], pa.duration("us")),
    "day": pa.array([dt.date(2020, 2, 29), None]),
    "money": pa.array([Decimal("1.10"), None]),
    "long money": pa.array([Decimal("1.10"), None], pa.decimal256(50, 2)),
    "bytes": pa.array([b"\xff\x00", None]),
    "half": pa.array([1.5, None], pa.float16()),
    "list": pa.array([[Decimal("1.1")], None]),
    "vector": pa.array([[1.0, 2.0], None], pa.list_(pa.float32(), 2)),
    "struct": pa.array([{"at": dt.datetime(2020, 1, 1), "raw": b"x"}, None]),  # noqa: DTZ001  a time without a zone is one too
    "map": pa.array([[("k", dt.date(2020, 1, 1))], None], pa.map_(pa.string(), pa.date32())),
    "category": pa.array(["x", None]).dictionary_encode(),
    "null": pa.nulls(2),
    "unsigned": pa.array([2**64 - 1, None], pa.uint64()),
    "large": pa.array(["x", None], pa.large_string()),
    "truth": pa.array([True, None]),
    "uuid": pa.array([b"0" * 16, None], pa.uuid()),
}
PLAIN = {
    "time": "1970-01-01 01:00:00.000000001+0100",
    "duration": "1",
    "day": "2020-02-29",
    "money": "1.10",
    "long money": "1.10",
    "bytes": "/wA=",
    "half": 1.5,
    "list": ["1.1"],
    "vector": [1.0, 2.0],
    "struct": {"at": "2020-01-01 00:00:00.000000", "raw": "eA=="},
    "map": [["k", "2020-01-01"]],
    "category": "x",
    "null": None,
    "unsigned": 2**64 - 1,
    "large": "x",
    "truth": True,
    "uuid": "MDAwMDAwMDAwMDAwMDAwMA==",
}


def read(path: str, **options: Any) -> list[Row]:
    with Reader(path, **{"text": "text", **options}) as reader:
        return list(reader)


def write(columns: dict[str, Any], path: str = "in.parquet", **options: Any) -> str:
    pq.write_table(pa.table(columns), path, **options)
    return path


def odd_table(texts: list[str | None]) -> Any:
    schema = pa.schema([pa.field("text", pa.string(), metadata={"about": "the text"})], metadata={"made by": "a test"})
    table = pa.table({"text": texts}, schema=schema)
    for name, column in ODD.items():
        table = table.append_column(name, column.take(pa.array([place % 2 for place in range(len(texts))])))
    return table


# Through the command


def test_every_column_comes_through_with_its_exact_type(gateway: FakeTransport) -> None:
    table = odd_table(TEXTS)
    pq.write_table(table, "in.parquet")
    assert label("in.parquet", "--output", "out.parquet") == 3
    given, out = pq.read_table("in.parquet"), pq.read_table("out.parquet")
    assert out.schema.names == [*given.schema.names, "label", "status", "error"]
    kept = out.select(given.schema.names)
    assert kept.schema.equals(given.schema, check_metadata=True)
    assert kept.equals(given)
    assert kept.equals(table)
    assert out.schema.metadata[b"made by"] == b"a test"


def test_what_is_added_is_a_dictionary_for_labels_and_states(gateway: FakeTransport) -> None:
    write({"text": TEXTS, "label": ["gold"] * len(TEXTS)})
    assert label("in.parquet", "--output", "out.parquet") == 3
    out = pq.read_table("out.parquet")
    assert out.schema.names == ["text", "label", "label_2", "status", "error"]
    words = pa.dictionary(pa.int32(), pa.string())
    assert [out.schema.field(name).type for name in ("label_2", "status", "error")] == [words, words, pa.string()]
    rows = out.to_pylist()
    assert [row["label_2"] for row in rows] == ["spam", "ham", None, "spam", "ham"]
    assert [row["status"] for row in rows] == ["labelled", "labelled", "failed", "labelled", "labelled"]
    assert [row["error"] for row in rows] == ["", "", "the text is empty", "", ""]


def test_a_second_run_sends_nothing_and_writes_the_same_bytes(gateway: FakeTransport) -> None:
    write({"text": TEXTS})
    assert label("in.parquet", "--output", "out.parquet") == 3
    first, sent = Path("out.parquet").read_bytes(), len(gateway.prompts)
    assert label("in.parquet", "--output", "out.parquet") == 3
    assert (Path("out.parquet").read_bytes(), len(gateway.prompts)) == (first, sent)


def test_no_row_is_dropped_when_the_job_stops(monkeypatch: pytest.MonkeyPatch, in_folder: Path) -> None:
    """Law: every item ends in exactly one reported state, in the input's order."""
    texts = [f"text {number}" for number in range(2_500)]

    def refuse(_: Any, number: int) -> TransportError | None:
        return TransportError(Failure.KEY_REFUSED, "no") if number > 4 else None

    stopping = FakeTransport(TASK, fake_command.annotate, seconds=0, fault=refuse, free=True)
    monkeypatch.setattr(connections, "connect", fake_command.connect_to(stopping))
    write({"text": texts})
    assert label("in.parquet", "--output", "out.parquet") == 4
    rows = pq.read_table("out.parquet").to_pylist()
    assert [row["text"] for row in rows] == texts
    assert {row["status"] for row in rows} == {"labelled", "pending"}
    assert all((row["label"] is None) == (row["status"] == "pending") for row in rows)


def test_parquet_becomes_csv_and_jsonl_and_they_become_parquet(gateway: FakeTransport) -> None:
    pq.write_table(odd_table(["free", None]), "in.parquet")
    assert label("in.parquet", "--output", "out.jsonl") == 3
    first, second = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert first == {"text": "free", **PLAIN, "label": "spam", "status": "labelled", "error": ""}
    assert {name: second[name] for name in ODD} == dict.fromkeys(ODD)
    assert label("in.parquet", "--output", "out.csv") == 3
    row = read_csv("out.csv")[0]
    assert (row["money"], row["truth"], row["list"], row["label"]) == ("1.10", "true", '["1.1"]', "spam")
    for source in ("out.csv", "out.jsonl"):
        assert label(source, "--output", "back.parquet") == 3
        back = pq.read_table("back.parquet")
        assert {field.type for field in back.schema if not field.name.endswith("_2")} == {pa.string()}
        assert back.schema.names[-3:] == ["label_2", "status_2", "error_2"]
        assert back.to_pylist()[0]["money"] == "1.10"
        assert back.to_pylist()[1]["money"] == ("" if source == "out.csv" else None)
    assert back.to_pylist()[0]["struct"] == json.dumps(PLAIN["struct"])


def test_a_lone_surrogate_of_jsonl_is_spelt_out_in_parquet(gateway: FakeTransport) -> None:
    Path("in.jsonl").write_text('{"text": "a \\ud800 b"}\n')
    assert label("in.jsonl", "--output", "out.parquet") == 0
    assert pq.read_table("out.parquet").to_pylist()[0]["text"] == "a \\ud800 b"


def test_standard_output_gets_jsonl(gateway: FakeTransport, capfd: pytest.CaptureFixture[str]) -> None:
    write({"text": ["free"]})
    assert label("in.parquet", "--output", "-") == 0
    found = json.loads(capfd.readouterr().out)
    assert found == {"text": "free", "label": "spam", "status": "labelled", "error": ""}


def test_plan_and_models_read_parquet(in_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write({"text": TEXTS})
    shown = []
    for command in ("plan", "models"):
        more = ["--model", "openai/gpt-4o-mini"] if command == "plan" else []
        assert main([command, "in.parquet", "--text", "text", "--labels", "spam,ham", *more]) == 0
        shown.append(capsys.readouterr().out)
    assert "5: 4 distinct texts, 1 empty" in shown[0]
    assert "5: 4 distinct texts, 1 empty" in shown[1]


def test_evaluate_reads_what_label_wrote(gateway: FakeTransport, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sklearn", reason="the extra quality is not installed")
    write({"text": TEXTS, "gold": ["spam", "ham", "ham", "ham", None]})
    assert label("in.parquet", "--output", "out.parquet") == 3
    capsys.readouterr()
    assert main(["evaluate", "out.parquet", "--gold", "gold"]) == 0
    parquet = capsys.readouterr().out
    assert label("in.parquet", "--output", "out.jsonl") == 3
    capsys.readouterr()
    assert main(["evaluate", "out.jsonl", "--gold", "gold"]) == 0
    assert capsys.readouterr().out == parquet
    assert "accuracy" in parquet


def test_a_pandas_index_is_found_again(gateway: FakeTransport) -> None:
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"text": ["free", "ok"], "kind": pd.Categorical(["a", None])}, index=[7, 7])
    frame.to_parquet("in.parquet")
    assert label("in.parquet", "--output", "out.parquet") == 0
    back = pd.read_parquet("out.parquet")
    assert list(back.index) == [7, 7]
    pd.testing.assert_frame_equal(back[["text", "kind"]], frame)
    assert str(back["label"].dtype) == "category"


# What is refused, before anything is sent


def corrupt(data: bytes) -> bytes:
    """Its first page is overwritten; its footer is sound."""
    return data[:40] + b"\xff" * 60 + data[100:]


@pytest.mark.parametrize(
    ("make", "wanted"),
    [
        (lambda _: b"", "expected a Parquet file: "),
        (lambda _: b"id,text\n1,a\n2,b\n3,c\n", "expected a Parquet file: Parquet magic bytes not found in footer."),
        (lambda data: data[:-20], "expected a Parquet file: "),
        (lambda data: data[:-4] + b"PARE", "expected a Parquet file: "),
        (corrupt, "damaged behind row 0: "),
    ],
)
def test_what_is_no_parquet_or_a_damaged_one_is_one_line(
    gateway: FakeTransport, capfd: pytest.CaptureFixture[str], make: Callable[[bytes], bytes], wanted: str
) -> None:
    write({"text": [f"text {number}" for number in range(50)], "n": list(range(50))}, compression="none")
    Path("in.parquet").write_bytes(make(Path("in.parquet").read_bytes()))
    Path("out.parquet").write_bytes(b"old")
    assert label("in.parquet", "--output", "out.parquet") == 2
    shown = capfd.readouterr().err
    assert shown.startswith(f"prompt-packer: in.parquet: {wanted}")
    assert shown.count("\n") == 1
    assert (gateway.prompts, Path("out.parquet").read_bytes()) == ([], b"old")
    assert not list(Path().glob(".*.part"))


def test_an_encrypted_file_is_refused(gateway: FakeTransport, capfd: pytest.CaptureFixture[str]) -> None:
    pe = pytest.importorskip("pyarrow.parquet.encryption")

    class Keys(pe.KmsClient):  # type: ignore[misc, name-defined]  # pyarrow has no types
        def wrap_key(self, key_bytes: bytes, _: str) -> bytes:
            return key_bytes.hex().encode()

        def unwrap_key(self, wrapped_key: bytes, _: str) -> bytes:
            return bytes.fromhex(wrapped_key.decode())

    factory = pe.CryptoFactory(lambda _: Keys())
    settings = pe.EncryptionConfiguration(footer_key="footer", column_keys={"column": ["text"]})
    table = pa.table({"text": ["free"]})
    encryption = factory.file_encryption_properties(pe.KmsConnectionConfig(), settings)
    with pq.ParquetWriter("in.parquet", table.schema, encryption_properties=encryption) as writer:
        writer.write_table(table)
    assert label("in.parquet", "--output", "out.parquet") == 2
    shown = capfd.readouterr().err
    assert shown.startswith("prompt-packer: in.parquet: expected a Parquet file: ")
    assert (shown.count("\n"), "decrypt" in shown or "encrypt" in shown) == (1, True)


@pytest.mark.parametrize(
    ("column", "holds"),
    [
        (pa.array([1]), "int64"),
        (pa.array([b"a"]), "binary"),
        (pa.array([["a"]]), "list<element: string>"),
    ],
)
def test_a_column_of_another_type_is_no_column_of_texts(in_folder: Path, column: Any, holds: str) -> None:
    with pytest.raises(InputError) as caught:
        read(write({"text": column}))
    assert str(caught.value) == f"in.parquet: expected a column of texts (string), 'text' holds {holds}"


@pytest.mark.parametrize("type_", [pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())])
def test_every_kind_of_text_is_read(in_folder: Path, type_: Any) -> None:
    write({"text": pa.array(["a", None, "a"]).cast(type_)})
    assert [row.text for row in read("in.parquet")] == ["a", "", "a"]


def test_a_column_of_nulls_is_one_of_empty_texts(in_folder: Path) -> None:
    assert [row.text for row in read(write({"text": pa.nulls(2)}))] == ["", ""]


def test_columns_are_named_as_in_other_tables(in_folder: Path) -> None:
    with pytest.raises(InputError, match=r"^in\.parquet: no column 'text'; did you mean 'texts'\? \(it has 'texts'\)$"):
        read(write({"texts": ["a"]}))
    pq.write_table(pa.table([pa.array(["a"]), pa.array(["b"])], names=["text", "text"]), "in.parquet")
    with pytest.raises(InputError, match=r"^in\.parquet: two columns are named 'text'; expected one$"):
        read("in.parquet")


def test_an_id_that_is_given_twice_names_both_rows(in_folder: Path) -> None:
    write({"text": ["a", "b", "c"], "id": [1, 2, 1]})
    with pytest.raises(InputError, match=r"^in\.parquet: row 3: the id '1' stands on row 1 already$"):
        read("in.parquet", id_column="id")
    write({"text": ["a"], "id": pa.array([None], pa.int64())})
    with pytest.raises(InputError, match=r"row 1: no id in column 'id'"):
        read("in.parquet", id_column="id")


def test_a_text_that_is_not_utf_8_is_told(in_folder: Path) -> None:
    data = pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff"]).buffers())
    with pytest.raises(InputError, match="damaged behind row 0: 'utf-8' codec"):
        read(write({"text": data}))


def test_a_pipe_is_no_place_for_parquet(in_folder: Path) -> None:
    write({"text": ["a"]})
    for arguments in (["label", "-", "--output", "out.csv"], ["plan", "-"]):
        done = subprocess.run(
            [sys.executable, "-m", "packer", *arguments, *CALL],
            input=Path("in.parquet").read_bytes(),
            capture_output=True,
            check=False,
            env={"PYTHONPATH": str(ROOT)},
        )
        told = b"standard input: this is Parquet; expected a file whose name ends in .parquet, no pipe\n"
        assert (done.returncode, done.stderr) == (2, b"prompt-packer: " + told)


def test_parquet_under_another_name_is_told(in_folder: Path) -> None:
    with pytest.raises(InputError, match=r"in\.csv: this is Parquet; expected a file whose name ends in \.parquet"):
        read(write({"text": ["a"]}, "in.csv"))


def test_without_pyarrow_it_says_what_to_install(
    gateway: FakeTransport, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    write({"text": ["free"]})
    monkeypatch.delitem(sys.modules, "packer.parquet", raising=False)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    source = write_csv(Path("in.csv"))
    for arguments in (["in.parquet", "--output", "out.csv"], [source, "--output", "out.parquet"]):
        assert label(*arguments) == 2
        assert capfd.readouterr().err == f"prompt-packer: {tables.NEEDS_PYARROW}\n"
    assert not gateway.prompts


# Killed


def test_a_killed_run_leaves_the_old_output_and_the_next_one_writes_it_whole(in_folder: Path) -> None:
    write({"text": TEXTS})
    Path("out.parquet").write_bytes(b"old")
    kill = (
        "import os, runpy, signal, sys; from packer import failpoints\n"
        "die = lambda name: name.startswith('output: complete') and os.kill(os.getpid(), signal.SIGKILL)\n"
        "failpoints.put(die)\n"
        f"sys.argv[0] = {str(ROOT / 'tests' / 'fake_command.py')!r}; sys.path.insert(0, {str(ROOT / 'tests')!r})\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    command = ["label", "in.parquet", "--output", "out.parquet", *CALL]
    killed = subprocess.run([sys.executable, "-c", kill, *command], capture_output=True, check=False)
    assert (killed.returncode, Path("out.parquet").read_bytes()) == (-9, b"old"), killed.stderr
    assert len(list(Path().glob(".out.parquet.*.part"))) == 1
    again = [sys.executable, str(ROOT / "tests" / "fake_command.py"), *command]
    done = subprocess.run(again, capture_output=True, text=True, check=False)
    assert (done.returncode, "nothing in this run" in done.stderr) == (3, True), done.stderr
    assert pq.read_table("out.parquet").num_rows == len(TEXTS)
    assert not list(Path().glob(".*.part"))


# The writer


def written(path: str, results: Callable[[int, str], Result] | None = None) -> Iterator[bytes]:
    """What is written for each row of the table at `path`, and at last what stands behind them."""
    with Reader(path, text="text") as reader:
        added = added_columns(TASK, taken=reader.columns)
        writer = choose_writer(Format.PARQUET, columns=reader.columns, fields=(), added=added, source=reader.parquet)
        start = writer.header()
        for number, row in enumerate(reader):
            result = Result(Item(row.text), Status.LABELLED, label="ham")
            yield start + writer.row(row, result if results is None else results(number, row.text))
            start = b""
    yield start + writer.footer()


def copy(path: str, results: Callable[[int, str], Result] | None = None) -> Any:
    """The table at `path`, read by rows and written by rows."""
    return pq.ParquetFile(io.BytesIO(b"".join(written(path, results))))


TEXT = st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@given(st.lists(st.tuples(TEXT, st.integers(-9, 9)), max_size=40), st.integers(1, 15), st.integers(1, 9))
def test_rows_survive_whatever_the_sizes_of_groups_and_batches(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str | None, int]], group: int, batch: int
) -> None:
    """Law: no row is dropped, none is written twice, the order is the input's."""
    parquet = pytest.importorskip("packer.parquet")
    path = str(tmp_path_factory.getbasetemp() / "any.parquet")
    texts, numbers = [text for text, _ in rows], [number for _, number in rows]
    schema = pa.schema([("text", pa.string()), ("n", pa.int64())])
    pq.write_table(pa.table({"text": texts, "n": numbers}, schema=schema), path, row_group_size=group)

    def answer(number: int, text: str) -> Result:
        if number % 3:
            return Result(Item(text), Status.LABELLED, label="spam")
        return Result(Item(text), Status.FAILED, error=f"failed {number}")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parquet, "_BATCH_ROWS", batch)
        patch.setattr(parquet, "_GROUP_ROWS", 3 * batch)
        file = copy(path, answer)
    back = file.read().to_pylist()
    assert [(row["text"], row["n"]) for row in back] == rows
    assert [row["error"] for row in back] == ["" if n % 3 else f"failed {n}" for n in range(len(rows))]
    assert [row["label"] for row in back] == ["spam" if n % 3 else None for n in range(len(rows))]
    assert file.metadata.num_row_groups <= len(rows) // (2 * batch) + 1


@pytest.mark.parametrize("order", [[0, 2, 3], [0, 3], [3, 1, 0], [1, 1]])
def test_rows_may_come_in_any_order_and_each_stays_itself(in_folder: Path, order: list[int]) -> None:
    write({"text": ["a", "b", "c", "d"]})
    parquet = pytest.importorskip("packer.parquet")
    with pytest.MonkeyPatch.context() as patch, Reader("in.parquet", text="text") as reader:
        patch.setattr(parquet, "_BATCH_ROWS", 2)
        rows = list(reader)
        added = added_columns(TASK, taken=reader.columns)
        writer = choose_writer(Format.PARQUET, columns=reader.columns, fields=(), added=added, source=reader.parquet)
        failed = [(rows[place], Result(Item(""), Status.FAILED, error=rows[place].text)) for place in order]
        data = [writer.header(), *(writer.row(*one) for one in failed), writer.footer()]
        back = pq.read_table(io.BytesIO(b"".join(data))).to_pylist()
    assert [row["text"] for row in back] == [row["error"] for row in back] == ["abcd"[place] for place in order]


def test_a_number_that_json_has_no_word_for_is_null(gateway: FakeTransport) -> None:
    write({"text": ["free"] * 3, "x": [float("nan"), float("-inf"), 1.5]})
    assert label("in.parquet", "--output", "out.jsonl") == 0
    assert [json.loads(line)["x"] for line in Path("out.jsonl").read_text().splitlines()] == [None, None, 1.5]


def test_large_rows_make_small_batches_and_small_groups(in_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet = pytest.importorskip("packer.parquet")
    monkeypatch.setattr(parquet, "_BATCH_BYTES", 20_000)
    monkeypatch.setattr(parquet, "_GROUP_BYTES", 50_000)
    write({"text": [f"{number:04}" + "x" * 5_000 for number in range(100)]}, use_dictionary=False)
    with Reader("in.parquet", text="text") as reader:
        batches = {id(row.values.batch): row.values.batch.columns.num_rows for row in list(reader)}  # type: ignore[union-attr]
    assert max(batches.values()) <= 4
    assert copy("in.parquet").metadata.num_row_groups >= 8


def test_memory_does_not_grow_with_the_table(tmp_path: Path) -> None:
    """Law: ten rows or ten million take the same. Here: 60 MB in one row group, in a process of its own."""
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("the peak of a process's own memory is read in /proc")
    path = tmp_path / "in.parquet"
    count = 100_000
    texts = [f"{number} " + "x" * 600 for number in range(count)]
    write({"text": texts}, str(path), row_group_size=count, use_dictionary=False, compression="none")
    # not ru_maxrss, which begins with that of the parent
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from test_parquet import *\n"
        "from packer import parquet; parquet._GROUP_BYTES = 2_000_000\n"
        "peak = lambda: int(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])\n"
        "before = peak()\n"
        "print(sum(1 for _ in written(sys.argv[2])), peak() - before)"
    )
    command = [sys.executable, "-c", code, str(ROOT / "tests"), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    rows, grown = map(int, done.stdout.split())
    assert (rows, grown < 40_000) == (count + 1, True), f"{grown} kB, for a file of {path.stat().st_size / 1000:.0f} kB"


# What is added


def test_a_confidence_is_a_column_of_numbers_before_the_status() -> None:
    added = added_columns(TASK, taken=(), confidence=True)
    assert [column.name for column in added] == ["label", "confidence", "status", "error"]
    sure = Result(Item("a"), Status.LABELLED, label="ham", confidence=0.12345678)
    assert fitted(sure, (), added, confidence=True) == ["ham", 0.123457, "labelled", ""]
    writer = choose_writer(Format.PARQUET, columns=["text"], fields=(), added=added, source=None, confidence=True)
    data = [writer.header(), writer.row(Row(2, "a", None, ["a"], ""), sure), writer.footer()]
    assert pq.read_table(io.BytesIO(b"".join(data))).to_pylist()[0]["confidence"] == 0.123457


def record_task(**fields: Any) -> Task:
    kinds = {
        "$defs": {"mood": {"enum": ["angry", "calm"]}, "tree": {"type": "array", "items": {"$ref": "#/$defs/tree"}}}
    }
    return Task(record={"type": "object", "properties": fields, **kinds})


@pytest.mark.parametrize(
    ("field", "wanted"),
    [
        ({"type": "string"}, Type(Kind.TEXT)),
        ({"type": ["integer", "null"]}, Type(Kind.WHOLE)),
        ({"anyOf": [{"type": "number"}, {"type": "null"}]}, Type(Kind.NUMBER)),
        ({"type": "boolean"}, Type(Kind.TRUTH)),
        ({"$ref": "#/$defs/mood"}, Type(Kind.CHOICE, ("angry", "calm"))),
        ({"const": "a"}, Type(Kind.CHOICE, ("a",))),
        ({"enum": ["a", None, "a"]}, Type(Kind.CHOICE, ("a",))),
        ({"enum": ["a", 1]}, Type(Kind.JSON)),
        ({"type": "array", "items": {"$ref": "#/$defs/mood"}}, Type(Kind.LIST, of=Type(Kind.TEXT))),
        ({"type": "array", "items": {"type": "integer"}}, Type(Kind.LIST, of=Type(Kind.WHOLE))),
        ({"type": "array"}, Type(Kind.JSON)),
        ({"type": "array", "prefixItems": [{"type": "integer"}], "items": {"type": "string"}}, Type(Kind.JSON)),
        ({"$ref": "#/$defs/tree"}, Type(Kind.JSON)),
        ({"anyOf": [{"type": "string"}, {"type": "integer"}]}, Type(Kind.JSON)),
        ({"type": ["string", "integer"]}, Type(Kind.JSON)),
        ({"type": "object"}, Type(Kind.JSON)),
        ({}, Type(Kind.JSON)),
        (True, Type(Kind.JSON)),
    ],
)
def test_a_fields_column_has_the_type_of_its_schema(field: Any, wanted: Type) -> None:
    assert added_columns(record_task(x=field), taken=())[0].type == wanted


@pytest.mark.parametrize(
    ("field", "value", "held"),
    [
        ({"type": "integer"}, 2.0, 2),
        ({"type": "integer"}, 2**63 - 1, 2**63 - 1),
        ({"type": "integer"}, 2**63, None),
        ({"type": "number"}, 3, 3.0),
        ({"type": "number"}, 10**400, None),
        ({"type": "object"}, {"a": "\u00e9"}, '{"a": "\u00e9"}'),
        ({"type": "string"}, "a \ud800", "a \\ud800"),
        ({"type": "array", "items": {"type": "integer"}}, [1, 2**70], None),
        ({"$ref": "#/$defs/mood"}, "sad", None),
        ({"type": "boolean"}, 1, None),
    ],
)
def test_a_value_that_its_column_cannot_hold_is_left_out_and_told(field: Any, value: Any, held: Any) -> None:
    columns = added_columns(record_task(x=field), taken=())
    result = Result(Item("a"), Status.LABELLED, record={"x": value})
    found = fitted(result, ("x",), columns)
    assert (found[0], found[1]) == (held, "labelled")
    assert found[2] == "" if held is not None else found[2].startswith("x: a value that its column")
    for column, one in zip(columns, found, strict=True):  # Arrow takes what was fitted
        pytest.importorskip("packer.arrow").arrow_array([one, None], column.type)


def test_a_records_fields_are_columns_of_their_types(monkeypatch: pytest.MonkeyPatch, in_folder: Path) -> None:
    task = record_task(
        mood={"$ref": "#/$defs/mood"}, score={"type": "integer"}, tags={"type": "array", "items": {"type": "string"}}
    )
    Path("task.json").write_text(json.dumps({"record": task.record_schema}))
    answer = {"mood": "calm", "score": 3, "tags": ["a", "b"]}
    transport = FakeTransport(task, lambda _: answer, seconds=0, free=True)
    monkeypatch.setattr(connections, "connect", fake_command.connect_to(transport))
    write({"text": ["one", None], "mood": ["x", "y"]})
    call = ["--text", "text", "--task", "task.json", "--model", "m"]
    assert main(["label", "in.parquet", "--output", "out.parquet", *call]) == 3
    out = pq.read_table("out.parquet")
    assert out.schema.names == ["text", "mood", "mood_2", "score", "tags", "status", "error"]
    assert [str(out.schema.field(name).type).split("<")[0] for name in ("mood_2", "score", "tags")] == [
        "dictionary",
        "int64",
        "list",
    ]
    first, second = out.to_pylist()
    assert [first[name] for name in ("mood_2", "score", "tags")] == ["calm", 3, ["a", "b"]]
    assert [second[name] for name in ("mood_2", "score", "tags", "status")] == [None, None, None, "failed"]


def test_duplicate_columns_go_to_csv_and_not_to_jsonl(
    gateway: FakeTransport, capfd: pytest.CaptureFixture[str]
) -> None:
    pq.write_table(
        pa.table([pa.array(["free"]), pa.array(["1"]), pa.array(["2"])], names=["text", "x", "x"]), "in.parquet"
    )
    assert label("in.parquet", "--output", "out.csv") == 0
    assert Path("out.csv").read_text() == "text,x,x,label,status,error\nfree,1,2,spam,labelled,\n"
    assert label("in.parquet", "--output", "out.parquet") == 0
    assert pq.ParquetFile("out.parquet").schema_arrow.names == ["text", "x", "x", "label", "status", "error"]
    assert label("in.parquet", "--output", "out.jsonl") == 2
    assert "two columns are named 'x'" in capfd.readouterr().err


def test_a_decision_is_a_category_before_the_status() -> None:
    added = added_columns(TASK, taken=(), confidence=True, decision=True)
    assert [column.name for column in added] == ["label", "confidence", "decision", "status", "error"]
    decided = Result(Item("a"), Status.LABELLED, label="ham", decision=Decision.VOTE)
    assert fitted(decided, (), added, confidence=True, decision=True) == ["ham", None, "vote", "labelled", ""]
    failed = Result(Item("a"), Status.FAILED, error="no")
    assert fitted(failed, (), added, confidence=True, decision=True) == [None, None, None, "failed", "no"]
    assert added[2].type.choices == ("first", "vote", "escalated", "doubtful")
