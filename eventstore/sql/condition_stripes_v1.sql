-- The stripes that a condition holds exclusively, see lock_stripes_v1.
create function @schema@.condition_stripes_v1(p_condition jsonb) returns int[]
language plpgsql volatile
as $$
declare
    v_item jsonb;
    v_type text;
    v_stripes int[] := '{}';
begin
    for i in 0 .. jsonb_array_length(p_condition -> 'items') - 1 loop
        v_item := p_condition -> 'items' -> i;
        if v_item ? 'tags' then
            v_stripes := v_stripes || stripe_v1(1, rarest_tag_v1(text_array_v1(v_item -> 'tags')));
        elsif v_item ? 'stream' then
            v_stripes := v_stripes || stripe_v1(3, v_item ->> 'stream');
        elsif v_item ? 'types' then
            foreach v_type in array text_array_v1(v_item -> 'types') loop
                v_stripes := v_stripes || stripe_v1(2, v_type);
            end loop;
        else
            v_stripes := v_stripes || 128;
        end if;
    end loop;
    return v_stripes;
end
$$;
