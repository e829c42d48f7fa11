-- The first version of a stream that its limits let readers see: everything below is hidden. Null without such a stream;
-- beyond the last version if they see nothing. p_now: the moment max_age counts back from, now by default.
--
-- What limits hide is always a range of versions from 1 on. Versions have no gaps, and recorded_at rises with them, as
-- both are given under the stream's row lock. So the boundary of max_age is found by halving, some twenty probes of the
-- key (stream, version) in a million events, whether they are scavenged or not. Where the server's clock was once set
-- back, the boundary lies off by as much.
create function @schema@.first_visible_v1(p_stream text, p_now timestamptz default null) returns bigint
language plpgsql stable
set search_path = pg_catalog, @schema@, pg_temp
as $$
declare
    v_now constant timestamptz := coalesce(p_now, clock_timestamp());
    v_row record;
    v_low bigint;
    v_high bigint;
    v_middle bigint;
    v_expired boolean;
begin
    select s.version, s.state, s.truncate_before, s.max_count, s.max_age, s.scavenged_to into v_row
      from streams s where s.name = p_stream;
    if not found then
        return null;
    elsif v_row.state <> 'live' then
        return v_row.version + 1;
    end if;
    v_low := greatest(v_row.scavenged_to + 1, v_row.truncate_before, v_row.version - v_row.max_count + 1);
    v_high := v_row.version + 1;
    while v_row.max_age is not null and v_low < v_high loop
        v_middle := v_low + (v_high - v_low) / 2;
        select extract(epoch from v_now - e.recorded_at) > v_row.max_age into v_expired
          from events e where e.stream = p_stream and e.version = v_middle;
        if v_expired then
            v_low := v_middle + 1;
        else
            v_high := v_middle;
        end if;
    end loop;
    return v_low;
end
$$;
