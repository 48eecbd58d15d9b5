"""Data frames: the frame that comes out is the one that went in, with the right label beside every text."""

import asyncio
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import fake_command
import pytest
from hypothesis import given
from hypothesis import strategies as st

import packer
from packer.errors import Failure, TransportError
from packer.testing import FakeTransport

pytest.importorskip("narwhals", reason="the extra frames is not installed")
pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
pd = pytest.importorskip("pandas", reason="pandas is not installed")
pl = pytest.importorskip("polars", reason="polars is not installed")

LABELS = ["ham", "spam", "other"]
TASK = packer.Task(LABELS)
STATES = ["labelled", "failed", "doubt", "pending"]
TEXTS = ["Win a FREE prize", None, "see you", "free entry", ""]
FOUND = ["spam", None, "ham", "spam", None]
MAKERS: dict[str, Callable[[dict[str, list[Any]]], Any]] = {
    "pandas": pd.DataFrame,
    "polars": pl.DataFrame,
    "pyarrow": pa.table,
}
every_library = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


def fake(**options: Any) -> FakeTransport:
    return FakeTransport(TASK, fake_command.annotate, **{"seconds": 0, "free": True, **options})


def label(frame: Any, text: str = "text", **options: Any) -> Any:
    transport = options.pop("transport", None) or fake()
    return packer.label_frame(frame, text=text, task=TASK, model="m", ledger=None, transport=transport, **options)


def refusal(frame: Any, text: str = "text") -> str:
    transport = fake()
    with pytest.raises(packer.CallError) as caught:
        label(frame, text, transport=transport)
    assert not transport.prompts
    assert "\n" not in str(caught.value)
    return str(caught.value)


def columns(frame: Any) -> dict[str, list[Any]]:
    """The columns as lists, None for what is not there."""
    if isinstance(frame, pd.DataFrame):
        return {name: [None if pd.isna(one) else one for one in frame[name]] for name in frame.columns}
    found: dict[str, list[Any]] = frame.to_pydict() if isinstance(frame, pa.Table) else frame.to_dict(as_series=False)
    return found


# What comes out


@every_library
def test_a_frame_gets_label_status_and_error_behind_its_own(make: Callable[..., Any]) -> None:
    found = columns(label(make({"id": [1, 2, 3, 4, 5], "text": TEXTS})))
    assert list(found) == ["id", "text", "label", "status", "error"]
    assert (found["id"], found["text"], found["label"]) == ([1, 2, 3, 4, 5], TEXTS, FOUND)
    assert found["status"] == ["labelled", "failed", "labelled", "labelled", "failed"]
    assert found["error"] == ["", "the text is empty", "", "", "the text is empty"]


def test_a_label_is_a_category_among_all_of_the_tasks() -> None:
    in_pandas = label(pd.DataFrame({"text": TEXTS}))
    assert list(in_pandas["label"].cat.categories) == LABELS
    assert not in_pandas["label"].cat.ordered
    assert list(in_pandas["status"].cat.categories) == STATES
    in_polars = label(pl.DataFrame({"text": TEXTS}))
    assert in_polars.schema["label"] == pl.Enum(LABELS)
    assert in_polars.schema["status"] == pl.Enum(STATES)
    in_arrow = label(pa.table({"text": TEXTS}))
    assert in_arrow["label"].chunk(0).dictionary.to_pylist() == LABELS
    assert in_arrow["status"].chunk(0).dictionary.to_pylist() == STATES


@every_library
def test_an_empty_frame_gets_its_columns_and_sends_nothing(make: Callable[..., Any]) -> None:
    transport = fake()
    found = label(make({"text": []}), transport=transport)
    assert columns(found) == {"text": [], "label": [], "status": [], "error": []}
    assert not transport.prompts


@every_library
def test_a_name_that_is_taken_gets_a_number(make: Callable[..., Any]) -> None:
    found = columns(label(label(make({"text": ["free"], "label_2": ["x"], "label": ["gold"]}))))
    assert list(found)[1:5] == ["label_2", "label", "label_3", "status"]
    assert list(found)[5:] == ["error", "label_4", "status_2", "error_2"]
    assert found["label"] == ["gold"]


@pytest.mark.parametrize(
    "index",
    [
        pd.Index([7, 7, 7, 1, 1]),
        pd.Index(list("edcba"), name="letter"),
        pd.MultiIndex.from_tuples([(1, "a"), (1, "a"), (2, "b"), (0, "c"), (1, "a")], names=["n", None]),
        pd.date_range("2026-01-01", periods=5, tz="UTC"),
        pd.Index([None, float("nan"), 1.0, 1.0, 2.0]),
    ],
    ids=["duplicate", "named", "multi", "dates", "nulls"],
)
def test_an_index_stays_whatever_it_is(index: Any) -> None:
    frame = pd.DataFrame({"text": TEXTS}, index=index)
    found = label(frame)
    pd.testing.assert_index_equal(found.index, index)
    assert columns(found)["label"] == FOUND


