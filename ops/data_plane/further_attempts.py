"""The upstream filter by which a further attempt of a request waits for a slot at its replica. Pure.

Envoy's router tries a request again at another replica, where it has no slot. The hold filter marks each attempt but
the first with a header. This filter calls the meter about those attempts only, and the request goes on when the meter
has moved its slot (`meter.attempts`). When the meter does not reply, it goes on without a slot there.
"""

from __future__ import annotations

from datetime import timedelta

from envoy.config.core.v3.base_pb2 import HeaderValue
from envoy.config.core.v3.extension_pb2 import TypedExtensionConfig
from envoy.config.core.v3.grpc_service_pb2 import GrpcService
from envoy.extensions.common.matching.v3.extension_matcher_pb2 import ExtensionWithMatcher
from envoy.extensions.filters.common.matcher.action.v3.skip_action_pb2 import SkipFilter
from envoy.extensions.filters.http.ext_proc.v3.ext_proc_pb2 import ExternalProcessor, HeaderForwardingRules
from envoy.extensions.filters.http.ext_proc.v3.processing_mode_pb2 import ProcessingMode
from envoy.type.matcher.v3.http_inputs_pb2 import HttpRequestHeaderMatchInput
from envoy.type.matcher.v3.string_pb2 import ListStringMatcher, StringMatcher
from google.protobuf import any as packed
from google.protobuf.message import Message
from xds.core.v3 import extension_pb2 as xds_extension
from xds.type.matcher.v3 import matcher_pb2 as xds_matcher
from xds.type.matcher.v3 import string_pb2 as xds_string

from gateway.record.grant import ATTEMPT_HEADER, METADATA_NAMESPACE, PATH_KEY
from gateway.wire.names import (
    ATTEMPT_NUMBER_ATTRIBUTE,
    CLUSTER_ATTRIBUTE,
    FURTHER_ATTEMPT_HEADER,
    REQUEST_ID_HEADER,
)

# The meter replies after the longest wait at the latest.
_MARGIN_S = 2.0


def further_attempts(wait_max_s: float) -> ExtensionWithMatcher:
    """Returns the filter. `wait_max_s` is the longest wait for a slot, in seconds."""
    return ExtensionWithMatcher(
        extension_config=TypedExtensionConfig(
            name="envoy.filters.http.ext_proc", typed_config=packed.pack(_call_of_the_meter(wait_max_s))
        ),
        xds_matcher=xds_matcher.Matcher(
            matcher_list=xds_matcher.Matcher.MatcherList(
                matchers=[
                    xds_matcher.Matcher.MatcherList.FieldMatcher(
                        predicate=xds_matcher.Matcher.MatcherList.Predicate(not_matcher=_is_marked()),
                        on_match=xds_matcher.Matcher.OnMatch(action=_extension("skip", SkipFilter())),
                    )
                ]
            )
        ),
    )


def _is_marked() -> xds_matcher.Matcher.MatcherList.Predicate:
    return xds_matcher.Matcher.MatcherList.Predicate(
        single_predicate=xds_matcher.Matcher.MatcherList.Predicate.SinglePredicate(
            input=_extension("attempt", HttpRequestHeaderMatchInput(header_name=FURTHER_ATTEMPT_HEADER)),
            value_match=xds_string.StringMatcher(exact="1"),
        )
    )


def _call_of_the_meter(wait_max_s: float) -> ExternalProcessor:
    return ExternalProcessor(
        grpc_service=GrpcService(
            envoy_grpc=GrpcService.EnvoyGrpc(cluster_name="meter"),
            initial_metadata=[
                HeaderValue(key=ATTEMPT_HEADER.decode(), value=f"%DYNAMIC_METADATA({METADATA_NAMESPACE}:{PATH_KEY})%")
            ],
        ),
        failure_mode_allow=True,
        message_timeout=timedelta(seconds=wait_max_s + _MARGIN_S),
        processing_mode=ProcessingMode(
            request_header_mode=ProcessingMode.SEND,
            response_header_mode=ProcessingMode.SKIP,
            request_trailer_mode=ProcessingMode.SKIP,
            response_trailer_mode=ProcessingMode.SKIP,
        ),
        request_attributes=[CLUSTER_ATTRIBUTE, ATTEMPT_NUMBER_ATTRIBUTE],
        forward_rules=HeaderForwardingRules(
            allowed_headers=ListStringMatcher(patterns=[StringMatcher(exact=REQUEST_ID_HEADER)])
        ),
    )


def _extension(name: str, config: Message) -> xds_extension.TypedExtensionConfig:
    return xds_extension.TypedExtensionConfig(name=name, typed_config=packed.pack(config))
