"""The command finds the size that a known law allows, pays for nothing twice, and takes no pack for singles."""

import csv
import json
import random
import re
import signal
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from gateway.annotators import Annotator, chance, erring, gold
from gateway.server import KEY, Gateway, Setup, running_gateway
from schema_documents import SCHEMAS

from packer import connections
from packer.cli import main
from packer.ledger import Ledger
from packer.task import read_task

WORDS = ("parcel", "meeting", "prize", "dentist", "refund", "weekend", "invoice", "train", "garden", "concert")
ROWS = [
    (f"{WORDS[n % 10]} number {n}, about the {WORDS[n * 7 % 9]}", "spam" if n % 3 == 0 else "ham") for n in range(500)
]
GOLD = dict(ROWS)
TASK = """\
# what is asked
instructions = "Is it spam?"

# two labels
[labels]
spam = "advertising"   # unwanted
ham = "anything else"
"""
COSTS = ["--price-input", "0.15", "--price-output", "0.60"]


@pytest.fixture
def folder(in_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a table and a task."""
    monkeypatch.setenv("MY_KEY", KEY)
    with Path("in.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "right"), *ROWS])
    Path("task.toml").write_text(TASK, encoding="utf-8")
    return in_folder


def words(gateway: Gateway, *more: str, command: str = "calibrate") -> list[str]:
    address = ["--base-url", gateway.url, "--api-key-env", "MY_KEY"]
    return [command, "in.csv", "--text", "text", *address, *more]


def calibrate(gateway: Gateway, *more: str) -> int:
    asked = () if "--labels" in more else ("--task", "task.toml")
    return main(words(gateway, "--model", "m", *asked, *COSTS, *more))


def by_size(law: Mapping[int, float]) -> Annotator:
    """Right, but for the share of texts that `law` has for the largest size that the pack reaches."""

    def annotate(texts: Sequence[str], labels: Mapping[str, str]) -> list[str]:
        share = law[max(size for size in law if size <= len(texts))]
        return erring(gold(GOLD), base=share)(texts, labels)

    return annotate


def sizes_asked(gateway: Gateway) -> Counter[int]:
    """How many requests there were of each size."""
    return Counter(len(record.texts) for record in gateway.log.records)


CLEAR = {1: 0.0, 5: 0.0, 20: 0.0, 50: 0.3}


def test_the_right_size_is_found_written_and_used_by_the_job_that_follows(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with running_gateway(Setup(annotate=by_size(CLEAR))) as gateway:
        assert calibrate(gateway) == 0
        out, err = capsys.readouterr()
        assert max(map(len, (out + err).splitlines())) <= 80
        sentence = " ".join(out.partition("\nUse ")[2].partition("\n\n")[0].split())
        found = re.fullmatch(
            r"packs of 20: they cost (\d\d) % less than asking each text alone, and at most 3 % of labels change "
            r"\(95 % sure: 0 of 120 did\)\.",
            sentence,
        )
        assert found
        assert int(found[1]) > 50
        assert re.search(r"^packs of 50 +50 +\d+ +[\d.]+ % +\$[\d.]+  no$", out, re.MULTILINE)
        assert re.search(r"^cost +about \$0\.0\d+ for 411 requests at most", err, re.MULTILINE)
        written = Path("task.toml").read_text(encoding="utf-8")
        assert written.startswith(TASK.replace('"Is it spam?"\n', '"Is it spam?"\nmodel = "m"\nmax_items = 20\n'))
        table = tomllib.loads(written)["calibration"]
        assert [row["outcome"] for row in table["settings"]] == ["singles", "keeps", "keeps", "keeps", "breaks"]
        assert (read_task("task.toml").max_items, read_task("task.toml").model) == (20, "m")
        # the command that is printed is one that works, and goes by what was written
        command = out.rstrip().rpartition("\n\n")[2].replace("\\\n", " ").split()
        before = len(gateway.log.records)
        alone = {text for record in gateway.log.records if len(record.texts) == 1 for text in record.texts}
        assert main([word for word in command[1:] if word not in {"--audit", "0.01"}]) == 0
        asked = gateway.log.records[before:]
        assert max(len(record.texts) for record in asked) == 20
        # and what was bought alone is not bought again
        assert sorted(text for record in asked for text in record.texts) == sorted(GOLD.keys() - alone)
        assert len(alone) == 150
        assert main(["ledger", "verify"]) == 0


def test_running_it_again_buys_nothing_and_says_the_same(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with running_gateway(Setup(annotate=by_size(CLEAR))) as gateway:
        assert calibrate(gateway, "--sizes", "7,40") == 0
        first, asked, task = capsys.readouterr(), gateway.number, Path("task.toml").read_text(encoding="utf-8")
        # 300 singles, and packs that are full: 42 of 7 and 7 of 40
        assert "for 349 requests at most" in first.err
        with Ledger("prompt-packer.db", read_only=True) as ledger:
            attempts = ledger.statistics().attempts
        assert calibrate(gateway, "--sizes", "7,40") == 0
        again = capsys.readouterr()
        with Ledger("prompt-packer.db", read_only=True) as ledger:
            assert ledger.statistics().attempts == attempts
        assert gateway.number == asked
        assert again.out == first.out
        assert Path("task.toml").read_text(encoding="utf-8") == task
        assert calibrate(gateway, "--sizes", "7,40", "--sample", "400") == 0
        # the larger sample begins with the smaller one
        texts = [text for record in gateway.log.records if len(record.texts) == 1 for text in record.texts]
        assert len(texts) == len(set(texts))


def test_answers_of_packs_are_never_read_as_singles(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with running_gateway(Setup(annotate=by_size({1: 0.0, 5: 0.25}))) as gateway:
        # a job has labelled all of it in packs of 5, a quarter of it otherwise than alone
        label = words(gateway, "--model", "m", "--task", "task.toml", "--max-items", "5", command="label")
        assert main([*label, "--output", "out.csv"]) == 0
        before = gateway.number
        assert calibrate(gateway, "--sizes", "5") == 0
        asked = gateway.log.records[before:]
        assert Counter(len(record.texts) for record in asked) == {1: 50 + 50, 5: 10}
        out = capsys.readouterr().out
        assert re.search(r"^packs of 5 +50 +1\d ", out, re.MULTILINE)
        assert "alone      asked alone a second time, 0 of 50 got another answer" in out
        assert re.search(r"\nAsk each text alone \(--max-items 1\): \d\d % of labels change already", out)
        with Ledger("prompt-packer.db", read_only=True) as ledger:
            asks = Counter(row["ask"] for row in ledger.export())
        assert asks == {"": 500, "single": 50, "single again": 50, "size 5": 50}


def test_packs_that_a_gateway_cannot_answer_are_not_advised_though_their_parts_are_right(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with running_gateway(
        Setup(annotate=gold(GOLD), script=lambda _, texts: "prose" if len(texts) > 5 else "")
    ) as gateway:
        assert calibrate(gateway) == 0
    out = capsys.readouterr().out
    # each of them keeps the promise, in packs that are no larger than 5 in the end
    assert len(re.findall(r"  yes$", out, re.MULTILINE)) == 4
    assert "Use packs of 5: they cost" in out
    assert re.search(r"^split +packs of 50 had 1\.\d texts on average", out, re.MULTILINE)


def test_a_size_that_a_gateway_refuses_ends_the_pilot_and_the_smaller_ones_stand(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with running_gateway(
        Setup(annotate=gold(GOLD), script=lambda _, texts: "too-large" if len(texts) > 5 else "")
    ) as gateway:
        assert calibrate(gateway, "--sizes", "5,20") == 0
    out = capsys.readouterr().out
    assert "Use packs of 5: they cost" in out
    assert re.search(r"^stopped +before all settings were tried: ", out, re.MULTILINE)


def test_money_that_ends_stops_it_and_more_money_goes_on(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with running_gateway(Setup(annotate=by_size(CLEAR))) as gateway:
        assert calibrate(gateway, "--budget-usd", "0.004") == 4
        stopped = capsys.readouterr()
        assert "budget     $0.0040 does not cover it: it will stop, and tell what it knows" in stopped.err
        assert re.search(r"^Nothing can be told yet: it stopped (after 0 of|before)", stopped.out, re.MULTILINE)
        assert gateway.log.billed <= 0.004
        assert Path("task.toml").read_text(encoding="utf-8") == TASK
        assert calibrate(gateway, "--budget-usd", "0.1") == 0
        assert "Use packs of 20" in capsys.readouterr().out
        texts = [text for record in gateway.log.records if len(record.texts) == 1 for text in record.texts]
        assert len(texts) == len(set(texts))


def test_a_sample_that_can_tell_nothing_asks_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with running_gateway(Setup(annotate=by_size(CLEAR))) as gateway:
        assert calibrate(gateway, "--sample", "98") == 3
        assert gateway.number == 0
    said = capsys.readouterr()
    assert "Not enough items to tell: 98 texts cannot show that at most 3 % of labels" in said.out
    assert "asked      nothing: the sample is too small" in said.err
    assert Path("task.toml").read_text(encoding="utf-8") == TASK
    assert not Path("prompt-packer.db").exists()


def test_a_model_that_differs_from_itself_is_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = random.Random(5)

    def fickle(texts: Sequence[str], labels: Mapping[str, str]) -> list[str]:
        return [rng.choice(list(labels)) if rng.random() < 0.4 else GOLD[text] for text in texts]

    with running_gateway(Setup(annotate=fickle)) as gateway:
        assert calibrate(gateway) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert re.search(
        r"Ask each text alone, or allow more than [\d.]+ % with --max-disagreement: asked alone a second time, "
        r"\d+ of 50 got another answer already\.",
        out,
    )


def test_with_gold_the_loss_of_accuracy_is_told_and_the_figures_keep_their_schema(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def annotate(texts: Sequence[str], labels: Mapping[str, str]) -> list[str]:
        # one in ten is wrong alone; in packs ham turns into spam
        answers = ["ham" if chance("hard", text) < 0.1 else GOLD[text] for text in texts]
        turned = len(texts) > 1
        return [
            "spam" if turned and chance("turned", text) < 0.15 else answer
            for text, answer in zip(texts, answers, strict=True)
        ]

    with running_gateway(Setup(annotate=annotate)) as gateway:
        assert calibrate(gateway, "--gold", "right", "--json", "found.json") == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert re.search(
        r"^setting +texts changed at most accuracy +loss at most \$/million  keeps 3 %$", out, re.MULTILINE
    )
    assert re.search(r"^mix +(ham|spam) is \d.* % of the labels alone and .*in packs of 5", out, re.MULTILINE)
    assert "more than chance explains" in " ".join(out.split())
    found: dict[str, Any] = json.loads(Path("found.json").read_text(encoding="utf-8"))
    schema = json.loads((SCHEMAS / "calibration.schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(found, schema)
    packs = found["settings"][1]
    assert packs["loss"]["singles"] > packs["loss"]["packs"]
    assert 0 < packs["loss"]["bound"] < packs["at_most"] + 0.2
    assert sum(third["items"] for third in packs["thirds"]) == packs["items"]
    assert sum(third["differing"] for third in packs["thirds"]) == packs["differing"]
    assert Path("found.json").stat().st_mode & 0o077 == 0


def test_errors_at_the_end_of_packs_are_seen_there(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def annotate(texts: Sequence[str], labels: Mapping[str, str]) -> list[str]:
        late = range(len(texts) - len(texts) // 5, len(texts))
        return ["spam" if GOLD[text] == "ham" and place in late else GOLD[text] for place, text in enumerate(texts)]

    with running_gateway(Setup(annotate=annotate)) as gateway:
        assert calibrate(gateway, "--sizes", "10") == 0
    out = " ".join(capsys.readouterr().out.split())
    assert re.search(
        r"in packs of 10: changed in the first third 0 of 20, in the middle 0 of 15, in the last \d+ of 15", out
    )


def test_shapes_and_models_are_tried_and_the_cheapest_is_written(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("task.toml").write_text(f"{TASK}\n[price]\ninput = 0.15\noutput = 0.6\n", encoding="utf-8")
    with running_gateway(Setup(annotate=gold(GOLD))) as gateway:
        models = ["--model", "openai/gpt-4o-mini", "--models", "openai/gpt-4.1-nano"]
        more = [*models, "--task", "task.toml", "--shapes", "object,line", "--sizes", "5"]
        assert main(words(gateway, *more)) == 0
        out = capsys.readouterr().out
        for heading in (
            "gpt-4o-mini, answers as line",
            "gpt-4o-mini, answers as object",
            "gpt-4.1-nano, answers as line",
        ):
            assert f"openai/{heading}\n" in out
        assert "Use packs of 5 of openai/gpt-4.1-nano: they cost" in out
        assert sum(sizes_asked(gateway).values()) < 4 * 300
    task = read_task("task.toml")
    assert (task.model, task.max_items, task.price) == ("openai/gpt-4.1-nano", 5, None)
    assert task.shape == "line"


def test_a_shape_that_is_chosen_is_written(folder: Path) -> None:
    Path("task.toml").write_text(f'shape = "object" # for now\n{TASK}', encoding="utf-8")
    with running_gateway(Setup(annotate=gold(GOLD))) as gateway:
        assert calibrate(gateway, "--shapes", "object,line", "--sizes", "20") == 0
    assert Path("task.toml").read_text(encoding="utf-8").startswith('shape = "line" # for now\n')


def test_without_a_task_file_a_new_one_is_written_or_the_setting_is_in_the_command(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with running_gateway(Setup(annotate=gold(GOLD))) as gateway:
        assert calibrate(gateway, "--labels", "spam,ham", "--sizes", "20") == 0
        assert "--labels spam,ham --model m --max-items 20" in " ".join(
            capsys.readouterr().out.replace("\\\n", "").split()
        )
        for name in ("new.toml", "new.json"):
            assert calibrate(gateway, "--labels", "spam,ham", "--sizes", "20", "--write-task", name) == 0
            task = read_task(name)
            assert (list(task.labels), task.max_items, task.model) == (["spam", "ham"], 20, "m")
        twice = ["--write-task", "one.json", "--json", "one.json"]
        assert calibrate(gateway, "--labels", "spam,ham", *twice) == 2
        assert "--json one.json: this is the new task file; expected another file" in capsys.readouterr().err
        assert calibrate(gateway, "--labels", "spam,ham", "--write-task", "new.toml") == 2
        assert "expected the name of a new file, this one exists" in capsys.readouterr().err
        assert calibrate(gateway, "--sizes", "20", "--write-task", "copy.toml") == 0
        assert Path("task.toml").read_text(encoding="utf-8") == TASK
        assert "# two labels" in Path("copy.toml").read_text(encoding="utf-8")


def test_examples_that_were_drawn_are_drawn_again_by_the_job_that_follows(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [("text", "label"), *((f"example {number}", ("spam", "ham")[number % 2]) for number in range(20))]
    with Path("gold.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    with running_gateway(Setup(annotate=gold(GOLD))) as gateway:
        more = ["--examples", "gold.csv", "--examples-per-label", "3", "--seed", "4", "--sizes", "20"]
        assert calibrate(gateway, *more) == 0
        asked = len({text for record in gateway.log.records for text in record.texts})
        command = capsys.readouterr().out.rstrip().rpartition("\n\n")[2].replace("\\\n", " ").split()
        before = len(gateway.log.records)
        assert main([word for word in command[1:] if word not in {"--audit", "0.01"}]) == 0
    # what was asked alone is known: the job asks with the same examples
    assert sum(len(record.texts) for record in gateway.log.records[before:]) == len(ROWS) - asked


def test_records_are_compared_as_a_whole(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = {"type": "object", "properties": {"kind": {"enum": ["a", "b"]}}, "required": ["kind"]}
    Path("task.json").write_text(json.dumps({"record": record}), encoding="utf-8")
    with running_gateway(Setup()) as gateway:
        more = ["--model", "m", "--task", "task.json", *COSTS, "--sizes", "10"]
        assert main(words(gateway, *more)) == 0
        assert "at most 3 % of records change" in " ".join(capsys.readouterr().out.split())
        assert main(words(gateway, *more, "--gold", "right")) == 2
    assert "--gold: expected none for a record task" in capsys.readouterr().err
    assert read_task("task.json").max_items == 10


def test_ctrl_c_keeps_what_is_paid_and_the_same_command_goes_on(folder: Path) -> None:
    with running_gateway(Setup(annotate=gold(GOLD), seconds=0.03)) as gateway:
        more = ["--model", "m", "--task", "task.toml", *COSTS, "--sizes", "50"]
        command = [sys.executable, "-m", "packer", *words(gateway, *more)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            while gateway.number < 20:
                assert process.poll() is None
                signal.sigtimedwait([], 0.02)
            process.send_signal(signal.SIGINT)
            out, _ = process.communicate(timeout=20)
        assert process.returncode == 4
        assert "(interrupted); the same command goes on." in " ".join(out.split())
        assert subprocess.run(command, capture_output=True, check=False, timeout=60).returncode == 0
        texts = [text for record in gateway.log.records if len(record.texts) == 1 for text in record.texts]
        assert len(texts) == len(set(texts)) == 150


def test_a_key_goes_to_the_provider_of_the_model_that_it_was_given_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, object]] = []

    def connect(model: str, **options: object) -> Any:
        asked.append((model, options["api_key_env"]))
        if len(asked) == 2:
            raise KeyboardInterrupt
        return real(model, base_url=gateway.url, api_key_env="MY_KEY", connections=1)

    real: Any = connections.connect
    monkeypatch.setattr(connections, "connect", connect)
    with running_gateway(Setup(annotate=by_size({1: 0.0, 5: 0.5}))) as gateway:
        models = ["--model", "openai/gpt-4o-mini", "--models", "anthropic/claude-haiku-4-5", "--sizes", "5"]
        main(["calibrate", "in.csv", "--text", "text", "--labels", "spam,ham", "--api-key-env", "MY_KEY", *models])
    assert asked == [("openai/gpt-4o-mini", "MY_KEY"), ("anthropic/claude-haiku-4-5", None)]


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (["--sizes", "1"], "--sizes: expected a size above 1 to hold against singles"),
        (["--sizes", "5,200"], "--sizes: expected a whole number from 1 to 100, got '200'"),
        (["--shapes", "round"], "--shapes: expected line, pair or object, got 'round'"),
        (["--max-disagreement", "3"], "--max-disagreement: expected a share above 0, and 1 at most"),
        (["--gold", "none"], "no column 'none'"),
        (["--json", "found.txt"], "--json found.txt: expected a name that ends in .json"),
        (["--json", "in.csv"], "--json in.csv: this is the input; expected another file"),
        (
            ["--api-key-file", "k.json", "--json", "k.json"],
            "--json k.json: this is the key file; expected another file",
        ),
        (["--write-task", "new.yaml"], "new.yaml: expected a task file that ends in .toml or .json"),
        (["--write-task", "new.json"], "new.json: expected the ending of the task file that is copied, task.toml"),
        (["--budget-usd", "1", "--model", "nobody/knows"], "no price is known for nobody/knows"),
    ],
)
def test_what_cannot_be_tried_is_refused_before_anything_is_sent(
    folder: Path, capsys: pytest.CaptureFixture[str], more: list[str], complaint: str
) -> None:
    call = ["calibrate", "in.csv", "--text", "text", "--task", "task.toml", "--base-url", "http://127.0.0.1:9/v1"]
    assert main([*call, "--model", "m", *more]) == 2
    assert complaint in capsys.readouterr().err
    assert not Path("prompt-packer.db").exists()
