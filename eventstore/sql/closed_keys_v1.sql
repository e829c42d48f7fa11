-- Those of the keys that still have a parked event that holds back later ones or is to be replayed.
create function @schema@.closed_keys_v1(p_subscription bigint, p_keys text[]) returns table (key text)
language sql stable security definer
set search_path = pg_catalog, @schema@, pg_temp
as $$
    select k.key from unnest(p_keys) k(key)
     where exists (select from parked p
                    where p.subscription_id = p_subscription and p.key = k.key
                      and p.state = 'parked' and (p.blocking or p.replay))
$$;
