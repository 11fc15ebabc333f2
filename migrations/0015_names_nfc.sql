-- Names are kept in NFC from now on, and searched for in it. Only a database in UTF-8 knows the form.
-- By itself: the next migration locks the table, and a row that is locked here must not wait for
-- it.

do $$
begin
    update users
    set first_name = normalize(first_name, NFC), last_name = normalize(last_name, NFC)
    where first_name is not NFC normalized or last_name is not NFC normalized;
exception
    when feature_not_supported or syntax_error then
        raise warning 'names stay as they are: %', sqlerrm;
end $$;
