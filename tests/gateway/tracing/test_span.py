import pytest

from gateway.tracing import genai
from gateway.tracing.span import TraceContext, sampled_context
from gateway.wire.surfaces import SURFACES

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.mark.parametrize("flags", ["01", "03", "ff"])
def test_a_sampled_traceparent_is_continued(flags: str) -> None:
    assert sampled_context(f"00-{TRACE}-{SPAN}-{flags}") == TraceContext(int(TRACE, 16), int(SPAN, 16))


@pytest.mark.parametrize(
    "traceparent",
    [
        "",
        f"00-{TRACE}-{SPAN}-00",
        f"00-{TRACE}-{SPAN}-02",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE[1:]}-{SPAN}-01",
        "00-é-1",
    ],
)
def test_an_unsampled_or_malformed_traceparent_has_no_spans(traceparent: str) -> None:
    assert sampled_context(traceparent) is None


def test_every_surface_has_an_operation_of_the_conventions() -> None:
    assert {genai.operation(surface) for surface in SURFACES} == {"chat", "text_completion", "embeddings"}
