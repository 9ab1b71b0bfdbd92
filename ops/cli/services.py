"""run and simulate-ollama: one service alone, in the foreground, as Compose, systemd and Kubernetes want it."""

from __future__ import annotations

import os
import sys

import rich_click as click

from ops.cli.session import Session, pass_session
from ops.cli.up import Address
from ops.embedded.options import HostPort

_MODULES = {"authz": "authz", "meter": "meter", "control": "ops.control"}


@click.command("run")
@click.argument("service", type=click.Choice(list(_MODULES)))
@pass_session
def run(session: Session, service: str) -> None:
    """Run one service alone."""
    if session.env_file is not None:
        # The service finds its settings as if it had been started by itself.
        os.environ["GATEWAY_ENV_FILE"] = str(session.env_file.absolute())
    _become(_MODULES[service])


@click.command("simulate-ollama")
@click.option("--listen", type=Address(), default="127.0.0.1:11434", show_default=True, help="Where to listen.")
def simulate_ollama(listen: HostPort) -> None:
    """Serve a simulated Ollama, which answers without a model, to try the gateway with."""
    _become("ops.simulator", "--listen", str(listen))


def _become(module: str, *arguments: str) -> None:
    # The process is replaced, so that signals reach the service. -P keeps the working directory out of the imports.
    os.execv(sys.executable, [sys.executable, "-P", "-m", module, *arguments])  # noqa: S606
