-- Trigger function: an event may be updated only into exactly its stub, and only while its stream's limits hide it.
-- A stub is the event without data, metadata and tags; everything else stays, columns of later revisions too. Of an
-- event with a hash the digest of its content takes the place of the salt, so that the chain still verifies. One without
-- keeps that digest alone, once the chain was on: from then on seals may have been made over it.
create function @schema@.stub_event_v1() returns trigger
language plpgsql
set search_path = pg_catalog, @schema@, pg_temp
as $$
declare
    v_stub events;
    v_hidden boolean;
begin
    v_stub := old;
    v_stub.data := null;
    v_stub.metadata := '{}';
    v_stub.tags := '{}';
    -- Read in a statement of its own, so that limits that were widened while the update ran count. What the event itself
    -- tells nearly always suffices; looking for the boundary of max_age takes ten times as long.
    select coalesce(old.version < s.truncate_before, false) or coalesce(old.version <= s.version - s.max_count, false)
        or coalesce(extract(epoch from clock_timestamp() - old.recorded_at) > s.max_age, false)
      into v_hidden
      from streams s where s.name = old.stream;
    if v_hidden is not true then
        v_hidden := old.version < first_visible_v1(old.stream);
    end if;
    -- Compared by their bytes, for json knows no equality.
    if old.data is null or new *<> v_stub or v_hidden is not true then
        raise exception 'UPDATE of events is refused: the log is append-only' using errcode = 'ES009',
            hint = 'Only scavenging removes the content of events, of those that their stream''s limits hide.';
    end if;
    if old.hash is not null then
        new.hash := event_content_v1(substr(old.hash, 1, 16), old.data, old.metadata, old.tags::text)
                    || substr(old.hash, 17);
    elsif (select c.last_value > 0 from event_chain c) then
        new.hash := event_content_v1('\x00000000000000000000000000000000', old.data, old.metadata, old.tags::text);
    end if;
    return new;
end
$$;
