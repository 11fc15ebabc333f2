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

-- Names are kept in NFC from now on, and searched for in it. Only a database in UTF-8 knows the
-- form.
do $$
begin
    update users
    set first_name = normalize(first_name, NFC), last_name = normalize(last_name, NFC)
    where first_name is not NFC normalized or last_name is not NFC normalized;
exception
    when feature_not_supported or syntax_error then
        raise warning 'names stay as they are: %', sqlerrm;
end $$;
