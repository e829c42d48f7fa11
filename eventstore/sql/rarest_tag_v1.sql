-- The tag that the fewest events carry, as far as ten tell: what all of them carry is best looked for, and best
-- locked, by that one.
create function @schema@.rarest_tag_v1(tags text[]) returns text
language plpgsql stable
set search_path = pg_catalog, @schema@, pg_temp
set enable_seqscan = off
as $$
declare
    v_tag text;
    v_count bigint;
    v_least bigint;
    v_rarest text := tags[1];
begin
    if cardinality(tags) = 1 then
        return v_rarest;
    end if;
    foreach v_tag in array tags loop
        -- In order, or a tag that is common among others' events would be looked for by walking these.
        select count(*) into v_count
          from (select from event_tags t where t.tag = v_tag order by t.position limit 10) f;
        if v_count < v_least or v_least is null then
            v_least := v_count;
            v_rarest := v_tag;
        end if;
    end loop;
    return v_rarest;
end
$$;
