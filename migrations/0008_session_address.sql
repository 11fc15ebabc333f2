-- By itself, as the one before: it asks for the table alone, and waits for whoever reads it.
drop index sessions_user_id_idx;
