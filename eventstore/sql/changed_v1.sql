-- Tells every node that something about subscriptions changed: a generation to compare for those that poll, and a
-- signal to wake those that listen, both with the commit.
--
-- Locks the one row of control until the transaction ends, so that a node that read generation n has seen every change
-- counted in it. It is the last thing a transaction does: whoever holds that row waits for nothing any more. Each tenant
-- has a row, from its first change on: none holds up another's.
--
-- A queue of notifications that is full would undo all of it at the commit, so nothing is put into one that nearly is:
-- a signal may be lost, a claim or a replay may not.
--
-- Runs with the caller's rights: the functions that call it have them.
create function @schema@.changed_v1() returns void
language sql volatile
set search_path = pg_catalog, @schema@, pg_temp
as $$
    insert into control as c (generation) values (1)
        on conflict on constraint control_pkey do update set generation = c.generation + 1;
    select pg_notify(signal_channel_v1(), 'control') where pg_notification_queue_usage() < 0.9;
$$;
