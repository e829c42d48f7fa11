from tests.log.test_append import *  # noqa: F403
