-- Wakes every listening node when the transaction commits. The payload names the sender, so that a node can tell
-- whether it hears itself; it carries no data, and nothing depends on it being true. A queue of notifications that is
-- full would undo the caller's transaction at its commit: then rather no signal.
create function @schema@.signal_v1(sender text default '') returns void
language sql volatile
set search_path = pg_catalog, pg_temp
as $$
    select pg_notify(@schema@.signal_channel_v1(), left(sender, 100)) where pg_notification_queue_usage() < 0.9
$$;
