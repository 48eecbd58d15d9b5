"""saturate: `pump` with its own search for the window, to a folder of Parquet files, from which it resumes."""

import saturate
from order import FOLDER, MODEL, ORDER, TEXTS, messages, report

OUT = FOLDER / "out"

saturate.pump(
    [{"text": text} for text in TEXTS],
    lambda row: {"model": MODEL, "messages": messages(row["text"]), "max_tokens": 5},
    lambda _, reply: {"label": reply["choices"][0]["message"]["content"]},
    ORDER.url,
    str(OUT),
    headers={"Authorization": f"Bearer {ORDER.key}"},
    retry_errors=True,
)
report(row.get("label") for _, row in saturate.read_output(str(OUT)))
