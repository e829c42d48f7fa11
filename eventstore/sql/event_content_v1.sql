-- The digest of what scavenging removes from an event. The salt (16 random bytes; zeros where the event has no hash)
-- goes with the content, so that what is left of it tells nobody what it was. Texts end with a zero byte, which none of
-- them can hold. See eventstore/evidence/hashing.py, its twin.
--
--   p_tags   the tags as the text of a text[]
create function @schema@.event_content_v1(p_salt bytea, p_data json, p_metadata json, p_tags text) returns bytea
language sql stable
as $$
    select sha256(p_salt || convert_to(p_data::text, 'UTF8') || '\x00' || convert_to(p_metadata::text, 'UTF8') || '\x00'
                  || convert_to(p_tags, 'UTF8'))
$$;
