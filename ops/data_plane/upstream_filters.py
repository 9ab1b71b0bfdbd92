"""The HTTP filters that a backend's cluster runs on every attempt. Pure.

Their order matters. When the router retries a request on another backend, headers that the filters of the first one
added are still in it. Each cluster therefore removes the credential headers of all backends before it adds its own, and
makes the path from that of the surface.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from betterproto2 import Message
from envoy_data_plane.envoy.config.common.mutation_rules import v3 as mutation_rules
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.extensions.filters.http.credential_injector import v3 as credential_injector
from envoy_data_plane.envoy.extensions.filters.http.header_mutation import v3 as header_mutation
from envoy_data_plane.envoy.extensions.filters.http.lua import v3 as lua
from envoy_data_plane.envoy.extensions.filters.http.upstream_codec import v3 as upstream_codec
from envoy_data_plane.envoy.extensions.filters.http.wasm import v3 as wasm_filter
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager import v3 as hcm
from envoy_data_plane.envoy.extensions.http.injected_credentials.generic import v3 as generic_credential
from envoy_data_plane.envoy.extensions.upstreams.http import v3 as upstreams_http
from envoy_data_plane.envoy.extensions.wasm import v3 as wasm
from envoy_data_plane.google.protobuf import Any

from gateway.record.grant import METADATA_NAMESPACE, PATH_KEY
from gateway.settings.backend import Backend
from ops.data_plane.backend_secrets import sds_reference, secret_name
from ops.data_plane.cluster_json import CREDENTIAL_INJECTOR, HEADER_MUTATION

HOLD_RESPONSE_WASM = "hold_response.wasm"
# A backend, or a proxy before it, may close an idle connection just as the next request goes out on it. Envoy cannot
# distinguish that from a backend that died with the request, and a request that is repeated on the same backend may
# meet another such connection. A connection therefore serves one request, and no retry is needed. The connection costs
# a round trip, or two with TLS, whose session is resumed.
_REQUESTS_PER_CONNECTION = 1


def http_protocol_options(
    backend: Backend, stripped: Sequence[str], directory: Path, *, with_paths: bool
) -> upstreams_http.HttpProtocolOptions:
    """Returns the HTTP/1.1 options of the backend's cluster, including its filters.

    `stripped` are the names of all credential headers, in lower case. `directory` contains the SDS files and the hold
    filter. `with_paths`: a backend of the gateway has a path.
    """
    return upstreams_http.HttpProtocolOptions(
        explicit_http_config=upstreams_http.HttpProtocolOptionsExplicitHttpConfig(
            http_protocol_options=core.Http1ProtocolOptions()
        ),
        common_http_protocol_options=core.HttpProtocolOptions(max_requests_per_connection=_REQUESTS_PER_CONNECTION),
        http_filters=_filters(backend, stripped, directory, with_paths=with_paths),
    )


def _filters(backend: Backend, stripped: Sequence[str], directory: Path, *, with_paths: bool) -> list[hcm.HttpFilter]:
    credential = backend.credential()
    return [
        _filter(HEADER_MUTATION, _remove_headers(stripped)),
        *([_filter(CREDENTIAL_INJECTOR, _add_credential(backend, credential[0], directory))] if credential else []),
        _filter("envoy.filters.http.wasm", _hold_response(directory)),
        # The hold filter reads the path of the surface.
        *([_filter("envoy.filters.http.lua", _set_path(backend.path))] if with_paths else []),
        _filter("envoy.filters.http.upstream_codec", upstream_codec.UpstreamCodec()),
    ]


def _filter(name: str, config: Message) -> hcm.HttpFilter:
    return hcm.HttpFilter(name=name, typed_config=Any.pack(config))


def _remove_headers(names: Sequence[str]) -> header_mutation.HeaderMutation:
    removals = [mutation_rules.HeaderMutation(remove=name) for name in names]
    return header_mutation.HeaderMutation(mutations=header_mutation.Mutations(request_mutations=removals))


def _set_path(prefix: str) -> lua.Lua:
    """Returns a filter that makes the path. The header mutation filter does not change pseudo-headers."""
    code = f"""
        function envoy_on_request(handle)
          local metadata = handle:streamInfo():dynamicMetadata():get("{METADATA_NAMESPACE}")
          handle:headers():replace(":path", "{prefix}" .. metadata["{PATH_KEY}"])
        end"""
    return lua.Lua(default_source_code=core.DataSource(inline_string=textwrap.dedent(code).lstrip()))


def _add_credential(backend: Backend, header: str, directory: Path) -> credential_injector.CredentialInjector:
    generic = generic_credential.Generic(credential=sds_reference(secret_name(backend), directory), header=header)
    return credential_injector.CredentialInjector(
        overwrite=True,
        credential=core.TypedExtensionConfig(
            name="envoy.http.injected_credentials.generic", typed_config=Any.pack(generic)
        ),
    )


def _hold_response(directory: Path) -> wasm_filter.Wasm:
    """Returns the filter of envoy/hold_response.wat, which holds the headers until the first byte of the body."""
    return wasm_filter.Wasm(
        config=wasm.PluginConfig(
            name="hold_response",
            failure_policy=wasm.FailurePolicy.FAIL_RELOAD,
            # Without it the filter could not hold headers, and the stream would wait indefinitely.
            allow_on_headers_stop_iteration=True,
            vm_config=wasm.VmConfig(
                vm_id="hold_response",
                runtime="envoy.wasm.runtime.v8",
                code=core.AsyncDataSource(local=core.DataSource(filename=str(directory / HOLD_RESPONSE_WASM))),
            ),
        )
    )
