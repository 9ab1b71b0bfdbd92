"""The HTTP filters that a backend's cluster runs on every attempt. Pure.

Their order matters. When the router retries a request on another backend, headers that the filters of the first one
added are still in it. Each cluster therefore removes the credential headers of all backends before it adds its own, and
makes the path from that of the surface.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from envoy.config.common.mutation_rules.v3 import mutation_rules_pb2
from envoy.config.core.v3 import base_pb2, extension_pb2, protocol_pb2
from envoy.extensions.filters.http.credential_injector.v3.credential_injector_pb2 import CredentialInjector
from envoy.extensions.filters.http.header_mutation.v3 import header_mutation_pb2
from envoy.extensions.filters.http.lua.v3.lua_pb2 import Lua
from envoy.extensions.filters.http.upstream_codec.v3.upstream_codec_pb2 import UpstreamCodec
from envoy.extensions.filters.http.wasm.v3.wasm_pb2 import Wasm
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import HttpFilter
from envoy.extensions.http.injected_credentials.generic.v3 import generic_pb2
from envoy.extensions.upstreams.http.v3.http_protocol_options_pb2 import HttpProtocolOptions
from envoy.extensions.wasm.v3 import wasm_pb2
from envoy.type.matcher.v3.string_pb2 import StringMatcher
from google.protobuf import any as packed
from google.protobuf.message import Message
from google.protobuf.wrappers_pb2 import BoolValue, StringValue, UInt32Value

from gateway.record.grant import METADATA_NAMESPACE, PATH_KEY
from gateway.settings.backend import Backend
from gateway.wire.names import CLUSTER_HEADER, INTERNAL_PREFIX
from ops.data_plane.backend_secrets import sds_reference, secret_name
from ops.data_plane.cluster_json import CREDENTIAL_INJECTOR, HEADER_MUTATION
from ops.data_plane.further_attempts import further_attempts

HOLD_RESPONSE_WASM = "hold_response.wasm"
# A backend, or a proxy before it, may close an idle connection just as the next request goes out on it. Envoy cannot
# distinguish that from a backend that died with the request, and a request that is repeated on the same backend may
# meet another such connection. A connection therefore serves one request, and no retry is needed. The connection costs
# a round trip, or two with TLS, whose session is resumed.
_REQUESTS_PER_CONNECTION = 1


def http_protocol_options(
    cluster: str,
    backend: Backend,
    stripped: Sequence[str],
    directory: Path,
    *,
    with_paths: bool,
    timeout_s: float,
    wait_max_s: float = 0.0,
) -> HttpProtocolOptions:
    """Returns the HTTP/1.1 options of `cluster`, which is one of the backend's, including its filters.

    `stripped` are the names of all credential headers, and of those that Envoy adds, in lower case. `directory`
    contains the SDS files and the hold filter. `with_paths`: a backend of the gateway has a path. `timeout_s` is that
    of an attempt, `wait_max_s` the longest wait in the queue, 0 without one.
    """
    return HttpProtocolOptions(
        explicit_http_config=HttpProtocolOptions.ExplicitHttpConfig(
            http_protocol_options=protocol_pb2.Http1ProtocolOptions()
        ),
        common_http_protocol_options=protocol_pb2.HttpProtocolOptions(
            max_requests_per_connection=UInt32Value(value=_REQUESTS_PER_CONNECTION)
        ),
        http_filters=_filters(
            cluster, backend, stripped, directory, with_paths=with_paths, timeout_s=timeout_s, wait_max_s=wait_max_s
        ),
    )


def _filters(
    cluster: str,
    backend: Backend,
    stripped: Sequence[str],
    directory: Path,
    *,
    with_paths: bool,
    timeout_s: float,
    wait_max_s: float,
) -> list[HttpFilter]:
    credential = backend.credential()
    return [
        # The first filter is the last one that an answer passes, so no backend can set this header.
        _filter(HEADER_MUTATION, _mutations(stripped, {CLUSTER_HEADER: cluster})),
        *([_filter(CREDENTIAL_INJECTOR, _add_credential(backend, credential[0], directory))] if credential else []),
        _filter("envoy.filters.http.wasm", _hold_response(directory, timeout_s)),
        # The hold filter marks the attempts that this one is about.
        *([_filter("further_attempts", further_attempts(wait_max_s))] if wait_max_s else []),
        # No meter may have replied about the attempt, so the mark is removed here.
        _filter("internal_headers", _remove_internal_headers()),
        # The hold filter reads the path of the surface.
        *([_filter("envoy.filters.http.lua", _set_path(backend.path))] if with_paths else []),
        _filter("envoy.filters.http.upstream_codec", UpstreamCodec()),
    ]


def _filter(name: str, config: Message) -> HttpFilter:
    return HttpFilter(name=name, typed_config=packed.pack(config))


def _mutations(removed: Sequence[str], answered: Mapping[str, str]) -> header_mutation_pb2.HeaderMutation:
    """Returns a filter that removes headers from a request, and sets those of its answer."""
    removals = [mutation_rules_pb2.HeaderMutation(remove=name) for name in removed]
    settings = [
        mutation_rules_pb2.HeaderMutation(
            append=base_pb2.HeaderValueOption(
                header=base_pb2.HeaderValue(key=name, value=value),
                append_action=base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD,
            )
        )
        for name, value in answered.items()
    ]
    return header_mutation_pb2.HeaderMutation(
        mutations=header_mutation_pb2.Mutations(request_mutations=removals, response_mutations=settings)
    )


def _remove_internal_headers() -> header_mutation_pb2.HeaderMutation:
    """Returns a filter that removes the gateway's internal headers from a request, so that no backend receives one."""
    internal = mutation_rules_pb2.HeaderMutation.RemoveOnMatch(key_matcher=StringMatcher(prefix=INTERNAL_PREFIX))
    removal = mutation_rules_pb2.HeaderMutation(remove_on_match=internal)
    return header_mutation_pb2.HeaderMutation(mutations=header_mutation_pb2.Mutations(request_mutations=[removal]))


