-- Remembers how far streams are scavenged, so that the next scavenging goes on from there. p_upto: of each stream, the
-- version up to which all is done.
--
-- Locks the streams' rows, as every change of them does, so call it in a transaction of its own that ends at once. It
-- never waits: what an append holds is left out, and the next scavenging walks over that stream's stubs once more. Only
-- what is a stub counts, for readers begin after scavenged_to.
create function @schema@.mark_scavenged_v1(p_streams text[], p_upto bigint[]) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, @schema@, pg_temp
as $$
begin
    for i in 1 .. coalesce(cardinality(p_streams), 0) loop
        perform from streams s where s.name = p_streams[i] and s.scavenged_to < p_upto[i] for update skip locked;
        if found then
            update streams s set scavenged_to = p_upto[i]
             where s.name = p_streams[i] and s.version >= p_upto[i]
               and not exists (select from events e
                                where e.stream = p_streams[i] and e.version > s.scavenged_to
                                  and e.version <= p_upto[i] and e.data is not null);
        end if;
    end loop;
end
$$;
