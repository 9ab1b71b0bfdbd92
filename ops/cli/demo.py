"""demo: the whole stack with a simulated Ollama, and a proof that it works."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

import rich_click as click

from ops.cli.session import STATE_DIR_NAME, state_home
from ops.cli.table import print_table
from ops.cli.up import Address, redis_server, workers
from ops.embedded.options import LOOPBACK, HostPort, StackOptions
from ops.embedded.progress import Progress
from ops.host.client_environment import environment

if TYPE_CHECKING:
    from ops.demo.proof import Comparison, OperatorCommands
    from ops.embedded.child import Child
    from ops.embedded.stack import Environment, Stack
    from ops.embedded.state import StateDirectory

TENANT = "demo"
# Slow enough that the answer visibly streams.
_TOKENS_PER_S = "150"
_KEY_EXPIRES = "30d"
# The prefix of a token count in the audit row, and in the simulated Ollama's own count.
_TOKEN_KINDS = (("input", "prompt"), ("output", "output"))


@click.command("demo")
@click.option("--once", is_flag=True, help="Stop after the proof. Exit code 1 if a part of it failed.")
@click.option(
    "--state-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Directory for state, secrets and logs. Default: ~/.local/state/neuronetz-gateway-demo.",
)
@click.option("--listen", type=Address(), help="Address to serve on. Default: a free loopback port.")
@workers
@redis_server
@state_home
def demo(
    once: bool,
    state_dir: Path | None,
    listen: HostPort | None,
    workers: int,
    redis_server: Path | None,
    state_home: Path,
) -> None:
    """Run the whole gateway with a simulated Ollama, stream two chats and show their audit rows."""
    progress = Progress()
    progress.step("Loading")
    # As in `up`: these imports take a second or two, and no other command needs them.
    from ops.embedded import foreground, services
    from ops.host import probes

    ollama = HostPort(LOOPBACK, 0).with_free_port()

    def simulated_ollama(state: StateDirectory, env: Environment) -> Sequence[Child]:
        module = ("ops.simulator", "--listen", str(ollama), "--tokens-per-s", _TOKENS_PER_S)
        return [
            services.python_service("ollama", module, state, env, probes.returns_ok(f"http://{ollama}/api/version"))
        ]

    async def use(stack: Stack) -> None:
        key = await _prove(stack, progress, f"http://{ollama}")
        _print_next_steps(stack, key)
        if once:
            click.echo("\nThis gateway stops now; without --once (ONCE=1) it keeps serving for these commands.")
        else:
            click.echo("\nServing until Ctrl-C.")
            await foreground.wait_for_interruption()

    options = StackOptions(
        state_dir=state_dir or state_home.expanduser() / f"{STATE_DIR_NAME}-demo",
        listen=listen or HostPort(LOOPBACK, 0),
        backends=(("demo", f"http://{ollama}"),),
        workers=workers,
        tls=HostPort(LOOPBACK, 0),
        redis_server=redis_server,
        defaults={"PLAYGROUND_ENABLED": "true"},
    )
    foreground.serve(options, progress, use, simulated_ollama)


async def _prove(stack: Stack, progress: Progress, backend_url: str) -> str:
    """Streams two chats and compares their audit rows. Returns the key that it created."""
    from ops.demo import proof

    at = stack.endpoints
    click.echo(f"ready {at.url}")
    progress.step("Creating a tenant and a key")
    commands = proof.OperatorCommands(at.env_file, stack.env)
    key = await _create_key(commands)
    progress.done()

    edge, trust = (at.url, None) if at.tls_url is None else (at.tls_url, stack.authority_root)
    answers = []
    for chat, route in (
        (proof.native_chat(edge, "Why would anyone count tokens?", trust), "through Caddy and Envoy"),
        (proof.openai_chat(at.url, "What does a gateway do all day?"), "through Envoy"),
    ):
        click.secho(f"\n{chat.surface} {chat.path}, {route}", bold=True)
        click.echo(f"> {chat.prompt}")
        answers.append(await proof.stream(chat, key, lambda text: click.echo(text, nl=False)))
        click.echo(f"\n(X-Request-ID: {answers[-1].request_id})")

    progress.step("Reading the audit rows")
    comparisons = await proof.compare(answers, backend_url, commands)
    progress.done()
    click.secho("\nThe audit rows in PostgreSQL, with the backend's own counts", bold=True)
    _print_comparisons(comparisons)
    discrepancies = [f"{each.answer.chat.path}: {text}" for each in comparisons for text in each.discrepancies()]
    if discrepancies:
        raise proof.ProofFailed("; ".join(discrepancies))
    click.echo("Both rows agree with the counts of the backend.")
    return key


async def _create_key(commands: OperatorCommands) -> str:
    names = {tenant["name"] for tenant in await commands.json("list-tenants", "--json")}
    if TENANT not in names:
        await commands.json("create-tenant", "--name", TENANT, "--allow-all-models", "--json")
    name = f"demo {datetime.now(UTC):%Y-%m-%d %H:%M:%S.%f}"
    created = await commands.json("create-key", "--tenant", TENANT, "--name", name, "--expires", _KEY_EXPIRES, "--json")
    return str(created["key"])


def _print_comparisons(comparisons: Sequence[Comparison]) -> None:
    rows = []
    for each in comparisons:
        row, backend = each.audit_row or {}, each.backend_record or {}
        tokens = [(row.get(f"{side}_tokens"), backend.get(f"{name}_tokens")) for side, name in _TOKEN_KINDS]
        rows.append((each.answer.chat.path, row.get("outcome"), *chain(*tokens), row.get("usage_source")))
    counts = (">input", ">of backend", ">output", ">of backend")
    print_table(("path", "outcome", *counts, "source"), rows, empty="no rows")


def _print_next_steps(stack: Stack, key: str) -> None:
    from ops.demo import proof

    at = stack.endpoints
    click.secho("\nTry it yourself", bold=True)
    click.echo(environment(at.url, key))
    body = f'{{"model": "{proof.MODEL}", "messages": [{{"role": "user", "content": "Hello!"}}]}}'
    click.echo(f"curl -N {at.url}/api/chat -H \"Authorization: Bearer $GATEWAY_API_KEY\" -d '{body}'")
    if at.tls_url is not None:
        curl = f"curl -N --cacert {quote(str(stack.authority_root))} {at.tls_url}/v1/chat/completions"
        streamed = body.replace("{", '{"stream": true, ', 1)
        click.echo(
            f"{curl} -H \"Authorization: Bearer $GATEWAY_API_KEY\" -H 'Content-Type: application/json' -d '{streamed}'"
        )
    program = shutil.which("neuronetz-gateway") and "neuronetz-gateway"
    sibling = Path(sys.executable).with_name("neuronetz-gateway")
    program = program or (quote(str(sibling)) if sibling.exists() else f"{quote(sys.executable)} -m ops.cli")
    click.echo(f"{program} --env-file {quote(str(at.env_file))} show-usage --by model")
    click.echo(f"\nPlayground: {at.url}/playground")
