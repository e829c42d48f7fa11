-- The horizon: the highest position at or below which every append has finished; and the last position drawn.
--
-- An append holds a shared advisory lock on (sequence OID, low 31 bits of the sequence's last_value) before it draws a
-- position, until its transaction ends. So everything it may write lies above that value. Order matters here:
--   1. last_value is read first (H). A position at or below H was drawn before, so its lock was held by then, or its
--      transaction has ended.
--   2. Then the locks are read. Locks are released only after the commit is visible, so a transaction whose lock is
--      gone is visible to every later snapshot. A lock that still waits to be granted counts as held.
--   3. Rows are read by a later statement, with a later snapshot (the caller must be READ COMMITTED).
--
-- last_value is what pg_sequence_last_value tells, under the lock of the sequence's page, and never what a query of the
-- sequence reads: every 32nd draw writes a value 32 further on into the page for a moment, for the WAL, and a query may
-- read just that. A reader would take positions for finished that are still to be drawn; a writer would hold a key above
-- the position that it is about to draw.
--
-- A key k holds 31 bits only; its full value is the one nearest to H, which is right while fewer than 2^30 positions
-- are drawn during one append.
--
-- The result may fall back for a moment (a writer paused between reading last_value and locking), never past an
-- event that a reader could still miss; readers keep the largest they saw. Never below 0: any role can forge a lock.
create function @schema@.horizon_v1(out horizon bigint, out last_position bigint)
language plpgsql volatile security definer
set search_path = pg_catalog, @schema@, pg_temp
as $$
declare
    sequence_oid constant oid := '@schema@.event_positions'::regclass;
begin
    if pg_is_in_recovery() then
        raise exception 'the horizon cannot be read from a standby, whose locks do not show the writers'
            using errcode = 'ES010', hint = 'Connect to the primary (target_session_attrs=read-write).';
    end if;
    if current_setting('transaction_isolation') <> 'read committed' then
        raise exception 'the log cannot be read under isolation level %', current_setting('transaction_isolation')
            using errcode = 'ES011', hint = 'Use READ COMMITTED: the rows need a newer snapshot than the horizon.';
    end if;
    last_position := pg_sequence_last_value(sequence_oid);
    select greatest(0, least(last_position, min(
               last_position + ((l.objid::bigint - last_position + 1073741824) & 2147483647) - 1073741824)))
      into horizon
      from pg_locks l
     where l.locktype = 'advisory' and l.classid = sequence_oid and l.objsubid = 2
       and l.database = (select d.oid from pg_database d where d.datname = current_database());
end
$$;
