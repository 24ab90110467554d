"""What the commands that speak with other people's programs take; `palmette.cli` adds them to its own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from palmette.errors import UserError

engine_app = typer.Typer(no_args_is_help=True, help="Look at an engine that runs somewhere: vLLM, SGLang, or our own.")
KINDS = ("auto", "vllm", "sglang")
_Runs = Annotated[Path, typer.Option(metavar="DIR", help="Where runs are kept.")]
_Json = Annotated[bool, typer.Option("--json", help="Answer in JSON.")]


def add_to(app: typer.Typer) -> None:
    """Add the commands to an app."""
    app.add_typer(engine_app, name="engine")
    app.command("export")(export)
    app.command("import")(import_)
    app.command("proxy")(proxy)


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


def export(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Name or directory of a run.")],
    form: Annotated[str, typer.Option("--format", help="atif, swebench (predictions), or jsonl.")],
    out: Annotated[Path, typer.Option(help="Where to write: a directory for atif, a file for the others.")],
    stage: Annotated[str, typer.Option(help="Only the rollouts of this stage.")] = "",
    model: Annotated[str, typer.Option(help="What to call the model; the run's name if not given.")] = "",
    runs: _Runs = Path("runs"),
) -> None:
    """Write a run's rollouts for other tools to read."""
    from palmette.commands import exchange

    exchange.export(run, runs=runs, form=form, out=out, stage=stage, model=model)


def import_(
    files: Annotated[list[Path], typer.Argument(metavar="FILE", help="ATIF documents, or directories of them.")],
    name: Annotated[str, typer.Option(help="Name of the run to make.")] = "import",
    runs: _Runs = Path("runs"),
) -> None:
    """Make a run of trajectories in ATIF, token for token where they hold the tokens."""
    from palmette.commands import exchange

    exchange.import_files(files, name=name, runs=runs)


def proxy(
    upstream: Annotated[str, typer.Argument(metavar="URL", help="The endpoint, such as https://api.openai.com/v1.")],
    name: Annotated[str, typer.Option(help="Name of the run that keeps what is said.")] = "proxy",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8001,
    key: Annotated[str, typer.Option(help="API key to ask clients for; any is accepted if not given.")] = "",
    key_variable: Annotated[
        str, typer.Option(help="Variable of the environment with the endpoint's key; else clients' own is passed on.")
    ] = "PALMETTE_UPSTREAM_KEY",
    runs: _Runs = Path("runs"),
) -> None:
    """Stand before an endpoint and keep what agents say to it, as text (not token for token)."""
    from palmette.commands import proxy as command

    command.proxy(upstream, host=host, port=port, key=key, key_variable=key_variable, name=name, runs=runs)
