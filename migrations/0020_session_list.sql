-- A user's sessions, the newest login first: their ids are in the order of the logins. Those that
-- have ended, nearly all of an account that logs in for each call, are not in it, so that a page
-- costs what its own rows do.
create index sessions_list_idx on sessions (user_id, id) where ended_at is null;
-- Whether a device has logged in before is asked where its address has not.
create index sessions_device_idx on sessions (user_id, device_hash) where device_hash is not null;
