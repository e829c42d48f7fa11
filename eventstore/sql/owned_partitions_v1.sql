-- The partitions a node owns; what it runs beyond these it has lost. And why it should give one back as soon as it can:
--
--   release   null: keep it; 'paused', 'resizing', 'not_handled', or 'share': more than its fair share (the highest ones)
create function @schema@.owned_partitions_v1(p_incarnation uuid, p_now timestamptz default clock_timestamp())
returns table (subscription_id bigint, partition int, epoch bigint, release text, parked_revision bigint)
language sql stable security definer
set search_path = pg_catalog, @schema@, pg_temp
as $$
    select c.subscription_id, c.partition, c.epoch,
           case when s.state = 'paused' then 'paused'
                when s.resize_to is not null then 'resizing'
                when f.share is null then 'not_handled'
                when row_number() over (partition by c.subscription_id order by c.partition) > f.share then 'share'
           end,
           c.parked_revision
      from checkpoints c
      join subscriptions s on s.id = c.subscription_id
      left join fair_shares_v1(p_incarnation, p_now) f on f.subscription_id = c.subscription_id
     where c.owner = p_incarnation
$$;
