"""Steps down: each is taken once, none is taken back, and they have an end."""

from hypothesis import given
from hypothesis import strategies as st

from packer.dialects import Dialect, Dialects, Form, without_patterns

SETTINGS = ("response_format", "temperature", "logprobs", "max_completion_tokens")
LIMITS = ("max_completion_tokens", "max_tokens")


def test_a_schema_is_given_up_step_by_step() -> None:
    dialects = Dialects(tuple(Form), LIMITS)
    forms, names = [], []
    while (name := dialects.refuse("response_format", dialects.current, keep_schema=True)) is not None:
        forms.append(dialects.current.form)
        names.append(name)
    assert forms == [Form.PLAIN_SCHEMA, Form.OBJECT, Form.TEXT]
    assert names == [
        "response_format json_schema pattern",
        "response_format json_schema",
        "response_format json_object",
    ]
    assert dialects.refused() == tuple(names)


def test_a_schema_that_is_refused_as_such_is_not_tried_without_patterns() -> None:
    dialects = Dialects(tuple(Form), LIMITS)
    assert dialects.refuse("response_format", dialects.current, keep_schema=False) == "response_format json_schema"
    assert dialects.current.form is Form.OBJECT


def test_the_token_limit_changes_its_name_and_is_never_left_out() -> None:
    dialects = Dialects(tuple(Form), LIMITS)
    assert dialects.refuse("max_completion_tokens", dialects.current, keep_schema=False) == "max_completion_tokens"
    assert dialects.current == Dialect(Form.SCHEMA, "max_tokens")
    assert dialects.refuse("max_tokens", dialects.current, keep_schema=False) is None
    assert dialects.current == Dialect(Form.SCHEMA, "max_tokens")


def test_a_request_sent_in_an_old_dialect_steps_down_no_further() -> None:
    dialects = Dialects(tuple(Form), LIMITS)
    old = dialects.current
    for _ in range(5):
        assert dialects.refuse("response_format", old, keep_schema=False) == "response_format json_schema"
        assert dialects.refuse("temperature", old, keep_schema=False) == "temperature"
        assert dialects.refuse("logprobs", old, keep_schema=False) == "logprobs"
    assert dialects.current == Dialect(Form.OBJECT, "max_completion_tokens", temperature=False, logprobs=False)
    assert dialects.refused() == ("response_format json_schema", "temperature", "logprobs")
    assert dialects.refuse("logprobs", dialects.current, keep_schema=False) is None


@given(st.lists(st.tuples(st.sampled_from(SETTINGS), st.booleans(), st.integers(0, 50)), max_size=50))
def test_whatever_is_refused_the_steps_are_few_and_only_down(refusals: list[tuple[str, bool, int]]) -> None:
    dialects = Dialects(tuple(Form), LIMITS)
    sent = [dialects.current]
    for setting, keep, which in refusals:
        dialect = sent[which % len(sent)]
        named = dialect.limit if setting in LIMITS else setting
        dialects.refuse(named, dialect, keep_schema=keep)
        sent.append(dialects.current)
    assert len(set(sent)) <= 7
    forms = [list(Form).index(dialect.form) for dialect in sent]
    assert forms == sorted(forms)
    assert [dialect.temperature for dialect in sent] == sorted((d.temperature for d in sent), reverse=True)
    assert [dialect.logprobs for dialect in sent] == sorted((d.logprobs for d in sent), reverse=True)
    assert len(dialects.refused()) <= 6


def test_patterns_leave_a_schema_and_names_do_not() -> None:
    schema = {
        "type": "object",
        "properties": {"pattern": {"type": "string", "pattern": "^a$"}},
        "required": ["pattern"],
        "anyOf": [{"pattern": "b"}, {"enum": ["pattern"]}],
        "$defs": {"pattern": {"pattern": "c"}},
    }
    assert without_patterns(schema) == {
        "type": "object",
        "properties": {"pattern": {"type": "string"}},
        "required": ["pattern"],
        "anyOf": [{}, {"enum": ["pattern"]}],
        "$defs": {"pattern": {}},
    }
