-- What the requests of a period were like, as JSON; twin of eventstore/reports/requests.py.
--
--   p_since, p_until   the period; null: p_last before its end, and now
--   p_steps            how many steps the series has
--   p_slowest          how many paths to name
--   p_count            most requests to count, the newest ones
--   p_sample           most requests, or nearly, that percentiles are made from
--
-- Two passes over the period, by the index on inserted_at. The first counts every request, in hashes: by step, class of
-- status and device; by path; by session (of which the hash, 64 bits, is cheaper to gather than the text). The second
-- makes percentiles, which need sorting, of a sample if there are many: of those whose id has a certain hash, so that
-- asking again gives the same answer.
--
-- It needs memory for hashes and sorts of so many rows, once; compiling it would take longer than running it.
create function @schema@.request_report_v1(
    p_since timestamptz, p_until timestamptz, p_last interval, p_steps int, p_slowest int, p_count int default 100000,
    p_sample int default 5000)
returns json
language plpgsql stable security definer
set search_path = pg_catalog, @schema@, pg_temp
set work_mem = '64MB'
set jit = off
as $$
declare
    v_until constant timestamptz := coalesce(p_until, clock_timestamp());
    v_since constant timestamptz := coalesce(p_since, v_until - p_last);
    v_step constant float8 := date_part('epoch', v_until - v_since) / nullif(p_steps, 0);
    v_width constant interval := make_interval(secs => v_step);
    v_from timestamptz := v_since;
    v_more boolean;
    v_report json;
begin
    if (v_since < v_until) is not true or (p_steps between 1 and 1000) is not true
       or (p_slowest between 0 and 1000) is not true or (p_count > 0 and p_sample > 0) is not true then
        raise exception 'a report is about a period that ends after it begins, in 1 to 1,000 steps, and names at most 1,000 paths'
            using errcode = 'ES006';
    end if;
    select r.inserted_at into v_from
      from request_logs r
     where r.inserted_at >= v_since and r.inserted_at < v_until
     order by r.inserted_at desc offset p_count limit 1;
    -- Of one time all or none: those of the first time beyond what is counted are left out.
    v_more := found;
    v_from := coalesce(v_from + interval '1 microsecond', v_since);
    with counted as materialized (
        select grouping(r.device_type, r.path, hashtextextended(r.session_id, 0)) as kind,
               date_bin(v_width, r.inserted_at, v_since) as at, r.status_code / 100 as class, r.device_type,
               r.method, r.path, hashtextextended(r.session_id, 0) as session, count(*) as requests,
               count(*) filter (where r.status_code >= 500) as errors
          from request_logs r
         where r.inserted_at >= v_from and r.inserted_at < v_until
         group by grouping sets (
               (date_bin(v_width, r.inserted_at, v_since), r.status_code / 100, r.device_type), (r.method, r.path),
               (hashtextextended(r.session_id, 0)))
    ), total as materialized (
        select coalesce(sum(c.requests), 0) as requests from counted c where c.kind = 3
    ), sampled as materialized (
        select date_bin(v_width, r.inserted_at, v_since) as at, r.method, r.path, r.duration_ms as ms
          from request_logs r
         where r.inserted_at >= v_from and r.inserted_at < v_until
           and mod(uuid_hash(r.request_id)::bigint + 2147483648,
                   (select greatest(1, ceil(t.requests / p_sample))::bigint from total t)) = 0
    ), slowest as (
        select s.method, s.path, percentile_disc(array[0.5, 0.95]) within group (order by s.ms) as ms
          from sampled s
         group by s.method, s.path
         order by (percentile_disc(array[0.5, 0.95]) within group (order by s.ms))[2] desc, s.method, s.path
         limit p_slowest
    )
    select json_build_object(
        'since', v_since, 'until', v_until, 'from', v_from, 'complete', not v_more, 'step', v_step,
        'sampled', (select count(*) from sampled),
        'counts', (select json_agg(json_build_array(round(date_part('epoch', c.at - v_since) / v_step), c.class,
                                                    c.device_type, c.requests, c.errors)) from counted c where c.kind = 3),
        'paths', (select count(*) from counted c where c.kind = 5),
        'sessions', (select count(c.session) from counted c where c.kind = 6),
        'latency', (select array_to_json(percentile_disc(array[0.5, 0.95, 0.99, 1]) within group (order by s.ms))
                      from sampled s),
        'series', (select json_agg(json_build_array(round(date_part('epoch', l.at - v_since) / v_step), l.ms))
                     from (select s.at, percentile_disc(array[0.5, 0.95]) within group (order by s.ms) as ms
                             from sampled s group by s.at) l),
        'slowest', (select json_agg(json_build_array(o.method, o.path, c.requests, c.errors, o.ms)
                                    order by o.ms[2] desc, o.method, o.path)
                      from slowest o join counted c on c.kind = 5 and c.method = o.method and c.path = o.path))
      into v_report;
    return v_report;
end
$$;
