-- The keys and values of an event's metadata as encoded, without those that say in which trace it was appended: a retry
-- runs in another one.
create function @schema@.untraced_v1(p_metadata json) returns text[]
language sql immutable
set search_path = pg_catalog, @schema@, pg_temp
as $$
    select coalesce(array_agg(array[m.key, m.value::text] order by m.ord), '{}')
      from json_each(p_metadata) with ordinality m(key, value, ord)
     where m.key not in ('traceparent', 'tracestate')
$$;
