"""curator: an `LLM` with its OpenAI back end, and its cache on disk, from which it resumes.

It paces itself by a gateway's headers; where there are none it would send 200 requests and 100,000 tokens a minute, so
it is told of more.

Its token counter wants a vocabulary that it would download; litellm, which it brings along, has it in a file.
"""

import os
from importlib.util import find_spec
from pathlib import Path

os.environ["TELEMETRY_ENABLED"] = "False"
litellm = Path(find_spec("litellm").origin).parent
os.environ["TIKTOKEN_CACHE_DIR"] = str(litellm / "litellm_core_utils" / "tokenizers")

from bespokelabs import curator  # noqa: E402  it reads the environment
from order import FOLDER, MODEL, ORDER, TEXTS, report  # noqa: E402


class Labeller(curator.LLM):
    def prompt(self, row):
        return row["text"]

    def parse(self, row, response):  # noqa: ARG002  its signature
        return [{"label": response}]


pace = {} if ORDER.headers else {"max_requests_per_minute": 100_000}
labeller = Labeller(
    model_name=MODEL,
    backend="openai",
    backend_params={
        "base_url": ORDER.url,
        "api_key": ORDER.key,
        "max_concurrent_requests": ORDER.in_flight,
        "max_tokens_per_minute": 1_000_000_000,
        **pace,
    },
    system_prompt=ORDER.instructions,
)
answers = labeller([{"text": text} for text in TEXTS], working_dir=str(FOLDER / "cache"))
report(getattr(answers, "dataset", answers)["label"])
