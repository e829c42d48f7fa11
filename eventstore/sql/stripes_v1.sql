-- The stripes of an append's events: of their streams, types and tags (flat), and "any" (128). May name one twice.
create function @schema@.stripes_v1(p_streams text[], p_types text[], p_tags text[]) returns int[]
language plpgsql immutable
as $$
declare
    v_stripes int[];
    v_tag text;
begin
    if cardinality(p_types) = 1 then
        v_stripes := array[128, stripe_v1(2, p_types[1])];
        if p_streams[1] is not null then
            v_stripes := v_stripes || stripe_v1(3, p_streams[1]);
        end if;
        if p_tags is not null then
            foreach v_tag in array p_tags loop
                v_stripes := v_stripes || stripe_v1(1, v_tag);
            end loop;
        end if;
        return v_stripes;
    end if;
    return array(
        select 128
        union select stripe_v1(3, s.name) from unnest(p_streams) s(name) where s.name is not null
        union select stripe_v1(2, t.type) from unnest(p_types) t(type)
        union select stripe_v1(1, t.tag) from unnest(p_tags) t(tag));
end
$$;
