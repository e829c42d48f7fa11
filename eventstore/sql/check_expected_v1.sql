-- ES001 if a stream is not at its expected version (see expected_matches_v1), ES007 if it is closed for good.
-- Called with the rows locked.
create function @schema@.check_expected_v1(p_streams text[], p_expected bigint[]) returns void
language plpgsql volatile
set search_path = pg_catalog, @schema@, pg_temp
as $$
declare
    v_row record;
begin
    for v_row in
        select s.name, n.expected, s.state, case when s.state = 'live' then s.version else 0 end as actual
          from unnest(p_streams, p_expected) n(name, expected) join streams s on s.name = n.name
         where not expected_matches_v1(n.expected, s.version, s.state)
         limit 1
    loop
        if v_row.state = 'tombstoned' then
            raise exception 'stream % is closed for good by a tombstone', v_row.name
                using errcode = 'ES007', detail = json_build_object('stream', v_row.name)::text;
        end if;
        raise exception 'stream % is at version %, not at the expected %', v_row.name, v_row.actual, v_row.expected
            using errcode = 'ES001', detail = json_build_object(
                'stream', v_row.name, 'expected', v_row.expected, 'actual', v_row.actual)::text;
    end loop;
end
$$;
