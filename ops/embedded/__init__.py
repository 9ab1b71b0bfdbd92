"""The embedded stack: configures, starts and supervises every server of the gateway on one machine.

`supervisor` runs processes and knows no servers. `postgres`, `redis_server` and `services` describe servers and start
nothing. `stack` combines the two.
"""