def _set_path(prefix: str) -> Lua:
    """Returns a filter that makes the path. The header mutation filter does not change pseudo-headers."""
    code = f"""
        function envoy_on_request(handle)
          local metadata = handle:streamInfo():dynamicMetadata():get("{METADATA_NAMESPACE}")
          handle:headers():replace(":path", "{prefix}" .. metadata["{PATH_KEY}"])
        end"""
    return Lua(default_source_code=base_pb2.DataSource(inline_string=textwrap.dedent(code).lstrip()))


def _add_credential(backend: Backend, header: str, directory: Path) -> CredentialInjector:
    generic = generic_pb2.Generic(credential=sds_reference(secret_name(backend), directory), header=header)
    return CredentialInjector(
        overwrite=True,
        credential=extension_pb2.TypedExtensionConfig(
            name="envoy.http.injected_credentials.generic", typed_config=packed.pack(generic)
        ),
    )


def _hold_response(directory: Path, timeout_s: float) -> Wasm:
    """Returns the filter of envoy/hold_response.wat, which holds the headers until the first byte of the body."""
    return Wasm(
        config=wasm_pb2.PluginConfig(
            name="hold_response",
            configuration=packed.pack(StringValue(value=f"{timeout_s * 1000:.0f}")),
            failure_policy=wasm_pb2.FAIL_RELOAD,
            # Without it the filter could not hold headers, and the stream would wait indefinitely.
            allow_on_headers_stop_iteration=BoolValue(value=True),
            vm_config=wasm_pb2.VmConfig(
                vm_id="hold_response",
                runtime="envoy.wasm.runtime.v8",
                code=base_pb2.AsyncDataSource(local=base_pb2.DataSource(filename=str(directory / HOLD_RESPONSE_WASM))),
            ),
        )
    )
