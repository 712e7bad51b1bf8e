import os

import pytest


@pytest.fixture(scope="session")
def kafka() -> str:
    address = os.environ.get("KAFKA_BOOTSTRAP_SERVERS")
    if not address:
        pytest.skip("KAFKA_BOOTSTRAP_SERVERS is not set")
    return address
