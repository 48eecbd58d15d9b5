"""More than one label: every text gets a record, checked against a pydantic model. Runs offline."""

from typing import Literal

import pydantic

import packer


class Ticket(pydantic.BaseModel):
    """What the help desk wants to know about a message."""

    topic: Literal["a late delivery", "a broken product", "a question about the bill"]
    mood: Literal["angry", "friendly"]


texts = [
    "This is outrageous! The screen was cracked when I opened the box!!",
    "Hi there, could you kindly tell me why I was charged twice in March? Thank you so much!",
    "Three weeks and still no parcel. I am furious.",
]
task = packer.Task(record=Ticket, instructions="Messages to the help desk of an online shop.")

for result in packer.label(texts, task=task, model="local", ledger=None):
    ticket = result.record
    print(f"{ticket.topic:26} {ticket.mood:10} {result.item.text}" if ticket else result.error)
