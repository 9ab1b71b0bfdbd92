"""A simulated Ollama: the real one's HTTP surface without a model behind it.

Everything on the wire follows Ollama 0.33: routes, status codes, content types, the order and the keys of frames,
one flush per frame, and the ways in which an answer can go wrong. Text is invented but deterministic, counts are
exact. `python -m ops.simulator --listen 127.0.0.1:11434` serves it; `ops.simulator.app` is the way in for
programs, `/_sim/` (see `control`) for tests over HTTP.

Not simulated: zstd request bodies, downloads, a CORS preflight, the limit on parallel requests, and the real server's
blindness to a client that leaves while bytes of its request are still unread.
"""
