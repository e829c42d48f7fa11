from tests.log.test_idempotency import *  # noqa: F403
