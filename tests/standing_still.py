"""The statistics of a job that has not begun, for tests that change what they are about."""

from decimal import Decimal

from packer.events import Statistics
from packer.usage import Usage

NOTHING = Statistics(
    items=0,
    labelled=0,
    failed=0,
    doubt=0,
    pending=0,
    known=0,
    packs=0,
    requests=0,
    in_flight=0,
    limit=1,
    pack_size=20,
    usage=Usage(0, 0),
    settled=Decimal(0),
    in_doubt=Decimal(0),
    assumed=Decimal(0),
    reserved=Decimal(0),
    unpriced=0,
    doubt_requests=0,
    doubt_texts=0,
    balance=None,
    charge_sources={},
    levels=(),
    seconds=0.0,
    stopped=None,
    refused_settings=(),
    canaries_asked=0,
    canary_hits=0,
)
