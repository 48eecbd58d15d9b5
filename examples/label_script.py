"""Label a list of texts in one line. Runs offline: `local` is a small embedding model on your CPU, no LLM."""

import packer

texts = [
    "WINNER!! Claim your £900 prize now, call 09061701461",
    "are we still on for lunch at 1?",
    "Your parcel is out for delivery, arriving before 6 pm",
    "URGENT: your account is locked, verify at http://secure-bank.example",
    "mum says dinner is at seven, bring the cake",
]
labels = {
    "spam": "unwanted advertising, prizes, phishing, fraud",
    "delivery": "a parcel, an order or its delivery",
    "personal": "a message from a friend or the family",
}

# With a gateway: model="openai/gpt-4o-mini", base_url="https://...", budget_usd=1
for result in packer.label(texts, labels=labels, model="local", ledger=None):
    print(f"{result.label or result.error:10} {result.item.text}")
