"""A simulated Ollama: the HTTP surface of the real one, without a model.

Everything on the wire follows Ollama 0.33: routes, status codes, content types, the order and the keys of frames, one
flush for each frame, and the ways in which an answer can fail. The text is invented but deterministic, and the token
counts are exact. `python -m ops.simulator --listen 127.0.0.1:11434` serves it. Programs use `ops.simulator.app`; tests
control it over HTTP through `/_sim/` (see `control.api`).

Not simulated: zstd request bodies, downloads, that parallel requests slow each other down, and that the
real server does not notice a disconnected client while bytes of its request are unread.

Each module imports from lower layers only: `app` over `access` and `routes`, over `routing`, over `handlers`, over
`control` and `dialects`, over `generation` and `scheduling`, over `models`. An import contract enforces it.
"""
