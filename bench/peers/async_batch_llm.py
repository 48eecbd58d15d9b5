"""async-batch-llm: `process_prompts` over chat completions, with an artifact store, from which it resumes."""

import asyncio

import async_batch_llm as abl
from order import FOLDER, MODEL, ORDER, TEXTS, report


async def main():
    strategy = abl.llm(
        f"openai-compatible:{MODEL}", base_url=ORDER.url, api_key=ORDER.key, system_instruction=ORDER.instructions
    )
    identity = abl.ArtifactIdentity(provider="bench", model=MODEL)
    batch = await abl.process_prompts(
        strategy,
        [(str(number), text) for number, text in enumerate(TEXTS)],
        config=abl.ProcessorConfig(concurrency=ORDER.in_flight),
        artifact_store=abl.JsonlArtifactStore(FOLDER / "out.jsonl", identity=identity),
        resume=abl.ResumePolicy.REUSE_SUCCESSES,
    )
    report(result.output for result in batch.results)


asyncio.run(main())
