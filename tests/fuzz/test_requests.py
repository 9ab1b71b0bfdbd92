"""What was checked is what is executed: the strict reader and the rewriter against a model of how Ollama reads."""

from __future__ import annotations

from hypothesis import event, given, settings
from hypothesis import strategies as st

from gateway.wire.surfaces import Surface
from tests.fuzz.bodies import REQUESTS
from tests.fuzz.claims import check_request


@settings(max_examples=400)
@given(REQUESTS, st.booleans())
def test_no_body_is_read_one_way_at_the_gateway_and_another_way_at_the_backend(
    request: tuple[Surface, bytes], runner_options: bool
) -> None:
    surface, body = request
    event("admitted" if check_request(surface, body, runner_options=runner_options) else "refused")
