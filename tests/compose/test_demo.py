"""The demo overlay answers a chat with only the gateway's own image."""

from __future__ import annotations

import json
from pathlib import Path

from tests.compose.project import Project


def test_the_demo_answers_a_chat_without_a_model(images: None, tmp_path: Path) -> None:
    demo = Project("neuronetz-gateway-test-demo", tmp_path, files=("compose.yaml", "compose.demo.yaml"))
    demo.down()
    try:
        demo.up()
        demo.cli("create-tenant", "--name", "demo", "--allow-all-models")
        key = demo.cli("create-key", "--tenant", "demo", "--name", "laptop")["key"]
        body = {"model": "llama3.2", "messages": [{"role": "user", "content": "Hello"}]}
        with demo.client(key) as client:
            lines = client.post("/api/chat", json=body).text.splitlines()
        assert json.loads(lines[-1])["done"]
    finally:
        demo.down()
    assert demo.remaining_resources() == []
