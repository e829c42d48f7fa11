from tests.log.test_read import *  # noqa: F403
