-- The tenant as the policies of the tables ask for it that functions alone touch: current_tenant_v1, by an expression that
-- is inlined into each statement. Calling that function costs a statement more than most of them cost by themselves, and
-- it is needed only once a login was bound (tenant_bindings is not 0 from then on), or to refuse.
--
-- Volatile, as the question for the sequence is, or it would not be inlined; as a sub-query it is asked once all the same.
create function @schema@.tenant_v1() returns text
language sql volatile
as $$
    select case when pg_sequence_last_value('@schema@.tenant_bindings'::regclass) = 0
                 and current_setting('eventstore.tenant', true) ~ '^[A-Za-z0-9][A-Za-z0-9_.:-]{0,99}$'
                then current_setting('eventstore.tenant', true)
                else @schema@.current_tenant_v1() end
$$;
