"""Where whole jobs are run, or simulated, or a face is shown, no branch is counted: smaller tests run each of the core.

Coverage's tracer makes Python three times as slow. Single tests that are long are marked `no_cover` where they stand.
"""

UNCOUNTED = {
    "test_batch_kills",
    "test_calibrate",
    "test_cli",
    "test_command_disk",
    "test_dashboard_pages",
    "test_distributed",
    "test_doubting",
    "test_evaluate",
    "test_examples",
    "test_faults",
    "test_kills",
    "test_ledger_crash",
    "test_lender",
    "test_notebook",
    "test_page",
    "test_parquet",
    "test_plan",
    "test_rehearsal",
    "test_runner_laws",
    "test_screen",
    "test_siblings",
    "test_simulation",
    "test_tables",
    "test_tutorial",
    "test_untrusted",
}
