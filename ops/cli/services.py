"""run and simulate-ollama: one service in the foreground, for Compose, systemd and Kubernetes."""

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
    """Run one service in the foreground."""
    if session.given_env_file is not None:
        # The service reads its settings from the environment, as it does when it is started directly.
        os.environ["GATEWAY_ENV_FILE"] = str(session.given_env_file.absolute())
    _exec_module(_MODULES[service])


@click.command("simulate-ollama")
@click.option("--listen", type=Address(), default="127.0.0.1:11434", show_default=True, help="Address to listen on.")
def simulate_ollama(listen: HostPort) -> None:
    """Serve a simulated Ollama, which answers without a model, for trying out the gateway."""
    _exec_module("ops.simulator", "--listen", str(listen))


def _exec_module(module: str, *arguments: str) -> None:
    # Replacing this process lets signals reach the service. -P keeps the working directory off the import path.
    os.execv(sys.executable, [sys.executable, "-P", "-m", module, *arguments])  # noqa: S606
