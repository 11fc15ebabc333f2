-- A refresh changes a session's expires_at. While an index holds that column each refresh writes a new entry into every
-- index of the table; without, PostgreSQL changes the row in its place (HOT), for which a page keeps room. So old rows
-- are found by ends_at, which never changes: one that expired unused stays until then, 90 days after its login.
create index sessions_ends_at_idx on sessions (ends_at);
drop index sessions_expires_at_idx;
alter table sessions set (fillfactor = 80);
