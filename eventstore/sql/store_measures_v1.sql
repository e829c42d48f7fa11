-- What is measured of the log and the nodes, in one row.
--
--   hidden_for   age in seconds of the first event beyond the horizon that is committed: readers do not see it, because
--                an append before it is under way; 0: there is none
create function @schema@.store_measures_v1(
    out at timestamptz, out horizon bigint, out last_position bigint, out hidden_for double precision,
    out nodes_alive bigint, out nodes_expired bigint)
language plpgsql volatile security definer
set search_path = pg_catalog, @schema@, pg_temp
as $$
#variable_conflict use_variable
begin
    select h.horizon, h.last_position into horizon, last_position from horizon_v1() h;
    at := clock_timestamp();
    hidden_for := case when horizon < last_position then waited_v1(horizon, last_position, at) else 0 end;
    select count(*) filter (where n.lease_until > at), count(*) filter (where n.lease_until <= at)
      into nodes_alive, nodes_expired from nodes n;
end
$$;
