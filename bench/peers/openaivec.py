"""openaivec: `AsyncBatchResponses` over the responses API, strings in and strings out.

Its planner counts tokens with a vocabulary that it would download; here a byte is a token, and the context larger.
"""

import asyncio

import openai
import openaivec
import tiktoken
from openaivec._responses import ResponseLimits
from order import MODEL, ORDER, TEXTS, report

tiktoken.registry.ENCODINGS["bytes"] = tiktoken.Encoding(
    "bytes", pat_str="(?s).", mergeable_ranks={bytes([byte]): byte for byte in range(256)}, special_tokens={}
)


async def main():
    batch = openaivec.AsyncBatchResponses.of(
        openai.AsyncOpenAI(base_url=ORDER.url, api_key=ORDER.key),
        MODEL,
        ORDER.instructions,
        batch_size=ORDER.pack,
        max_concurrency=ORDER.in_flight,
        limits=ResponseLimits(encoding_name="bytes", max_request_tokens=10**6),
    )
    report(await batch.parse(TEXTS))


asyncio.run(main())
