-- A node leaves: its row goes, and with it (foreign key) its name on every partition it owned.
create function @schema@.leave_node_v1(p_incarnation uuid) returns void
language sql volatile security definer
set search_path = pg_catalog, @schema@, pg_temp
as $$
    delete from nodes n where n.incarnation = p_incarnation
$$;
