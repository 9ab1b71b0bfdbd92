"""The embedded stack: finds, configures, starts and supervises every real server of the gateway on one machine.

`supervisor` knows processes and nothing of servers; `postgres`, `redis_server` and `services` describe servers
and start nothing; `stack` puts the two together.
"""
