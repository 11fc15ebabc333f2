-- An address that waits to be confirmed is searched as well: without an index of its own each search
-- would read all users. As in 0004 it needs the extension, and is left out where that is.

do $$
begin
    create index users_pending_email_search_idx on users
        using gin (lower(pending_email) gin_trgm_ops) where pending_email is not null;
exception
    when undefined_object then
        raise warning 'the search for pending addresses has no index: %', sqlerrm;
end $$;
