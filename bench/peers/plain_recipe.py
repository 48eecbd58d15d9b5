"""What most scripts do: a semaphore of 10, one text a request, and doubled waits with jitter, six times."""

import asyncio
import random

import openai
from order import MODEL, ORDER, TEXTS, messages, report


async def ask(client, gate, text):
    async with gate:
        for attempt in range(7):
            try:
                reply = await client.chat.completions.create(model=MODEL, messages=messages(text), max_tokens=5)
                return reply.choices[0].message.content
            except openai.OpenAIError:
                await asyncio.sleep(random.random() + 2**attempt)
        return None


async def main():
    gate = asyncio.Semaphore(10)
    async with openai.AsyncOpenAI(base_url=ORDER.url, api_key=ORDER.key, max_retries=0) as client:
        report(await asyncio.gather(*(ask(client, gate, text) for text in TEXTS)))


asyncio.run(main())
