-- Renews a node's lease; renewed is false if it ran out, and then the node owns nothing any more. Tells besides what a
-- node wants to know that often:
--
--   generation    see changed_v1 (0 before the first change): a node that finds another one than last time looks at what
--                 it owns, and claims
--   next_expiry   seconds until the first lease of another node runs out (not above 0: has already), null without one
--
-- The row is locked before the time is read: a renewal that was held up beyond the lease must not revive it. NO KEY:
-- this node's own claims, which make sure that the row stays (key share), are not waited for.
create function @schema@.renew_node_v1(
    p_incarnation uuid, p_ttl double precision, p_now timestamptz default null,
    out renewed boolean, out generation bigint, out next_expiry double precision)
language plpgsql volatile security definer
set search_path = pg_catalog, @schema@, pg_temp
as $$
#variable_conflict use_column
declare
    v_now timestamptz;
begin
    perform from nodes n where n.incarnation = p_incarnation for no key update;
    v_now := coalesce(p_now, clock_timestamp());
    update nodes n set lease_until = v_now + make_interval(secs => p_ttl)
     where n.incarnation = p_incarnation and n.lease_until > v_now;
    renewed := found;
    generation := coalesce((select c.generation from control c), 0);
    next_expiry := (select extract(epoch from min(n.lease_until) - v_now)
                      from nodes n where n.incarnation <> p_incarnation);
end
$$;
