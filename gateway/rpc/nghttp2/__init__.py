"""A gRPC server on asyncio: nghttp2 (by `ngh2`) does HTTP/2 without I/O, this folder does gRPC and the sockets.

Protocol: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
"""
