from tests.log.test_streams import *  # noqa: F403
