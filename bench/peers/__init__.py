"""Other gateways to compare with. They run in virtual environments under `build/`, with packages the product lacks."""

from pathlib import Path

PEERS = Path(__file__).parent
