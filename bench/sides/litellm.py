"""LiteLLM's proxy in front of the upstream, with one key and its limits in Redis, without a database."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

from bench.peers import PEERS
from bench.sides import stores
from bench.sides.envoy import accepts
from bench.sides.side import Side, process, wait_until
from bench.sides.venvs import environment
from bench.workloads import MODEL
from ops.embedded import ports

NAME = "litellm"
_START_TIMEOUT_S = 240.0
_LIMIT = 100_000_000


@contextmanager
def litellm(directory: Path, upstream: Side, workers: int) -> Iterator[Side]:
    """Runs the proxy. Raises BenchFailed, also if it cannot be installed."""
    programs = environment(NAME, PEERS / "litellm.lock")
    root = directory / NAME
    root.mkdir()
    log, port, key = root / "litellm.log", ports.choose_free("127.0.0.1"), f"sk-{secrets.token_hex(16)}"
    with stores.running(root) as running:
        redis = urlsplit(running.redis_url)
        configuration = {
            "model_list": [
                {
                    "model_name": MODEL,
                    "litellm_params": {
                        "model": f"ollama_chat/{MODEL}",
                        "api_base": f"http://{upstream.host}:{upstream.port}",
                        "rpm": _LIMIT,
                        "tpm": _LIMIT,
                    },
                }
            ],
            "general_settings": {"master_key": key},
            "litellm_settings": {"telemetry": False},
            "router_settings": {
                "routing_strategy": "usage-based-routing-v2",
                "redis_host": redis.hostname,
                "redis_port": redis.port,
                "redis_password": unquote(redis.password or ""),
            },
        }
        # JSON is YAML.
        (root / "config.yaml").write_text(json.dumps(configuration))
        command = [str(programs / "python"), str(programs / "litellm"), "--config", str(root / "config.yaml")]
        command += ["--host", "127.0.0.1", "--port", str(port), "--num_workers", str(workers)]
        env = {
            "PATH": f"{programs}:/usr/bin:/bin",
            "HOME": str(root),
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "LITELLM_LOG": "ERROR",
        }
        with process(command, log, env=env, directory=root) as started:
            wait_until(lambda: accepts(port), "LiteLLM", started, log, _START_TIMEOUT_S)
            services = {**running.services, NAME: [started.pid]}
            yield Side(NAME, "127.0.0.1", port, lambda: services, [key], "/v1/chat/completions")