def test_what_a_frame_holds_stays_as_it_is() -> None:
    frame = pd.DataFrame(
        {
            "text": pd.array(TEXTS, dtype="string"),
            "kind": pd.Categorical(["a", None, "b", "a", "a"], categories=["c", "b", "a"], ordered=True),
            "whole": pd.array([1, None, 3, 4, 5], dtype="Int8"),
            "when": pd.date_range("2026-01-01", periods=5, tz="Europe/Berlin"),
            "any": [object(), [1], {"a": 1}, None, "x"],
            0: [1.5, float("nan"), 3, 4, 5],
        }
    )
    frame.attrs["from"] = "a test"
    before = frame.copy()
    found = label(frame)
    pd.testing.assert_frame_equal(found[list(frame.columns)], before)
    pd.testing.assert_frame_equal(frame, before)
    assert found.attrs == {"from": "a test"}
    table = pl.DataFrame(
        {"text": TEXTS, "kind": ["a", None, "b", "a", "a"], "list": [[1], None, [], [2], [3]]},
        schema_overrides={"kind": pl.Enum(["b", "a"]), "list": pl.List(pl.Int8)},
    )
    assert label(table).select(table.columns).equals(table)
    assert label(table).select(table.columns).schema == table.schema


def test_an_arrow_table_of_chunks_keeps_them_and_its_metadata() -> None:
    schema = pa.schema([pa.field("text", pa.large_string(), metadata={"a": "b"})], metadata={"made by": "a test"})
    table = pa.Table.from_batches([pa.record_batch([[text]], schema=schema) for text in TEXTS])
    found = label(table)
    assert found.select(["text"]).schema.equals(schema, check_metadata=True)
    assert (found["text"].num_chunks, found["text"]) == (5, table["text"])
    assert columns(found)["label"] == FOUND


TEXT = st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=6) | st.sampled_from(["free", " free"])


@given(st.lists(st.tuples(TEXT, st.integers(0, 3)), max_size=30), st.sampled_from(sorted(MAKERS)))
def test_order_index_and_texts_survive(rows: list[tuple[str | None, int]], library: str) -> None:
    """Laws: no row is dropped, the order is the input's, an answer reaches only the item that it names."""
    texts = [text for text, _ in rows]
    index = [number for _, number in rows]
    if library == "pandas":
        frame: Any = pd.DataFrame({"text": pd.Series(texts, dtype=object, index=index), "n": index}, index=index)
    elif library == "polars":
        frame = pl.DataFrame({"text": texts, "n": index}, schema={"text": pl.String, "n": pl.Int8})
    else:
        frame = pa.table({"text": pa.array(texts, pa.string()), "n": pa.array(index, pa.int8())})
    found = label(frame, limits=packer.PackLimits(max_items=4))
    shown = columns(found)
    assert (shown["text"], shown["n"]) == (texts, index)
    wanted = [fake_command.annotate(text) if text and text.strip() else None for text in texts]
    assert shown["label"] == wanted
    if library == "pandas":
        assert list(found.index) == index
        assert found.dtypes["n"] == frame.dtypes["n"]


# Failures


@every_library
def test_items_that_fail_are_rows_with_a_reason(make: Callable[..., Any]) -> None:
    """Law: every item ends in exactly one reported state."""

    def refuse(prompt: Any, _: int) -> TransportError | None:
        return TransportError(Failure.BAD_REQUEST, "not this") if "bad" in prompt.user else None

    texts = [f"free {number}" for number in range(8)] + ["bad"] + [f"ok {number}" for number in range(8)]
    found = columns(label(make({"text": texts}), transport=fake(fault=refuse)))
    assert found["text"] == texts
    assert [state == "failed" for state in found["status"]] == [text == "bad" for text in texts]
    assert "not this" in found["error"][8]
    assert found["label"][8] is None


@every_library
def test_a_job_that_stops_has_a_result_for_every_row(make: Callable[..., Any]) -> None:
    def refuse(_: Any, number: int) -> TransportError | None:
        return TransportError(Failure.KEY_REFUSED, "no") if number > 2 else None

    texts = [f"text {number}" for number in range(90)]
    with pytest.raises(packer.StoppedError) as caught:
        label(make({"text": texts}), transport=fake(fault=refuse))
    assert [result.item.text for result in caught.value.results] == texts
    assert {result.status for result in caught.value.results} == {packer.Status.LABELLED, packer.Status.PENDING}


