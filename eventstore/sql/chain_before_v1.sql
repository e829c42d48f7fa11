-- What the hash of an event links to: the last 32 bytes of the hash of the event before it in its stream. 32 zeros if
-- there is none, or it has no hash; so for all events without a stream.
--
-- A hash has 48 bytes, 16 of salt and the link; in a stub 64, the content's digest and the link. A stub of an event
-- without a hash has the digest alone.
create function @schema@.chain_before_v1(p_stream text, p_version bigint) returns bytea
language plpgsql stable
as $$
declare
    c_none constant bytea := '\x0000000000000000000000000000000000000000000000000000000000000000';
    v_hash bytea;
begin
    if p_stream is null or p_version = 1 then
        return c_none;
    end if;
    select e.hash into v_hash from events e where e.stream = p_stream and e.version = p_version - 1;
    return case octet_length(v_hash) when 48 then substr(v_hash, 17) when 64 then substr(v_hash, 33) else c_none end;
end
$$;
