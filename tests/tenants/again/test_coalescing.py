from tests.log.test_coalescing import *  # noqa: F403
