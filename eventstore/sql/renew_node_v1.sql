-- Renews a node's lease; false if it ran out, and then the node owns nothing any more.
-- The row is locked before the time is read: a renewal that was held up beyond the lease must not revive it.
create function @schema@.renew_node_v1(p_incarnation uuid, p_ttl double precision, p_now timestamptz default null)
returns boolean
language plpgsql volatile security definer
set search_path = pg_catalog, @schema@, pg_temp
as $$
declare
    v_now timestamptz;
begin
    perform from nodes n where n.incarnation = p_incarnation for update;
    v_now := coalesce(p_now, clock_timestamp());
    update nodes n set lease_until = v_now + make_interval(secs => p_ttl)
     where n.incarnation = p_incarnation and n.lease_until > v_now;
    return found;
end
$$;
