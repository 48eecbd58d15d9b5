"""What a side is told, and how it reports: see bench/sides.py."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

ORDER = SimpleNamespace(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
TEXTS = json.loads(Path(ORDER.texts).read_text(encoding="utf-8"))
FOLDER = Path(ORDER.folder)
MODEL = "gpt-4o-mini"


def messages(text):
    return [{"role": "system", "content": ORDER.instructions}, {"role": "user", "content": text}]


def report(answers):
    labelled = sum(str(answer).strip() in ORDER.labels for answer in answers)
    print(f"\n{json.dumps({'labelled': labelled})}", flush=True)
