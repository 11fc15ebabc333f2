-- A refresh changes a session's expires_at. While an index holds that column each refresh writes a new entry into every
-- index of the table; without, PostgreSQL changes the row in its place (HOT), for which a page keeps room. So a session
-- that ran out unused stays until its ends_at, 90 days after its login.
-- By itself: to drop an index asks for the table alone, and waits for whoever reads it. The release before finds its old
-- sessions by reading all of them, once an hour, for as long as it is still there.
drop index sessions_expires_at_idx;
alter table sessions set (fillfactor = 80);