# Records


RECORD = packer.Task(
    record={
        "type": "object",
        "properties": {
            "topic": {"enum": ["bill", "delivery"]},
            "stars": {"type": "integer"},
            "share": {"type": ["number", "null"]},
            "urgent": {"type": "boolean"},
            "note": {"type": "string"},
            "tags": {"type": "array", "items": {"type": "string"}},
            "more": {"type": "object"},
        },
    }
)
ANSWER = {"topic": "bill", "stars": 4, "share": 1, "urgent": True, "note": "é", "tags": ["a", "b"], "more": {"k": [1]}}


@every_library
def test_a_records_fields_are_columns_of_their_types(make: Callable[..., Any]) -> None:
    transport = FakeTransport(
        RECORD, lambda text: ANSWER | {"stars": 2**70 if text == "big" else 4}, seconds=0, free=True
    )
    frame = make({"text": ["one", "", "big"]})
    found: Any = packer.label_frame(frame, text="text", task=RECORD, model="m", ledger=None, transport=transport)
    if isinstance(found, pd.DataFrame):
        types = [str(found[name].dtype) for name in ANSWER]
        assert types == ["category", "Int64", "Float64", "boolean", "string", "object", "string"]
        assert found["tags"].to_list() == [["a", "b"], None, ["a", "b"]]
        found = found.drop(columns="tags")
    elif isinstance(found, pl.DataFrame):
        types = [found.schema[name] for name in ANSWER]
        kinds = [pl.Int64, pl.Float64, pl.Boolean, pl.String, pl.List(pl.String), pl.String]
        assert types == [pl.Enum(["bill", "delivery"]), *kinds]
    else:
        types = [str(found.schema.field(name).type).split("<")[0] for name in ANSWER]
        assert types == ["dictionary", "int64", "double", "bool", "string", "list", "string"]
    shown = columns(found)
    wanted = ANSWER | {"more": '{"k": [1]}', "share": 1.0}
    for name in shown.keys() & ANSWER.keys() - {"stars"}:
        assert shown[name] == [wanted[name], None, wanted[name]], name
    assert shown["stars"] == [4, None, None]
    assert shown["error"] == [
        "",
        "the text is empty",
        f"stars: a value that its column (whole number) cannot hold: {2**70}",
    ]


def test_a_records_fields_go_by_place_and_not_by_index() -> None:
    transport = FakeTransport(RECORD, lambda text: ANSWER | {"note": text}, seconds=0, free=True)
    frame = pd.DataFrame({"text": ["one", "two", "three"]}, index=[2, 0, 0])
    found = packer.label_frame(frame, text="text", task=RECORD, model="m", ledger=None, transport=transport)
    assert list(found["note"]) == ["one", "two", "three"]


@every_library
def test_what_is_done_about_doubtful_labels_is_a_column_of_categories(make: Callable[..., Any]) -> None:
    found = label(make({"text": TEXTS}), doubt=packer.Doubt(vote=3))
    assert list(columns(found)) == ["text", "label", "decision", "status", "error"]
    decided = zip(columns(found)["status"], columns(found)["decision"], strict=True)
    assert set(decided) == {("labelled", "vote"), ("failed", None)}
    if isinstance(found, pl.DataFrame):
        assert found.schema["decision"] == pl.Enum(["first", "vote", "escalated", "doubtful"])


@every_library
def test_a_confidence_that_is_asked_for_is_a_column_of_numbers(make: Callable[..., Any]) -> None:
    found = label(make({"text": TEXTS}), confidence=True)
    assert list(columns(found)) == ["text", "label", "confidence", "status", "error"]
    assert columns(found)["confidence"] == [None] * len(TEXTS)  # this gateway tells none
    if isinstance(found, pl.DataFrame):
        assert found.schema["confidence"] == pl.Float64


# Refusals


WANTED = "column 'text': expected texts (strings, or categories that are), got"
ROW = "expected texts, row"
TWICE = "two columns of the frame have one name; expected another name for each"


