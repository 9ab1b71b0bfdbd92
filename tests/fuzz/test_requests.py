"""The strict parser and the rewriter against a model of Ollama's parser: what is checked is what is executed."""

from __future__ import annotations

from hypothesis import event, given, settings
from hypothesis import strategies as st

from gateway.wire.surfaces import Surface
from tests.fuzz.bodies import REQUESTS
from tests.fuzz.claims import check_request


@settings(max_examples=400)
@given(REQUESTS, st.booleans())
def test_the_gateway_and_the_backend_read_every_body_in_the_same_way(
    request: tuple[Surface, bytes], runner_options: bool
) -> None:
    surface, body = request
    event("admitted" if check_request(surface, body, runner_options=runner_options) else "refused")
