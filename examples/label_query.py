"""Label what a query finds, and ask of the labels in SQL: duckdb reads and holds the tables. Runs offline."""

from pathlib import Path

import duckdb

import packer

MESSAGES = Path(__file__).resolve().parent / "messages.csv"

database = duckdb.connect()
query = "SELECT text FROM read_csv(?) WHERE length(text) > 60 LIMIT 12"
found = database.sql(query, params=[str(MESSAGES)]).to_arrow_table()

task = packer.read_task(MESSAGES.with_suffix(".toml"))
labelled = packer.label_frame(found, text="text", task=task, model="local", ledger=None)

# duckdb sees a variable of Python as a table
database.execute("CREATE TABLE labelled AS SELECT * FROM labelled")
counts = database.execute("SELECT label, count(*) FROM labelled GROUP BY label ORDER BY count(*) DESC, label")
for label, count in counts.fetchall():
    print(f"{count:3} {label}")
