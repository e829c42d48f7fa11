-- The id of the subscription of that name; ES013 if there is none.
create function @schema@.find_subscription_v1(p_name text) returns bigint
language plpgsql stable
set search_path = pg_catalog, @schema@, pg_temp
as $$
declare
    v_id constant bigint := (select s.id from subscriptions s where s.name = p_name);
begin
    if v_id is null then
        raise exception 'there is no subscription %', quote_literal(p_name)
            using errcode = 'ES013', detail = json_build_object('name', p_name)::text;
    end if;
    return v_id;
end
$$;
