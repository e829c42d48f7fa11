-- Stores a seal; it must be the next one. The signature is for who verifies to check (eventstore/evidence).
--
-- The key decides between two at once, the second of whom waits for the first; nobody else's seals wait for either.
create function @schema@.add_seal_v1(p_number bigint, p_seal text) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, @schema@, pg_temp
as $$
begin
    insert into seals (number, seal)
    select p_number, p_seal where p_number = (select coalesce(max(s.number), 0) + 1 from seals s)
        on conflict do nothing;
    if not found then
        raise exception 'seal % is not the next one; somebody else has sealed meanwhile', p_number
            using errcode = 'ES011';
    end if;
end
$$;
