-- Stores a subscription and its partitions' checkpoints unless the name is taken; tells which, and what differs.
--
-- p_after: 0 or a position (JSON number), "current", or a time (JSON string), resolved here, once, so that any number
-- of nodes creating it at the same time agree on one start.
create function @schema@.create_subscription_v1(
    p_name text, p_selector jsonb, p_after jsonb, p_options jsonb, p_pool_size int)
returns table (created boolean, differing text[])
language plpgsql volatile security definer
set search_path = pg_catalog, @schema@, pg_temp
as $$
#variable_conflict use_column
declare
    v_start bigint;
    v_id bigint;
    v_row record;
begin
    perform selector_sql_v1(p_selector);
    v_start := start_position_v1(p_after);
    insert into subscriptions (name, key, selector, after, options, pool_size, start_position)
        values (p_name, md5(jsonb_build_array(p_selector, p_name)::text), p_selector, p_after, p_options, p_pool_size,
                v_start)
        on conflict on constraint subscriptions_name_key do nothing
        returning id into v_id;
    if v_id is null then
        select s.* into v_row from subscriptions s where s.name = p_name;
        return query select false, array_remove(array[
            case when v_row.selector <> p_selector then 'selector' end,
            case when v_row.after <> p_after then 'after' end,
            case when v_row.options <> p_options then 'options' end], null);
        return;
    end if;
    insert into checkpoints (subscription_id, partition, position)
        select v_id, n, v_start from generate_series(0, p_pool_size - 1) n;
    perform changed_v1();
    return query select true, '{}'::text[];
end
$$;
