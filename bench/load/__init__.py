"""The load generator and the upstream: small programs that import nothing but the standard library.

Both serve non-blocking sockets from one epoll loop, without an HTTP library. Their CPU time per request is close to
that of the system calls, so that a closed loop on a small machine measures the programs between them.
"""
