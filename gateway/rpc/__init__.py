"""gRPC calls as plain functions, and the two transports that serve them: grpc.aio and nghttp2.

A handler takes a message and returns one. It knows neither the transport nor HTTP/2.
"""
