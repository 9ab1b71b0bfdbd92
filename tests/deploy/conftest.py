"""The rendered Helm chart."""

from __future__ import annotations

import pytest

from tests.deploy.manifests import VALUES, Manifest, rendered


@pytest.fixture(scope="session")
def manifests() -> list[Manifest]:
    """The manifests of the chart with VALUES. No test changes them."""
    return rendered(VALUES)
