-- ES014 if a position lies beyond the last one drawn: a checkpoint there would skip what is still to come.
create function @schema@.check_within_log_v1(p_name text, p_position bigint) returns void
language plpgsql volatile
set search_path = pg_catalog, @schema@, pg_temp
as $$
declare
    v_last constant bigint := pg_sequence_last_value('@schema@.event_positions'::regclass);
begin
    if p_position > v_last then
        raise exception 'the log ends at position %, and % lies beyond', v_last, p_position
            using errcode = 'ES014',
                  detail = json_build_object('name', p_name, 'checkpoint', p_position, 'last_position', v_last)::text;
    end if;
end
$$;
