"""What several tests of the glue share."""

import pytest
from glue_helpers import toolbox_log


@pytest.fixture
def log(caplog):
    """``caplog`` with the lines of BasicSR's logger, which does not propagate."""
    caplog.set_level('INFO', 'basicsr')
    toolbox_log().addHandler(caplog.handler)
    yield caplog
    toolbox_log().removeHandler(caplog.handler)
