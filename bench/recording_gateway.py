"""Answers whoever asks in a format that it knows, and counts what crossed the wire.

Its model is always right, so that nothing is asked twice but for the asker's own reasons. It speaks chat completions
and responses, reads the packs of ours, of ondine and of openaivec, and takes any other user message for a single. A
text is bought once its answer is made, whether or not anybody is there to take it. `GET /v1/counts` tells the counts.
Slots and buckets are those of tests/gateway.
"""

import argparse
import asyncio
import json
import math
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aiohttp import web

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from gateway.limits import Bucket, Slots
from gateway.server import write_answer
from gateway_server import completion

from packer.prompts import read_user

COMPACT = (",", ":")


class RecordingGateway:
    """`texts` maps what may be asked to its label; the limits are None for none."""

    def __init__(self, texts: dict[str, str], options: argparse.Namespace) -> None:
        self.labels = texts
        self.seconds = options.seconds
        self.queues = options.queue
        self.bucket = Bucket(options.rpm)
        self.slots = Slots(((0.0, options.slots),) if options.slots else ())
        self.freed = asyncio.Condition()
        self.counts: Counter[str] = Counter()
        self.bought: Counter[str] = Counter()
        self.statuses: Counter[int] = Counter()
        self.began = time.monotonic()
        self.first = self.last = 0.0
        self.most = 0

    @property
    def now(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self.began

    async def tell(self, _: web.Request) -> web.Response:
        """The counts."""
        statuses = {str(status): number for status, number in self.statuses.items()}
        told = {"bytes": self.counts, "statuses": statuses, "seconds": self.last - self.first, "most": self.most}
        return web.json_response(
            told | {"bought": self.bought.total(), "texts": len(self.bought), "idle": self.now - self.last}
        )

    async def serve(self, request: web.Request) -> web.Response:
        """Let in, wait, answer."""
        body = json.loads(await request.read())
        self.first = self.first or self.now
        wait = self.bucket.take(1, self.now)
        headers = self.bucket.headers("requests")
        if wait:
            return self._refuse("Rate limit reached", wait, headers)
        if not await self._enter():
            return self._refuse("Too many requests at once", self.seconds, headers)
        try:
            await asyncio.sleep(self.seconds)
        finally:
            async with self.freed:
                self.slots.taken -= 1
                self.freed.notify()
        reply = self._answer(request.path, body)
        self.statuses[200] += 1
        self.last = self.now
        return web.json_response(reply, headers=headers)

    async def _enter(self) -> bool:
        async with self.freed:
            if not self.slots.has_room(self.now):
                if not self.queues:
                    return False
                await self.freed.wait_for(lambda: self.slots.has_room(self.now))
            self.slots.taken += 1
            self.most = max(self.most, self.slots.taken)
        return True

    def _refuse(self, message: str, wait: float, headers: dict[str, str]) -> web.Response:
        self.statuses[429] += 1
        told = {"Retry-After": str(max(1, math.ceil(wait)))}
        error = {"error": {"message": message, "type": "rate_limit_exceeded", "code": "rate_limit_exceeded"}}
        return web.json_response(error, status=429, headers=headers | told)

    def _answer(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        if path.endswith("/responses"):
            given = body["input"]
            messages = given if isinstance(given, list) else [{"role": "user", "content": given}]
            if body.get("instructions"):
                messages = [{"role": "system", "content": body["instructions"]}, *messages]
            constraint = body.get("text", {}).get("format", {})
        else:
            messages, constraint = body["messages"], body.get("response_format", {})
        spoken = [(message["role"], _plain(message["content"])) for message in messages]
        system = "".join(text for role, text in spoken if role in {"system", "developer"})
        user = "".join(text for role, text in spoken if role == "user")
        texts, answer = self._read(system, user)
        if texts:
            schema = constraint if constraint.get("type") == "json_schema" else None
            extras = [part for part in (schema, body.get("tools")) if part]
            self.counts["requests"] += 1
            self.counts["system"] += _size(system)
            self.counts["user"] += _size(user)
            self.counts["schema"] += sum(
                _size(json.dumps(part, ensure_ascii=False, separators=COMPACT)) for part in extras
            )
            self.counts["texts"] += sum(map(_size, texts))
            self.counts["answers"] += _size(answer)
            self.bought.update(texts)
        else:
            self.counts["strange"] += 1
        tokens = (_size(system + user) // 4, max(1, _size(answer) // 4))
        return _respond(answer, tokens) if path.endswith("/responses") else _complete(answer, tokens)

    def _read(self, system: str, user: str) -> tuple[Sequence[str], str]:
        """The texts that are asked, and the right answer; no texts where nothing is known."""
        if user in self.labels:
            return [user], self.labels[user]
        if user.startswith("pack: "):
            nonce, texts = read_user(user)
            return texts, write_answer(system, nonce, [self.labels[text] for text in texts])
        if '"user_messages"' in user:
            rows = json.loads(user)["user_messages"]
            answers = [{"id": row["id"], "body": self.labels[row["body"]]} for row in rows]
            return [row["body"] for row in rows], json.dumps({"assistant_messages": answers}, separators=COMPACT)
        if "INPUT:\n[" in user:
            rows = json.JSONDecoder().raw_decode(user, user.index("INPUT:\n[") + 7)[0]
            answers = [{"id": row["id"], "result": self.labels[row["input"]]} for row in rows]
            return [row["input"] for row in rows], json.dumps(answers, separators=COMPACT)
        return [], "ok"


def _plain(content: Any) -> str:
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def _size(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def _complete(text: str, tokens: tuple[int, int]) -> dict[str, Any]:
    usage = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1], "total_tokens": sum(tokens)}
    return completion(text, usage=usage)


def _respond(text: str, tokens: tuple[int, int]) -> dict[str, Any]:
    said = {"type": "output_text", "text": text, "annotations": []}
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "model": "m",
        "status": "completed",
        "error": None,
        "output": [{"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [said]}],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": {
            "input_tokens": tokens[0],
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": tokens[1],
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": sum(tokens),
        },
    }


async def serve(options: argparse.Namespace) -> None:
    texts = json.loads(options.texts.read_text(encoding="utf-8"))
    gateway = RecordingGateway(texts, options)
    application = web.Application(client_max_size=2**26)
    application.router.add_get("/v1/counts", gateway.tell)
    for path in ("/v1/chat/completions", "/v1/responses"):
        application.router.add_post(path, gateway.serve)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=4096).start()
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    print(f"http://127.0.0.1:{runner.addresses[0][1]}/v1", flush=True)
    await ended.wait()
    await runner.cleanup()


def main() -> None:
    parser = argparse.ArgumentParser(description="A gateway on loopback that is always right and counts.")
    parser.add_argument("texts", type=Path, help="a JSON object: each text and its label")
    parser.add_argument("--seconds", type=float, default=0.0, help="that a request takes")
    parser.add_argument("--slots", type=int, help="requests at once; the rest gets 429, or waits with --queue")
    parser.add_argument("--queue", action="store_true", help="what finds no slot waits")
    parser.add_argument("--rpm", type=int, help="requests a minute; the rest gets 429")
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
