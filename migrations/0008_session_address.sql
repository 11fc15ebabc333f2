-- By itself, as 0006 is: it asks for the table alone, and waits for whoever reads it. The release before uses the new one
-- in its place.
drop index sessions_user_id_idx;
