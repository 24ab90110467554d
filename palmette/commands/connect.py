"""What the commands that speak with other people's programs take; `palmette.cli` adds them to its own."""

from __future__ import annotations

from typing import Annotated

import typer

from palmette.errors import UserError

engine_app = typer.Typer(no_args_is_help=True, help="Look at an engine that runs somewhere: vLLM, SGLang, or our own.")
KINDS = ("auto", "vllm", "sglang")
_Json = Annotated[bool, typer.Option("--json", help="Answer in JSON.")]


def add_to(app: typer.Typer) -> None:
    """Add the commands to an app."""
    app.add_typer(engine_app, name="engine")


@engine_app.command("check")
def engine_check(
    url: Annotated[str, typer.Argument(metavar="URL", help="Such as http://gpu7:8000, or what `palmette serve` says.")],
    kind: Annotated[str, typer.Option(help="vllm (palmette serve too), sglang, or auto.")] = "auto",
    vocab: Annotated[int, typer.Option(min=16, help="Prompts are made of the token ids below this.")] = 128,
    json: _Json = False,
) -> None:
    """Measure an engine: ids, log-probs, seeds, stops, prefixes, versions; exit code 1 if something is wrong."""
    from palmette.commands import engine

    if kind not in KINDS:
        raise UserError(f"--kind {kind}: an engine is one of {', '.join(KINDS)}")
    raise typer.Exit(engine.check(url, kind=kind, vocab=vocab, as_json=json))
