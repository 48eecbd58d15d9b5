"""flexllm: `chat_batch` to a JSONL file, from which it resumes."""

import asyncio

import flexllm
from order import FOLDER, MODEL, ORDER, TEXTS, messages, report


async def main():
    async with flexllm.LLMClient(
        model=MODEL, base_url=ORDER.url, api_key=ORDER.key, concurrency_limit=ORDER.in_flight
    ) as client:
        answers = await client.chat_batch(
            [messages(text) for text in TEXTS], output_jsonl=str(FOLDER / "out.jsonl"), show_progress=False
        )
    report(answer.content for answer in answers)


asyncio.run(main())
