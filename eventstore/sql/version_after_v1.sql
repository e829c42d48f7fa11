-- The first version of a stream that lies after a position, found by halving: positions rise with versions, and versions
-- have no gaps. One more than the stream has if none does.
create function @schema@.version_after_v1(p_stream text, p_position bigint) returns bigint
language plpgsql stable
set search_path = pg_catalog, @schema@, pg_temp
set enable_seqscan = off
as $$
declare
    v_first bigint := 1;
    v_end bigint := 1 + coalesce(
        (select e.version from events e where e.stream = p_stream order by e.version desc limit 1), 0);
    v_middle bigint;
begin
    while v_first < v_end loop
        v_middle := (v_first + v_end) / 2;
        if (select e.position from events e
             where e.stream = p_stream and e.version >= v_middle order by e.version limit 1) > p_position then
            v_end := v_middle;
        else
            v_first := v_middle + 1;
        end if;
    end loop;
    return v_first;
end
$$;
