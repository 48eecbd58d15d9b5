"""What can become of a request, by name, and which of it a job survives. A fate is drawn; it never looks at a job."""

from dataclasses import dataclass

from packer.errors import Failure

# What a reply may be, where one arrives; "right" is the right one
REPLIES = (
    "right",
    "shifted",  # every number one too high
    "foreign",  # another pack's nonce
    "prose",  # a sentence
    "lost row",  # the last row is missing
    "swapped",  # rows in another order, each under its own number
    "unknown label",  # in the first row
    "truncated",  # the text ends in the middle, at max_tokens
    "filtered",  # a content filter ended it: no text
    "garbled charge",  # right, but its charge header is no amount
    "over the reserve",  # right, and billed for more than any honest bill
    "stale usage",  # right, its usage is another request's
)
# A request that fails is billed never, always, or as a coin decides
BILLED = {
    Failure.LOST: None,
    Failure.OVERLOADED: None,
    Failure.CONFLICT: None,
    Failure.CUT: True,
    Failure.MALFORMED: None,
}
# Nothing reaches the gateway
UNSENT = {Failure.NOT_SENT, Failure.UNTRUSTED}
# They end a job at once
FATAL = {Failure.KEY_REFUSED, Failure.QUOTA, Failure.UNKNOWN_MODEL, Failure.UNTRUSTED}
# a batch is cancelled, and there are none here
FATES = (*REPLIES, *(failure.value for failure in Failure if failure is not Failure.CANCELLED))


@dataclass(frozen=True)
class Mix:
    """How often which fate comes: `right` of 100, the rest evenly of `others`; none where there are no others."""

    right: int
    others: tuple[str, ...]


WELL = Mix(100, ())
