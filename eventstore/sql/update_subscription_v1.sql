-- Gives a subscription other options (its failure policy, its sink) while it keeps its place. Every partition gets a new
-- epoch, so that who runs one begins anew with them. Returns whether they differ from those it had.
-- Locks: see lock_subscription_v1.
create function @schema@.update_subscription_v1(p_name text, p_options jsonb) returns boolean
language plpgsql volatile security definer
set search_path = pg_catalog, @schema@, pg_temp
as $$
declare
    v_id constant bigint := lock_subscription_v1(p_name);
begin
    update subscriptions s set options = p_options where s.id = v_id and s.options <> p_options;
    if not found then
        return false;
    end if;
    update checkpoints c set epoch = c.epoch + 1 where c.subscription_id = v_id;
    perform changed_v1();
    return true;
end
$$;
