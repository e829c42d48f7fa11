-- The positions of the parked events an operator means: all, those of one key, or one. ES006 if there is none at that
-- position. Call it with the subscription locked.
create function @schema@.chosen_parked_v1(p_subscription bigint, p_position bigint, p_key text) returns bigint[]
language plpgsql stable
set search_path = pg_catalog, @schema@, pg_temp
as $$
declare
    v_found bigint[];
begin
    if p_position is not null and p_key is not null then
        raise exception 'name a position or a key, not both' using errcode = 'ES006';
    elsif p_position is not null then
        v_found := array(select p.position from parked p
                          where p.subscription_id = p_subscription and p.position = p_position and p.state = 'parked');
        if v_found = '{}' then
            raise exception 'no event is parked at position %', p_position using errcode = 'ES006';
        end if;
    elsif p_key is not null then
        v_found := array(select p.position from parked p
                          where p.subscription_id = p_subscription and p.key in ('s:' || p_key, 'e:' || lower(p_key))
                            and p.state = 'parked');
    else
        v_found := array(select p.position from parked p
                          where p.subscription_id = p_subscription and p.state = 'parked');
    end if;
    return v_found;
end
$$;
