from tests.subscriptions.test_ledger import *  # noqa: F403
