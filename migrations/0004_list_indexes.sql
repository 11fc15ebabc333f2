-- An index for every filter of the list of users, beside those for its orders. Whoever is rare is found by theirs and put
-- in order; whoever is common is soon met on the way through the order's. In between, among a million users, a page of
-- 20 reads some thousand rows at the most.

-- Staff and admins are few among many.
create index users_role_idx on users (role, created_at, id) where role <> 'user';
-- Verified (1) or not (0): either kind may be the rare one. The planner takes no boolean expression for an index key.
create index users_verified_idx on users (num_nonnulls(email_verified_at), created_at, id);

-- A part of a name or an address is found by its groups of three letters, which is an extension of PostgreSQL that some
-- servers do not offer or do not let everybody add: there the search reads all users, and `doorward doctor` says so.
do $$
begin
    create extension if not exists pg_trgm;
    create index users_search_idx on users using gin
        (username_key gin_trgm_ops, email_key gin_trgm_ops, (lower(first_name || ' ' || last_name)) gin_trgm_ops);
exception
    -- raise_exception: a provider's own rule about extensions.
    when insufficient_privilege or raise_exception or undefined_file or feature_not_supported or undefined_object
        or invalid_schema_name or object_not_in_prerequisite_state then
        raise warning 'the search in the list of users has no index: %', sqlerrm;
end $$;
