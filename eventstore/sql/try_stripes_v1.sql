-- Takes the stripes of some events' types and tags (flat) without waiting, shared; tells whether all were free. Those taken
-- before one that is not free stay with the transaction, which hurts nobody.
create function @schema@.try_stripes_v1(p_types text[], p_tags text[]) returns boolean
language sql volatile
as $$
    select coalesce(bool_and(pg_try_advisory_xact_lock_shared('@schema@.events'::regclass::oid::int, s.stripe)), false)
      from (select stripe_v1(2, t.type) from unnest(p_types) t(type)
            union
            select stripe_v1(1, t.tag) from unnest(p_tags) t(tag)) s(stripe)
$$;
