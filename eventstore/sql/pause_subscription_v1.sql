-- Pauses a subscription on every node: what runs is given back, nothing is claimed. False if it is paused already.
create function @schema@.pause_subscription_v1(p_name text) returns boolean
language plpgsql volatile security definer
set search_path = pg_catalog, @schema@, pg_temp
as $$
begin
    perform find_subscription_v1(p_name);
    -- Only its own row is locked: whoever runs a partition goes on until it hears of this.
    update subscriptions s set state = 'paused' where s.name = p_name and s.state <> 'paused';
    if not found then
        return false;
    end if;
    perform changed_v1();
    return true;
end
$$;
