-- Stores requests, an array for each column; those whose request_id is stored already are left out. Returns how many
-- were new.
--
-- The key of a partitioned table has to contain the time, so that it is (request_id, inserted_at). A request carries its
-- time with it: a batch that is sent again, as after a lost reply, brings the same pairs and adds nothing, also while
-- the first attempt is still at work. A request_id that comes with another time is looked for as well, in the time of
-- the batch and a day around it: a probe of the key for each, in one or two months. (As a sub-query of its own: as a
-- join it might be planned as a scan of a month.)
--
-- Partitions come first, see ensure_request_month_v1; rows by request_id, so that two batches with the same requests
-- wait for each other in one order and never in a circle.
create function @schema@.insert_requests_v1(
    p_ids uuid[], p_methods text[], p_paths text[], p_statuses int[], p_durations float8[], p_agents text[],
    p_addresses text[], p_referers text[], p_devices text[], p_sessions text[], p_views int[], p_times timestamptz[])
returns bigint
language plpgsql volatile security definer
set search_path = pg_catalog, @schema@, pg_temp
as $$
declare
    v_from timestamptz;
    v_to timestamptz;
    v_month timestamptz;
    v_count bigint;
begin
    select min(t.at) - interval '1 day', max(t.at) + interval '1 day' into v_from, v_to from unnest(p_times) t (at);
    for v_month in select distinct date_trunc('month', t.at, 'UTC') from unnest(p_times) t (at) order by 1 loop
        perform ensure_request_month_v1(v_month);
    end loop;
    insert into request_logs (request_id, method, path, status_code, duration_ms, user_agent, remote_ip, referer,
                              device_type, session_id, session_page_views, inserted_at)
    select distinct on (n.id)
           n.id, n.method, n.path, n.status, n.duration, n.agent, n.address, n.referer, n.device, n.session, n.views, n.at
      from unnest(p_ids, p_methods, p_paths, p_statuses, p_durations, p_agents, p_addresses, p_referers, p_devices,
                  p_sessions, p_views, p_times)
           n (id, method, path, status, duration, agent, address, referer, device, session, views, at)
     where (select 1 from request_logs r
             where r.request_id = n.id and r.inserted_at between v_from and v_to limit 1) is null
     order by n.id, n.at
        on conflict do nothing;
    get diagnostics v_count = row_count;
    return v_count;
end
$$;
