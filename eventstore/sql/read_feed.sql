-- For psql and other languages: the log from a position on, in position order, never past the horizon, so that a
-- reader who goes on from the last position it got misses nothing.
--
--   select position, stream, type, data from eventstore.read_feed(after => 0);
--   select * from eventstore.read_feed(selector => '{"kind": "event_type", "types": ["OrderPlaced"]}');
--
-- It looks until it has max_count events or has reached the horizon of its start, in windows, so that none of its
-- queries has a plan for the whole log; statement_timeout bounds it as a whole.
create function @schema@.read_feed(after bigint default 0, max_count int default 1000, selector jsonb default null)
returns table (
    id uuid, type text, data json, metadata json, tags text[], stream text, version bigint, "position" bigint,
    created_at timestamptz, recorded_at timestamptz)
language plpgsql volatile security definer
set search_path = pg_catalog, @schema@, pg_temp
as $$
declare
    v_after bigint := after;
    v_left int := max_count;
    v_window bigint := 10000;
    v_upto bigint;
    v_row record;
begin
    loop
        for v_row in
            select r.* from read_events_v1(selector, v_after, p_limit => v_left, p_window => v_window, p_upto => v_upto) r
        loop
            if v_row.id is null then
                v_upto := v_row.horizon;
                v_after := v_row.window_end;
            else
                v_left := v_left - 1;
                id := v_row.id;
                type := v_row.type;
                data := v_row.data;
                metadata := v_row.metadata;
                tags := v_row.tags;
                stream := v_row.stream;
                version := v_row.version;
                position := v_row.position;
                created_at := v_row.created_at;
                recorded_at := v_row.recorded_at;
                return next;
            end if;
        end loop;
        exit when v_left = 0 or v_after >= v_upto;
        v_window := least(v_window * 4, 1000000);
    end loop;
end
$$;
