-- Floors as they are to be stored: null if none of them lies above the checkpoint of its bucket's partition, where they
-- say nothing.
create function @schema@.useful_floors_v1(p_subscription bigint, p_floors bigint[]) returns bigint[]
language sql stable
set search_path = pg_catalog, @schema@, pg_temp
as $$
    select case when exists (
        select from unnest(p_floors) with ordinality f(floor, number)
          join subscriptions s on s.id = p_subscription
          join checkpoints c on c.subscription_id = s.id and c.partition = (f.number - 1) % s.pool_size
         where f.floor > c.position) then p_floors end
$$;
