from tests.log.test_conditions import *  # noqa: F403