@pytest.mark.parametrize(
    ("frame", "told"),
    [
        (pd.DataFrame({"text": [1, 2]}), f"{WANTED} int64"),
        (pl.DataFrame({"text": [1.5]}), f"{WANTED} Float64"),
        (pa.table({"text": [b"a"]}), f"{WANTED} binary"),
        (pd.DataFrame({"text": ["a", 3]}), f"column 'text' (object): {ROW} 2 holds a value of type int"),
        (pd.DataFrame({"text": pd.Categorical([1])}), f"column 'text' (category): {ROW} 1 holds a value of type int"),
        (pl.DataFrame({"texts": ["a"]}), "no column 'text'; did you mean 'texts'? (the frame has 'texts')"),
        (pd.DataFrame(), "no column 'text' (the frame has none)"),
        (pd.DataFrame({("text", "a"): ["x"]}), "no column 'text' (the frame has ('text', 'a'))"),
        (pd.DataFrame([["a", "b"]], columns=["text", "text"]), TWICE),
        (pl.LazyFrame({"text": ["a"]}), "expected a data frame, got a lazy one (polars.LazyFrame): collect it first"),
        (pd.Series(["a"]), "expected a pandas or polars data frame or an Arrow table, got pandas.Series"),
        (["a"], "expected a pandas or polars data frame or an Arrow table, got builtins.list"),
    ],
)  # fmt: skip
def test_what_cannot_be_labelled_is_told_in_one_line(frame: Any, told: str) -> None:
    assert refusal(frame) == told


def test_a_relation_of_duckdb_is_a_lazy_frame() -> None:
    duckdb = pytest.importorskip("duckdb", reason="duckdb is not installed")
    assert refusal(duckdb.sql("SELECT 'a' AS text")).startswith("expected a data frame, got a lazy one (")


@pytest.mark.parametrize(
    "frame",
    [
        pd.DataFrame({"text": pd.array(["free", None], dtype="string[pyarrow]")}),
        pd.DataFrame({"text": pd.Categorical(["free", None])}),
        pd.DataFrame({"text": pd.Series(["free", float("nan")], dtype=object)}),
        pl.DataFrame({"text": ["free", None]}, schema={"text": pl.Categorical}),
        pl.DataFrame({"text": ["free", None]}, schema={"text": pl.Enum(["free"])}),
        pa.table({"text": pa.array(["free", None]).dictionary_encode()}),
        pa.table({"text": pa.array(["free", None], pa.string_view())}),
    ],
)
def test_every_kind_of_text_column_is_read(frame: Any) -> None:
    assert columns(label(frame))["label"] == ["spam", None]


@pytest.mark.parametrize("frame", [pl.DataFrame({"text": [None]}), pa.table({"text": pa.nulls(1)})])
def test_a_column_of_nulls_is_one_of_empty_texts(frame: Any) -> None:
    assert columns(label(frame))["error"] == ["the text is empty"]


def test_labels_or_a_task_and_not_both() -> None:
    frame = pd.DataFrame({"text": ["a"]})
    with pytest.raises(packer.CallError, match="expected either labels or a task, got neither"):
        packer.label_frame(frame, text="text", model="m")
    with pytest.raises(packer.CallError, match="expected either labels or a task, got both"):
        packer.label_frame(frame, LABELS, task=TASK, text="text", model="m")


# How it is called


def test_it_is_called_through_pipe_and_takes_the_options_of_label() -> None:
    events: list[packer.Event] = []
    found = pd.DataFrame({"text": ["free", "ok"]}).pipe(
        packer.label_frame, LABELS, text="text", model="m", ledger=None, transport=fake(), on_event=events.append
    )
    assert list(found["label"]) == ["spam", "ham"]
    assert events


def test_it_works_where_an_event_loop_runs_already() -> None:
    async def notebook() -> Any:
        return label(pl.DataFrame({"text": TEXTS}))

    assert asyncio.run(notebook())["label"].to_list() == FOUND


def test_the_second_call_is_answered_from_the_ledger(tmp_path: Any) -> None:
    frame, transport = pd.DataFrame({"text": TEXTS}), fake()
    for _ in range(2):
        found = packer.label_frame(
            frame, text="text", task=TASK, model="m", transport=transport, ledger=tmp_path / "labels.db"
        )
        assert columns(found)["label"] == FOUND
    assert len(transport.prompts) == 1


def test_packer_imports_no_library_of_frames_before_a_frame_is_given() -> None:
    code = "import sys, packer; packer.label, packer.label_frame, packer.Runner; print(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"narwhals", "pandas", "polars", "pyarrow", "duckdb"} & set(done.stdout.splitlines())
    code = (
        "import sys, packer, polars; from packer.testing import FakeTransport\n"
        "task = packer.Task(['a', 'b']); fake = FakeTransport(task, lambda text: 'a', seconds=0, free=True)\n"
        "frame = polars.DataFrame({'text': ['x']})\n"
        "packer.label_frame(frame, text='text', task=task, model='m', ledger=None, transport=fake)\n"
        "print(*sys.modules, sep='\\n')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"pandas", "pyarrow"} & set(done.stdout.splitlines())


def test_without_narwhals_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "narwhals.stable.v2", None)
    assert refusal(pd.DataFrame({"text": ["a"]})) == (
        "data frames need narwhals, which is not installed: pip install 'prompt-packer[frames]'"
    )
