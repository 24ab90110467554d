"""Token ids in, token ids out: ``/v1/completions`` as vLLM has it, for harnesses that tokenise on their own.

A request's ids are the prompt, and its answer is recorded in the session's tree like any other. Names and places of
`token_ids`, `prompt_token_ids` and log-probs are vLLM's (``vllm/entrypoints/openai/completion/protocol.py``), so
`palmette.engine.remote` reaches ``palmette serve`` with the same words as a vLLM.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from palmette.chat.live import Said
from palmette.chat.template import Renderer
from palmette.engine.api import Completion
from palmette.gateway import sse
from palmette.gateway.ask import Ask
from palmette.gateway.call import Call, Turn
from palmette.gateway.dialect import Dialect
from palmette.gateway.fields import (
    Fate,
    check_table,
    read_flag,
    read_integer,
    read_json,
    read_list,
    read_model,
    read_number,
    read_object,
    read_top_k,
)
from palmette.gateway.openai_chat import fingerprint, usage
from palmette.gateway.refusal import Refusal, malformed, openai_error
from palmette.gateway.told import NOTHING, Told

FIELDS: dict[str, Fate] = {
    "prompt": "honoured",  # a list of token ids; text has a dialect of its own, which knows the model's template
    "max_tokens": "honoured",  # 16 if not given, as OpenAI has it
    "stop_token_ids": "honoured",  # beside the model's own
    "stream": "honoured",
    "stream_options": "honoured",
    "logprobs": "honoured",  # 0 or 1: of the sampled tokens
    "prompt_logprobs": "honoured",  # 0: of the prompt's tokens; not while streaming
    "return_token_ids": "honoured",
    "model": "honoured",  # echoed: a session has one model, reached under any name
    "temperature": "imposed",  # the rollout decides; heeded by `palmette serve`, where there is no rollout
    "top_p": "imposed",
    "top_k": "imposed",
    "seed": "imposed",
    "n": "refused",  # unless 1
    "best_of": "refused",  # unless 1
    "echo": "refused",  # unless false
    "suffix": "refused",
    "stop": "refused",  # unless empty: one who has ids stops at ids
    "logit_bias": "refused",  # unless empty
    "min_p": "refused",  # unless 0
    "repetition_penalty": "refused",  # unless 1
    "frequency_penalty": "refused",  # unless 0
    "presence_penalty": "refused",  # unless 0
    "return_tokens_as_token_ids": "ignored",  # `tokens` are always written so
    "skip_special_tokens": "ignored",  # `text` holds all but the token that ended it
    "user": "ignored",
}
"""What becomes of each field of a request; a field not named here is ignored."""

_ALLOWED: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "stop": ([], ""),
    "logit_bias": ({},),
    "min_p": (0, 0.0),
    "repetition_penalty": (1, 1.0),
    "frequency_penalty": (0, 0.0),
    "presence_penalty": (0, 0.0),
}
_DEFAULT_MAX_TOKENS = 16
_MAX_IDS = 1 << 22


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionRequest:
    """A request of this dialect: what is asked, and in which form the answer is wanted."""

    ask: Ask
    model: str
    stream: bool
    include_usage: bool
    logprobs: bool
    return_token_ids: bool
    told: Told = NOTHING  # ids alone: nothing was told
    media_type: str = sse.MEDIA_TYPE
    ping: bytes = sse.COMMENT

    def write(self, turn: Turn, renderer: Renderer) -> bytes:
        """Return the body of a response that is not streamed."""
        done = turn.completion
        choice = self.choice(renderer.decode(_told(done, renderer)), done.token_ids, done.logprobs)
        choice["finish_reason"] = str(done.finish_reason)
        if self.return_token_ids:
            choice["prompt_token_ids"] = turn.prompt_ids
        if turn.scores is not None:
            ranked = [{str(t): {"logprob": s}} for t, s in zip(turn.prompt_ids[1:], turn.scores, strict=True)]
            choice["prompt_logprobs"] = [None, *ranked]
        body = self.envelope(turn.id) | {"choices": [choice], "usage": usage(turn)}
        return orjson.dumps(body | {"system_fingerprint": fingerprint(turn)})

    def writer(self, call: Call, renderer: Renderer) -> _Writer:
        """Return what writes a streamed response: a chunk whenever tokens come, the reason, usage if asked, [DONE]."""
        return _Writer(self, call, renderer)

    def envelope(self, identity: str) -> dict[str, Any]:
        """Return what every object of an answer has."""
        return {"id": f"cmpl-{identity}", "object": "text_completion", "created": int(time.time()), "model": self.model}

    def choice(self, text: str, token_ids: Sequence[int], logprobs: Sequence[float]) -> dict[str, Any]:
        """Return the one choice, or a part of it."""
        choice: dict[str, Any] = {"index": 0, "text": text, "logprobs": None, "finish_reason": None}
        if self.logprobs:
            choice["logprobs"] = {
                "tokens": [f"token_id:{token}" for token in token_ids],
                "token_logprobs": logprobs,
                "top_logprobs": None,
                "text_offset": [],
            }
        if self.return_token_ids:
            choice["token_ids"] = token_ids
        return choice


def read(body: bytes) -> CompletionRequest:
    """Parse a request body. Raises `Refusal` (400) naming the field that is wrong."""
    fields = read_object(read_json(body, "body"), "body")
    check_table(fields, FIELDS, _ALLOWED)
    options = fields.get("stream_options")
    options = {} if options is None else read_object(options, "stream_options")
    stream, scored = read_flag(fields, "stream"), _least(fields, "prompt_logprobs", 0)
    if stream and scored:
        raise malformed("prompt_logprobs", "not available while streaming.")
    ask = Ask(
        messages=(),
        max_tokens=read_integer(fields, "max_tokens", 1) or _DEFAULT_MAX_TOKENS,
        temperature=read_number(fields, "temperature", 0.0, 2.0),
        top_p=read_number(fields, "top_p", 0.0, 1.0),
        top_k=read_top_k(fields),
        seed=read_integer(fields, "seed"),
        prompt_ids=_ids(fields, "prompt", least=1),
        stop_ids=_ids(fields, "stop_token_ids", least=0),
        scored=scored,
    )
    return CompletionRequest(
        ask=ask,
        model=read_model(fields),
        stream=stream,
        include_usage=read_flag(options, "include_usage", "stream_options."),
        logprobs=_least(fields, "logprobs", 1),
        return_token_ids=read_flag(fields, "return_token_ids"),
    )


DIALECT = Dialect(name="openai_completions", fields=FIELDS, read=read, refuse=openai_error)


class _Writer:
    """Chunks of text, ids and log-probs; text waits for the token that completes its last character."""

    def __init__(self, request: CompletionRequest, call: Call, renderer: Renderer) -> None:
        self._request = request
        self._renderer = renderer
        self._prompt_ids = call.prompt_ids if request.return_token_ids else []
        self._envelope = request.envelope(call.id)
        self._window: list[int] = []  # tokens of the last complete text, and those behind it
        self._complete = 0

    def begin(self) -> bytes:
        """Tell nothing yet: the first tokens come at once."""
        return b""

    def said(self, pieces: Sequence[Said], token_ids: Sequence[int], logprobs: Sequence[float]) -> bytes:
        """Tell the tokens, whatever they say."""
        if not token_ids:
            return b""
        return self._chunk(self._request.choice(self._text(token_ids), token_ids, logprobs))

    def end(self, turn: Turn) -> bytes:
        """Tell the reason, usage if asked, and [DONE]."""
        self._envelope["system_fingerprint"] = fingerprint(turn)
        last = self._request.choice("", (), ()) | {"finish_reason": str(turn.completion.finish_reason)}
        chunks = [self._chunk(last)]
        if self._request.include_usage:
            chunks.append(sse.event(self._envelope | {"choices": [], "usage": usage(turn)}))
        return b"".join([*chunks, b"data: [DONE]\n\n"])

    def fail(self, refusal: Refusal) -> bytes:
        """Tell the error; there is no [DONE] after it."""
        return sse.event(openai_error(refusal))

    def _chunk(self, choice: dict[str, Any]) -> bytes:
        if self._prompt_ids:
            choice["prompt_token_ids"] = self._prompt_ids
            self._prompt_ids = []
        return sse.event(self._envelope | {"choices": [choice]})

    def _text(self, token_ids: Sequence[int]) -> str:
        self._window += [token for token in token_ids if token not in self._renderer.stop_ids]
        before = self._renderer.decode(self._window[: self._complete])
        now = self._renderer.decode(self._window)
        if now.endswith("\ufffd"):
            return ""
        self._window = self._window[self._complete :]
        self._complete = len(self._window)
        return now[len(before) :]


def _ids(fields: Mapping[str, Any], name: str, *, least: int) -> tuple[int, ...]:
    value = fields.get(name)
    if name == "prompt" and not isinstance(value, list):
        raise malformed(name, "expected a list of token ids; text goes to /v1/chat/completions.")
    ids = read_list(fields, name)
    if not least <= len(ids) <= _MAX_IDS:
        raise malformed(name, f"expected {least} to {_MAX_IDS} token ids.")
    for token in ids:
        if type(token) is not int or not 0 <= token < 1 << 31:
            raise malformed(name, "expected token ids, integers of at least 0.")
    return tuple(ids)


def _least(fields: Mapping[str, Any], name: str, most: int) -> bool:
    """Say whether a number of log-probs is asked for; more than `most` are refused."""
    value = read_integer(fields, name, 0)
    if value is not None and value > most:
        raise malformed(name, f"expected at most {most}: only the log-probs of the tokens that are there are known.")
    return value is not None


def _told(done: Completion, renderer: Renderer) -> Sequence[int]:
    return done.token_ids[:-1] if done.token_ids[-1] in renderer.stop_ids else done.token_ids
