"""A fake engine in a process of its own: one fixed set of answers, as text for relays and as token ids for a gateway.

    POST /v1/chat/completions   Chat Completions: the body is read and not looked into
    POST /generate              int32 ids of the prompt; the answer is int32 ids _T, then float32 log-probs _T

Started by `benchmarks/gateway.py`; prints its port. With ``--record`` every call of the second route is written to a
file, in frames of two lengths (prompt, answer) and the bytes, so that a tree can be compared with it token for token.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import struct
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import uvloop

from palmette.chat.message import Message, ToolCall
from palmette.chat.template import Renderer

NUM_ANSWERS = 64


class Answers:
    """What the engine says, by the length of what it is told: a call of a shell tool, as text and as ids."""

    def __init__(self, renderer: Renderer) -> None:
        self.texts: list[bytes] = []
        self.ids: list[bytes] = []
        user = Message(role="user", content="?")
        for number in range(NUM_ANSWERS):
            arguments = {"command": f"sed -n '{number * 100},{number * 100 + 99}p' src/module_{number}/parser.py"}
            content = f"Let me look at the next hundred lines of module {number} before I change it."
            call = ToolCall(id="call00000", name="bash", arguments=arguments)
            said = Message(role="assistant", content=content, tool_calls=(call,))
            ids = np.array(renderer.completion([user], said, ()), np.int32)
            logprobs = -(1 + np.arange(len(ids)) % 97).astype(np.float32) / 64
            self.ids.append(ids.tobytes() + logprobs.tobytes())
            function = {"name": "bash", "arguments": json.dumps(arguments)}
            message = {
                "role": "assistant",
                "content": content,
                "tool_calls": [{"id": "call00000", "type": "function", "function": function}],
            }
            body = {
                "id": "chatcmpl-0",
                "object": "chat.completion",
                "created": 0,
                "model": "m",
                "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}],
                "usage": {"prompt_tokens": 1, "completion_tokens": len(ids), "total_tokens": 1 + len(ids)},
            }
            self.texts.append(json.dumps(body).encode())


class Connection(asyncio.Protocol):
    """One kept-alive connection; requests come one after the other."""

    def __init__(self, answers: Answers, delay_s: float, record: BinaryIO | None) -> None:
        self._answers, self._delay_s, self._record = answers, delay_s, record
        self._got = bytearray()
        self._need: int | None = None  # bytes of the body under way
        self._path = b""
        self._transport: Any = None

    def connection_made(self, transport: Any) -> None:
        """Keep the transport."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer as soon as a request is whole."""
        self._got += data
        while True:
            if self._need is None:
                end = self._got.find(b"\r\n\r\n")
                if end < 0:
                    return
                head = bytes(self._got[:end]).lower()
                self._path = head.split(b" ", 2)[1]
                at = head.find(b"content-length:")
                self._need = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
                del self._got[: end + 4]
            if len(self._got) < self._need:
                return
            prompt = bytes(self._got[: self._need]) if self._path == b"/generate" else b""
            number = self._need // 4 % NUM_ANSWERS
            del self._got[: self._need]
            self._need = None
            answer = self._answers.ids[number] if prompt else self._answers.texts[number]
            if prompt and self._record:
                self._record.write(struct.pack("<II", len(prompt), len(answer)) + prompt + answer)
            kind = b"application/octet-stream" if prompt else b"application/json"
            head = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n" % (kind, len(answer))
            if self._delay_s:
                asyncio.get_running_loop().call_later(self._delay_s, self._transport.write, head + answer)
            else:
                self._transport.write(head + answer)


async def serve(answers: Answers, delay_s: float, record: Path | None) -> None:
    """Serve until the process is told to end."""
    loop = asyncio.get_running_loop()
    file = record.open("wb", buffering=0) if record else None
    server = await loop.create_server(lambda: Connection(answers, delay_s, file), "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--delay-ms", type=float, default=0.0)
    parser.add_argument("--record", type=Path)
    given = parser.parse_args()
    uvloop.run(serve(Answers(Renderer.from_dir(given.model)), given.delay_ms / 1000, given.record))
