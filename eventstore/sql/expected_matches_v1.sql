-- Whether a stream at this version and state is what an append expects: an exact version, 0 = no stream, -1 = any,
-- -2 = exists. A deleted stream is none to those who ask, and goes on from its version when it is appended to.
create function @schema@.expected_matches_v1(expected bigint, version bigint, state text) returns boolean
language sql immutable parallel safe
as $$
    select state <> 'tombstoned'
       and (expected = -1 or expected = version and (state = 'live' or version = 0) or expected = 0 and state = 'deleted'
            or expected = -2 and version > 0 and state = 'live')
$$;
