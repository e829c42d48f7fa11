-- Trigger function: the tags of an event may be deleted only after it has become a stub (see stub_event_v1).
create function @schema@.stub_tags_v1() returns trigger
language plpgsql
set search_path = pg_catalog, @schema@, pg_temp
as $$
begin
    if not exists (select from events e where e.position = old.position and e.data is null) then
        raise exception 'DELETE of event_tags is refused: the log is append-only' using errcode = 'ES009',
            hint = 'Only scavenging removes the tags of events, of those that their stream''s limits hide.';
    end if;
    return old;
end
$$;
