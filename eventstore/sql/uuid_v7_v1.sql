-- A UUID version 7 (RFC 9562): milliseconds in the first 48 bits, the rest random. uuidv7() exists from PG 18 on.
create function @schema@.uuid_v7_v1() returns uuid
language sql volatile parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select encode(
        set_bit(set_bit(
            overlay(uuid_send(gen_random_uuid())
                    placing substring(int8send((extract(epoch from clock_timestamp()) * 1000)::bigint) from 3)
                    from 1 for 6),
            52, 1), 53, 1),
        'hex')::uuid
$$;
