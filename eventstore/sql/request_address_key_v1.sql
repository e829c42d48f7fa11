-- The secret that client addresses are hashed with, made by whoever asks first: all nodes of the schema share it.
--
-- Two that ask first at once meet at the table's one row: the loser waits for the winner's commit, and reads its key
-- in a statement of its own, whose snapshot is newer. Random as gen_random_uuid() is: 244 bits of it.
create function @schema@.request_address_key_v1() returns bytea
language plpgsql volatile security definer
set search_path = pg_catalog, @schema@, pg_temp
as $$
declare
    v_key bytea;
begin
    select k.key into v_key from request_keys k;
    if v_key is null then
        insert into request_keys (key) values (sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())))
            on conflict do nothing;
        select k.key into v_key from request_keys k;
    end if;
    return v_key;
end
$$;
