-- A node leaves: its row goes, and with it (foreign keys) its name on every partition it owned and what it handled.
--
-- What it owns is locked in order first, as an operator locks it (lock_subscription_v1); the foreign key would take it in
-- any order, and meet him in a deadlock.
create function @schema@.leave_node_v1(p_incarnation uuid) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, @schema@, pg_temp
as $$
begin
    perform from checkpoints c where c.owner = p_incarnation order by c.subscription_id, c.partition for update;
    delete from nodes n where n.incarnation = p_incarnation;
    if found then
        perform changed_v1();
    end if;
end
$$;
