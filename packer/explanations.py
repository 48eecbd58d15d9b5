"""What `--help` says of each command, besides its options: what it is for, how it is called, how it ends."""

ABOUT = """\
Label many short texts with an LLM: packed into few requests, checked one by
one, never bought twice.
"""
EXIT_CODES = """\
exit codes:
  0  every item is labelled
  2  the call or the input is wrong; nothing was sent
  3  finished, some items failed
  4  stopped before the end; the same command again goes on
  5  the ledger cannot be used
"""
LABEL_EXAMPLES = """\
examples:
  prompt-packer label messages.csv --text text --labels spam,ham \\
      --model local --output labelled.csv
  prompt-packer label tickets.jsonl --text body --task task.toml \\
      --model openai/gpt-4o-mini --base-url https://modeldatabase.com/v1 \\
      --api-key-env MDB_API_KEY --budget-usd 5 --output labelled.jsonl
"""
PLAN_ABOUT = """\
Say what a job would send and cost: requests, tokens, money, and whether packing
pays. Nothing is sent, no key is needed, and a job that runs is not disturbed.

It takes the command line of label: write plan where label stands.
"""
PLAN_EXAMPLES = """\
examples:
  prompt-packer plan messages.csv --text text --labels spam,ham \\
      --model openai/gpt-4o-mini --budget-usd 1
  prompt-packer plan tickets.jsonl --text body --task task.toml \\
      --model my/model --price-input 0.10 --price-output 0.40 --max-items 50
"""
MODELS_ABOUT = """\
Compare what a whole table would cost with several models, at their list prices:
in packs, one text a request, and through the provider's Batch API. Nothing is
sent, and the ledger is not looked at.
"""
MODELS_EXAMPLES = """\
examples:
  prompt-packer models messages.csv --text text --labels spam,ham
  prompt-packer models tickets.jsonl --text body --task task.toml \\
      --models openai/gpt-4o-mini,google/gemini-2.5-flash-lite
"""
CALIBRATE_ABOUT = """\
Find out with some of your own texts how large packs may be: each is asked alone
and in packs that grow, until packs are no longer sure to give the same labels.
The plan and its cost are shown first; then it asks, and ends with one sentence
that says what to do. What a task file names with --task is settled in it.
"""
CALIBRATE_EXAMPLES = """\
examples:
  prompt-packer calibrate messages.csv --text text --task task.toml \\
      --model openai/gpt-4o-mini --budget-usd 1
  prompt-packer calibrate tickets.jsonl --text body --labels spam,ham \\
      --model openai/gpt-4o-mini --sizes 8,16,32 --write-task tickets.toml
exit codes:
  0  a setting was found
  2  the call or the input is wrong; nothing was sent
  3  not enough items to tell
  4  stopped before the end; the same command again goes on
  5  the ledger cannot be used
"""
EVALUATE_ABOUT = """\
Hold the labels of a table that label wrote against a column of right ones:
accuracy, macro F1, precision and recall, what is confused with what, and where
the errors sit. Nothing is sent.

--text names the texts that are shown beside errors (default: the column text).
--by position and --by pack-size also need what label was asked: --labels or
--task, --model, and its ledger.
"""
EVALUATE_EXAMPLES = """\
examples:
  prompt-packer evaluate labelled.csv --gold gold
  prompt-packer evaluate labelled.csv --gold gold --by position --by length \\
      --labels spam,ham --model openai/gpt-4o-mini
"""
REPORT_ABOUT = """\
Draw the page of a report: one HTML file with plots, which needs no network and
runs no script. The report is what label --report wrote; it is checked first.
"""
DASHBOARD_ABOUT = """\
Show the jobs of a ledger in a browser on this machine: what each of them did,
took and cost. The ledger is only read, also while a job runs.
"""
LEDGER_ABOUT = """\
Show what a ledger holds: answers, requests, money. It is only read, also
while a job runs.

  prompt-packer ledger [FILE]          how things stand
  prompt-packer ledger verify [FILE]   read every row and say what is wrong
  prompt-packer ledger export [FILE]   every answer as JSON lines
  prompt-packer ledger doubt [FILE]    requests that were sent and got lost
"""
