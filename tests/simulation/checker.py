"""Every claim is a sentence of the laws, and a function that finds where a history breaks it.

Nothing here knows how packer works, only what it promises: the gateway's own log, the screen and the disk are held
against each other. `CLAIMS` lists the claims by name; a claim yields one sentence for each violation.
"""

from collections.abc import Mapping

from simulation.claims_ends import (
    a_pack_costs_a_bounded_number,
    a_run_costs_a_bounded_number,
    a_run_ends_in_time,
    a_text_costs_a_bounded_number,
    an_attempt_stays_as_it_was_closed,
    an_ended_run_leaves_nothing_open,
    charge_sources_are_the_runs,
    levels_add_up,
    nothing_leaves_after_a_charge_over_its_reserve,
    nothing_leaves_after_a_fatal_refusal,
    requests_are_the_runs_attempts,
    silence_ends_a_run,
    the_ledger_has_no_problems,
    what_was_open_is_in_doubt,
)
from simulation.claims_items import (
    a_label_is_the_right_one,
    a_state_is_whole,
    an_empty_text_fails,
    copies_end_alike,
    each_text_is_shown_once,
    no_label_out_of_nothing,
    only_the_ledger_ends_a_run_early,
    pending_means_stopped,
    requests_are_numbered,
    requests_hold_the_jobs_texts,
    statistics_count_what_was_shown,
    the_last_run_labels_everything,
    time_goes_forward,
)
from simulation.claims_money import (
    a_label_is_committed_before_it_is_shown,
    a_lost_reply_keeps_its_reserve,
    a_request_is_written_down_first,
    an_answer_is_committed_with_its_charge,
    an_answer_stays,
    an_answer_that_was_booked_is_kept,
    doubt_is_shown_only_where_it_is,
    nothing_is_charged_that_was_not_sent,
    only_what_cost_nothing_is_freed,
    the_bill_lies_within_what_is_booked,
    the_bill_stays_under_the_cap,
    the_ledger_stays_under_the_cap,
    the_ledgers_sums_add_up,
    the_statistics_sums_are_the_ledgers,
    unknown_is_never_zero,
    what_comes_into_doubt_is_not_sent_again,
    what_has_an_answer_is_not_sent,
    what_is_in_doubt_is_shown_so,
    what_is_known_was_there_before,
    what_was_answered_is_not_bought_again,
    what_was_in_doubt_is_not_sent,
    what_was_shown_is_not_sent,
    what_was_told_is_booked,
)
from simulation.evidence import Claim, Evidence
from simulation.history import History


def check(history: History) -> list[str]:
    """What is wrong with a history: one sentence for each violation of a claim; empty where all claims hold."""
    evidence = Evidence(history)
    return [f"{name}: {sentence}" for name, claim in CLAIMS.items() for sentence in claim(evidence)]


CLAIMS: Mapping[str, Claim] = {
    "record: requests are numbered through all runs": requests_are_numbered,
    "record: a run ends by itself, by a kill, or because the ledger cannot be used": only_the_ledger_ends_a_run_early,
    "record: requests leave and results come in the order of time": time_goes_forward,
    "law 1: each text is shown once, in the input's order": each_text_is_shown_once,
    "law 1: what is labelled has a label, anything else a reason": a_state_is_whole,
    "law 1: the statistics count what was shown": statistics_count_what_was_shown,
    "law 1: an empty text fails and is never sent": an_empty_text_fails,
    "law 1: copies of a text end alike": copies_end_alike,
    "law 1: a text is pending only where the job stopped": pending_means_stopped,
    "law 2: a label is the right one": a_label_is_the_right_one,
    "law 2: no label comes out of nothing": no_label_out_of_nothing,
    "law 2: a request asks for texts of the job, each once": requests_hold_the_jobs_texts,
    "law 3: an answer that was committed stays": an_answer_stays,
    "law 3: a label is committed before it is shown": a_label_is_committed_before_it_is_shown,
    "law 3: an answer is committed with its charge": an_answer_is_committed_with_its_charge,
    "law 3: an answer whose request was booked is kept": an_answer_that_was_booked_is_kept,
    "law 3: what is shown as known was known": what_is_known_was_there_before,
    "law 3: what had an answer when the run began is not sent": what_has_an_answer_is_not_sent,
    "law 3: what was shown as labelled is not sent": what_was_shown_is_not_sent,
    "law 3: what a run has bought it does not buy again": what_was_answered_is_not_bought_again,
    "law 4: what is billed stays under the cap": the_bill_stays_under_the_cap,
    "law 4: what is booked stays under the cap": the_ledger_stays_under_the_cap,
    "law 4: a request is written down with its worst cost before it leaves": a_request_is_written_down_first,
    "law 4: a charge that was told is booked exactly": what_was_told_is_booked,
    "law 4: a reply that was lost stays booked at its reserve": a_lost_reply_keeps_its_reserve,
    "law 4: unknown is never zero": unknown_is_never_zero,
    "law 4: a reserve is freed only where nothing was billed": only_what_cost_nothing_is_freed,
    "law 4: nothing is charged that was not sent": nothing_is_charged_that_was_not_sent,
    "law 4: the true bill lies within what is booked": the_bill_lies_within_what_is_booked,
    "law 4: the ledger's sums are those of its attempts": the_ledgers_sums_add_up,
    "law 4: the statistics' sums are the ledger's": the_statistics_sums_are_the_ledgers,
    "hold: what was in doubt is not sent": what_was_in_doubt_is_not_sent,
    "hold: what comes into doubt is not sent again": what_comes_into_doubt_is_not_sent_again,
    "hold: what is in doubt is shown so": what_is_in_doubt_is_shown_so,
    "hold: only what is in doubt is shown so": doubt_is_shown_only_where_it_is,
    "law 5: one pack costs a bounded number of requests": a_pack_costs_a_bounded_number,
    "law 5: one text costs a bounded number of requests": a_text_costs_a_bounded_number,
    "law 5: one run costs a bounded number of requests": a_run_costs_a_bounded_number,
    "law 6: nothing leaves after a fatal refusal": nothing_leaves_after_a_fatal_refusal,
    "law 6: nothing leaves after a charge over its reserve": nothing_leaves_after_a_charge_over_its_reserve,
    "ledger: it has no problems": the_ledger_has_no_problems,
    "ledger: an ended run leaves no attempt open": an_ended_run_leaves_nothing_open,
    "ledger: what was open is in doubt, with its reserve": what_was_open_is_in_doubt,
    "ledger: an attempt stays as it was closed": an_attempt_stays_as_it_was_closed,
    "last: every text that can be labelled is labelled": the_last_run_labels_everything,
    "statistics: requests are the run's attempts": requests_are_the_runs_attempts,
    "statistics: charge sources are those of the run's attempts": charge_sources_are_the_runs,
    "statistics: levels add up": levels_add_up,
    "clock: a run ends in time": a_run_ends_in_time,
    "clock: silence ends a run": silence_ends_a_run,
}
