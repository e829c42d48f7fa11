-- Takes free partitions, up to this node's fair share, of the subscriptions it handles (p_names; p_fallback only while
-- nobody else does), each with a higher epoch, which fences whoever owned it before. Never those it says it holds, which
-- run there or have not quite ended. On the way it removes nodes whose lease ran out, and applies resizes that waited.
--
-- Returns what it took, then one closing row with subscription_id null, whose partition is how many of its share it did
-- not get although nobody runs them: others had them locked, so it is worth asking again soon.
--
-- Locks, in this order, and waits for none of them but the second: dead nodes; new subscriptions (a deletion of one is
-- waited for); what it frees; what it resizes; the partitions it takes; control. This node's row is locked too (key
-- share), so that nobody takes it for dead before the claim ends; renewals go on. SKIP LOCKED on the partitions: two
-- claimants share them out instead of waiting for each other.
--
-- Partitions are locked by one statement and taken by the next, whose newer snapshot decides: a resize or a pause that
-- came in between is seen there, and none can come later, for it needs these locks.
create function @schema@.claim_partitions_v1(
    p_incarnation uuid, p_names text[], p_fallback text[], p_held_subscriptions bigint[], p_held_partitions int[],
    p_now timestamptz default clock_timestamp())
returns table (subscription_id bigint, name text, partition int, checkpoint bigint, epoch bigint, pool_size int,
               selector jsonb, options jsonb, last_position bigint, floors bigint[], parked_revision bigint,
               parked boolean)
language plpgsql volatile security definer
set search_path = pg_catalog, @schema@, pg_temp
as $$
#variable_conflict use_column
declare
    v_changed boolean := remove_dead_nodes_v1(p_now);
    v_unheld record;
    v_resizes record;
    v_wanted_of bigint[];
    v_wanted int[];
    v_first int[];
    v_subscriptions bigint[];
    v_partitions int[];
begin
    perform from nodes n where n.incarnation = p_incarnation and n.lease_until > p_now for key share;
    if not found then
        raise exception 'the lease of this node ran out' using errcode = 'ES008';
    end if;
    v_changed := declare_handled_v1(p_incarnation, p_names, p_fallback) or v_changed;
    select f.freed, f.locked into v_unheld
      from free_unheld_v1(p_incarnation, p_held_subscriptions, p_held_partitions) f;
    v_changed := v_unheld.freed or v_changed;
    select r.applied, r.locked into v_resizes from apply_resizes_v1(p_incarnation) r;
    select array_agg(w.subscription_id), array_agg(w.wanted), array_agg(w.first) into v_wanted_of, v_wanted, v_first
      from wanted_partitions_v1(p_incarnation, p_held_subscriptions, p_held_partitions, p_now) w;
    select array_agg(f.subscription_id), array_agg(f.partition) into v_subscriptions, v_partitions
      from unnest(v_wanted_of, v_wanted, v_first) w(subscription_id, wanted, first)
      join subscriptions s on s.id = w.subscription_id
     cross join lateral (
               select c.subscription_id, c.partition from checkpoints c
                where c.subscription_id = w.subscription_id and c.partition < s.pool_size
                  and c.owner is null and c.halted is null
                  and (c.subscription_id, c.partition) not in (
                          select h.subscription_id, h.partition
                            from unnest(p_held_subscriptions, p_held_partitions) h(subscription_id, partition))
                order by (c.partition + s.pool_size - w.first) % s.pool_size
                limit w.wanted for update skip locked) f;
    return query
    with taken as (
        update checkpoints c set owner = p_incarnation, epoch = c.epoch + 1
          from unnest(v_subscriptions, v_partitions) f(subscription_id, partition)
          join subscriptions s on s.id = f.subscription_id
         where c.subscription_id = f.subscription_id and c.partition = f.partition
           and c.owner is null and c.halted is null and c.partition < s.pool_size
           and s.state = 'active' and s.resize_to is null
        returning c.*
    )
    select t.subscription_id, s.name, t.partition, t.position, t.epoch, s.pool_size, s.selector, s.options,
           pg_sequence_last_value('@schema@.event_positions'::regclass), s.floors, t.parked_revision,
           exists (select from parked p
                    where p.subscription_id = t.subscription_id and p.bucket % s.pool_size = t.partition
                      and p.state = 'parked' and (p.blocking or p.replay))
           or exists (select from parked p
                       where p.subscription_id = t.subscription_id and p.bucket % s.pool_size = t.partition
                         and p.position > t.position)
      from taken t join subscriptions s on s.id = t.subscription_id;
    return query
    select null::bigint, null::text,
           v_unheld.locked + v_resizes.locked + coalesce(sum(least(m.wanted, m.free)), 0)::int, null::bigint, null::bigint, null::int,
           null::jsonb, null::jsonb, null::bigint, null::bigint[], null::bigint, null::boolean
      from missing_partitions_v1(p_incarnation, v_wanted_of, v_wanted, v_subscriptions,
                                 p_held_subscriptions, p_held_partitions, p_now) m;
    if v_changed or v_resizes.applied > 0 then
        perform changed_v1();
    end if;
end
$$;
