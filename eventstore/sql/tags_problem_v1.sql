-- What is wrong with the tags of one event, given as a text[] literal; null if nothing is.
create function @schema@.tags_problem_v1(tags text) returns text
language plpgsql immutable strict
set search_path = pg_catalog, @schema@, pg_temp
as $$
declare
    v_tags text[];
begin
    begin
        v_tags := tags::text[];
    exception when invalid_text_representation then
        return 'tags must be a text[] literal';
    end;
    if array_ndims(v_tags) > 1 or cardinality(v_tags) > 64 then
        return 'an event has at most 64 tags, in one dimension';
    elsif exists (select from unnest(v_tags) t(tag) where t.tag is null or t.tag = '' or length(t.tag) > 256) then
        return 'tags have 1 to 256 characters';
    elsif (select count(distinct t.tag) from unnest(v_tags) t(tag)) <> cardinality(v_tags) then
        return 'a tag stands twice';
    end if;
    return null;
end
$$;
